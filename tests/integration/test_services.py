"""Units as systemd itself reads them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from broker.catalogue import read_catalogue
from broker.errors import TurnpikeError
from broker.services import Service, install
from tests.support import TURNPIKE
from workers.machine import model_plan
from workers.models import DEMO

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


def written(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    where = ["--unit-dir", str(folder), "--environment-dir", str(folder), "--user", "root", "--executable", "/bin/true"]
    command = [*TURNPIKE, "install-service", *arguments, *where]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return found, [Path(line) for line in found.stdout.splitlines() if line.startswith("/")]


@needs_systemd
@pytest.mark.parametrize(
    "arguments",
    [
        ("broker", "--model", "llama-3-2-1b", "--model", "demo"),
        ("worker", "--model", "llama-3-2-1b", "--credentials", "/etc/turnpike/worker.credentials"),
        ("board", "--model", "llama-3-2-1b", "--model", "demo", "--credentials", "/etc/turnpike/board.credentials"),
        ("sidecar", "--influx-url", 'http://turnpike:a%b$c"d@pi:8086/turnpike'),
        ("mirror",),
        ("gateway", "--keys", "keys.toml", "--gateway-host", "0.0.0.0"),
        ("broker", "--tls-cert", "c.pem", "--tls-key", "k.pem", "--tls-ca", "ca.pem"),
    ],
)
def test_systemd_takes_the_unit_and_calls_it_safe(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    found, (unit, environment) = written(tmp_path, *arguments)
    assert found.returncode == 0, found.stderr
    assert "systemctl enable --now " + unit.stem in found.stdout
    # The kernel ends what makes a grammar, or a board's worker, before the service itself.
    assert "OOMPolicy=continue\n" in unit.read_text()
    assert environment.stat().st_mode & 0o777 == 0o600
    said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert unit.name not in said.stderr, said.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit], capture_output=True, text=True
    )
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", rated.stdout)
    assert exposure is not None, rated.stdout + rated.stderr
    assert float(exposure[1]) < 4.0, rated.stdout


def test_settings_are_in_a_private_file_and_not_in_the_unit(tmp_path: Path) -> None:
    url = 'http://turnpike:a%b$c"d@pi:8086/turnpike'
    _, (unit, environment) = written(tmp_path, "sidecar", "--influx-url", url)
    assert "a%b" not in unit.read_text()
    assert 'a%b$c\\"d' in environment.read_text()
    assert "TURNPIKE_WAIT_SECONDS" in environment.read_text()


def test_a_workers_memory_limit_follows_from_its_plan(tmp_path: Path) -> None:
    sizes = []
    for num_ctx in ("2048", "8192"):
        _, (unit, environment) = written(tmp_path, "worker", "--model", "llama-3-2-1b", "--num-ctx", num_ctx)
        assert f'TURNPIKE_NUM_CTX="{num_ctx}"' in environment.read_text()
        found = re.search(r"^MemoryMax=(\d+)$", unit.read_text(), re.MULTILINE)
        assert found is not None
        offload_cache = re.search(r'TURNPIKE_PARK_BYTES="(\d+)"', environment.read_text())
        assert offload_cache is not None
        sizes.append(int(found[1]) - int(offload_cache[1]))
    entry = read_catalogue()["llama-3-2-1b"]
    assert [size - model_plan.LIMIT_HEADROOM_BYTES for size in sizes] == [
        model_plan.plan(entry, n).total for n in (2048, 8192)
    ]


def test_paths_are_absolute_wherever_it_is_installed_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "turnpike.models.lock").touch()
    _, (_, environment) = written(
        tmp_path, "worker", "--model", "llama-3-2-1b", "--models-dir", "m", "--credentials", "c", "--tls-ca", "ca.pem"
    )
    text = environment.read_text()
    for name, value in (
        ("LOCK_FILE", "turnpike.models.lock"),
        ("MODELS_DIR", "m"),
        ("CREDENTIALS", "c"),
        ("TLS_CA", "ca.pem"),
    ):
        assert f'TURNPIKE_{name}="{tmp_path / value}"' in text
    _, (_, environment) = written(tmp_path, "gateway", "--keys", "k", "--routes", "r", "--allow-anyone")
    assert f'TURNPIKE_KEYS="{tmp_path / "k"}"' in environment.read_text()
    assert 'TURNPIKE_ALLOW_ANYONE="true"' in environment.read_text()
    _, (_, environment) = written(tmp_path, "sidecar", "--influx-url", "file:points.lp", "--log-level", "DEBUG")
    assert f'TURNPIKE_INFLUX_URL="file:{tmp_path / "points.lp"}"' in environment.read_text()
    assert 'TURNPIKE_LOG_LEVEL="DEBUG"' in environment.read_text()
    _, (unit, _) = written(tmp_path, "sidecar", "--influx-url", "file:points/p.lp", "--data-dir", "my state")
    # Everything else is read only to a unit.
    assert f"ReadWritePaths=-{tmp_path}/points\n" in unit.read_text()
    assert f'ReadWritePaths="-{tmp_path}/my state"\n' in unit.read_text()
    _, (unit, _) = written(tmp_path, "broker", "--tls-cert", "c", "--tls-key", "k", "--tls-ca", "a")
    assert f"--tls-cert {tmp_path}/c --tls-key {tmp_path}/k --tls-ca {tmp_path}/a" in unit.read_text()


def test_a_worker_of_a_file_has_its_memory_limit_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Tiny.Q4.gguf").write_bytes(DEMO.path.read_bytes())
    found, (unit, environment) = written(tmp_path, "worker", "--model-file", "Tiny.Q4.gguf")
    assert unit.name == "turnpike-worker-Tiny_Q4.service", found.stderr
    assert f'TURNPIKE_MODEL_FILE="{tmp_path / "Tiny.Q4.gguf"}"' in environment.read_text()
    limit = re.search(r"^MemoryMax=(\d+)$", unit.read_text(), re.MULTILINE)
    offload_cache = re.search(r'TURNPIKE_PARK_BYTES="(\d+)"', environment.read_text())
    assert limit is not None
    assert offload_cache is not None
    planned = int(limit[1]) - int(offload_cache[1]) - model_plan.LIMIT_HEADROOM_BYTES
    assert DEMO.path.stat().st_size < planned < 1024**3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("worker",), "--model: which one?"),
        (("worker", "--model-file", "/nosuch.gguf"), "no such file"),
        (("broker", "--tls-cert", "c"), "--tls-cert, --tls-key and --tls-ca: TLS wants all three"),
        (("sidecar", "--keys", "k"), "--keys: nothing to a sidecar"),
        (("worker", "--model", "nothing"), "nothing is not in catalogue.toml"),
    ],
)
def test_what_cannot_be_installed_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    found, _ = written(tmp_path, *arguments)
    assert found.returncode != 0
    assert sentence in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


def test_a_line_break_does_not_get_into_a_unit(tmp_path: Path) -> None:
    service = Service("x", "x", ["a\nExecStartPre=b"])
    with pytest.raises(TurnpikeError, match="cannot stand in a unit file"):
        install(service, executable=[Path("/bin/true")], user="root", units=tmp_path, environments=tmp_path)
