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
from workers import boards

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
        ("sidecar", "--influx-url", 'http://turnpike:a%b$c"d@pi:8086/turnpike'),
        ("mirror",),
    ],
)
def test_systemd_takes_the_unit_and_calls_it_safe(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    found, (unit, environment) = written(tmp_path, *arguments)
    assert found.returncode == 0, found.stderr
    assert "systemctl enable --now " + unit.stem in found.stdout
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
        parking = re.search(r'TURNPIKE_PARK_BYTES="(\d+)"', environment.read_text())
        assert parking is not None
        sizes.append(int(found[1]) - int(parking[1]))
    entry = read_catalogue()["llama-3-2-1b"]
    assert [size - boards.LIMIT_HEADROOM_BYTES for size in sizes] == [boards.plan(entry, n).total for n in (2048, 8192)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("worker",), "--model: which one?"),
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
        install(service, executable=Path("/bin/true"), user="root", units=tmp_path, environments=tmp_path)
