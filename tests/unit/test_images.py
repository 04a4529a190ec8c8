"""`make images`: what docker or podman is asked for (here they only write it down), and what the manifests run then."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ROOT

ENGINE = """#!/bin/sh
printf '%s\\n' "$*" >>"$ENGINE_LOG"
[ "$*" != "buildx inspect" ] || echo "Driver: docker"
[ "$*" != "buildx inspect turnpike" ] || exit 1
[ "$1 $2" != "manifest exists" ] || exit 1
target=base
case "$*" in *worker*) target=worker ;; esac
[ "$target" = base ] && digest=$BASE_DIGEST || digest=$WORKER_DIGEST
while [ $# -gt 0 ]; do
    case "$1" in
        --metadata-file) printf '{\\n  "containerimage.digest": "%s",\\n  "image.name": "x"\\n}' "$digest" >"$2" ;;
        --digestfile) printf '%s' "$digest" >"$2" ;;
        --output) case "$2" in *.tar) : >"$2" ;; esac ;;
    esac
    shift
done
"""
BASE, WORKER = "sha256:" + "1" * 64, "sha256:" + "2" * 64
TOOLS = ("awk", "bash", "cat", "cp", "dirname", "git", "grep", "mkdir", "mktemp", "rm", "sed", "uname", "sh")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


class Checkout:
    """A copy of what the command reads, with engines that only write down what they are told."""

    def __init__(self, folder: Path, *engines: str) -> None:
        self.folder = folder
        self._log = folder / "engine.log"
        shutil.copytree(ROOT / "k3s", folder / "k3s")
        (folder / "tools").mkdir()
        for name in ("tools/images.sh", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "bin").mkdir()
        for name in TOOLS:
            if found := shutil.which(name):
                (folder / "bin" / name).symlink_to(found)
        for name in engines:
            (folder / "bin" / name).write_text(ENGINE)
            (folder / "bin" / name).chmod(0o755)

    def run(self, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.folder / "bin"), "HOME": str(self.folder), "ENGINE_LOG": str(self._log)}
        environment |= {"BASE_DIGEST": BASE, "WORKER_DIGEST": WORKER} | settings
        command = [str(self.folder / "tools/images.sh")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    @property
    def asked(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    @property
    def component(self) -> dict[str, dict[str, str]]:
        found = yaml.safe_load((self.folder / "k3s/images/kustomization.yaml").read_text())
        return {one["name"]: one for one in found["images"]}

    def images(self, overlay: str) -> set[str]:
        """Those of ours that an overlay runs."""
        command = ["kubectl", "kustomize", str(self.folder / "k3s" / overlay)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = {line.split("image: ")[1] for line in text.splitlines() if "image: " in line}
        return {image for image in found if "turnpike" in image}


needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="no kubectl here, which renders the overlays"
)


@pytest.mark.parametrize("engine", ["docker", "podman"])
@needs_kubectl
def test_pushed_images_are_what_every_overlay_runs_by_digest(engine: str, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, engine)
    found = checkout.run(REGISTRY="registry.local:5000/lab")
    assert found.returncode == 0, found.stderr
    name = "registry.local:5000/lab/turnpike"
    for overlay in ("overlays/single-node", "overlays/pi-cluster"):
        assert checkout.images(overlay) == {f"{name}@{BASE}", f"{name}@{WORKER}"}
    for overlay in ("overlays/pi-cluster-mirrored", "load"):
        assert f"{name}@{BASE}" in checkout.images(overlay) <= {f"{name}@{BASE}", f"{name}@{WORKER}"}
    builds = [line for line in checkout.asked if " build " in f" {line} " and "--target" in line]
    assert [line.partition("--target ")[2].split()[0] for line in builds] == ["base", "worker"]
    for line in builds:
        assert "--platform linux/amd64,linux/arm64" in line
        assert f"{name}:{VERSION}-" in line


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_without_a_registry_there_is_an_archive_for_the_nodes(engine: str, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, engine)
    checkout.run(REGISTRY="registry.local:5000")
    found = checkout.run(PLATFORMS="linux/arm64", TAG="try")
    assert found.returncode == 0, found.stderr
    archive = ".cache/images/turnpike-try-arm64.tar"
    assert f"sudo k3s ctr images import - <{archive}" in found.stdout
    assert (tmp_path / archive).exists()
    names = ("localhost/turnpike:try-base", "localhost/turnpike:try-worker")
    assert checkout.asked[-1].endswith(" ".join(("--output", archive, *names)))
    assert checkout.component["turnpike/worker"] == {
        "name": "turnpike/worker",
        "newName": "localhost/turnpike",
        "newTag": "try-worker",
    }


def test_docker_gets_a_builder_for_two_architectures(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, "docker")
    assert checkout.run(REGISTRY="r:5000", INSECURE="1").returncode == 0
    (created,) = (line for line in checkout.asked if line.startswith("buildx create"))
    assert "--driver docker-container" in created
    for line in (line for line in checkout.asked if line.startswith("buildx build")):
        assert "--builder turnpike" in line
        assert "--output type=registry,registry.insecure=true " in line


def test_a_dry_run_says_and_does_nothing(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, "podman")
    before = checkout.component
    found = checkout.run(REGISTRY="r:5000", DRY_RUN="1")
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("+ podman build ") == 2
    assert found.stdout.count("+ podman manifest push ") == 2
    assert {line.rpartition(" ")[0] for line in checkout.asked} == {"manifest exists"}
    assert checkout.component == before


@pytest.mark.parametrize(
    ("engines", "settings", "said"),
    [
        ((), {}, "neither docker nor podman was found"),
        (("docker",), {"ENGINE": "buildah"}, "ENGINE is docker or podman, not 'buildah'"),
        (("docker",), {"PLATFORMS": "linux/arm/v7"}, "not 'linux/arm/v7'"),
        (("docker",), {"PLATFORMS": "linux/arm64,linux/amd64"}, "without a registry an archive has one platform"),
        (("podman",), {"REGISTRY": "r:5000", "WORKER_DIGEST": ""}, "podman told no digest of r:5000/turnpike:"),
        (("docker",), {"REGISTRY": "r:5000", "BASE_DIGEST": "<none>"}, "docker told no digest of r:5000/turnpike:"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_changes_no_manifest(
    engines: tuple[str, ...], settings: dict[str, str], said: str, tmp_path: Path
) -> None:
    checkout = Checkout(tmp_path, *engines)
    before = checkout.component
    found = checkout.run(**settings)
    assert found.returncode == 1
    assert said in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert checkout.component == before


def test_the_images_are_named_in_one_place() -> None:
    for path in (ROOT / "k3s").rglob("kustomization.yaml"):
        names = {one["name"] for one in yaml.safe_load(path.read_text()).get("images", ())}
        ours = {name for name in names if name.startswith("turnpike/")}
        assert ours == ({"turnpike/base", "turnpike/worker"} if path.parent.name == "images" else set()), path


def test_the_images_hold_what_is_locked() -> None:
    command = [sys.executable, str(ROOT / "tools/image_locks.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@functools.cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_what_the_dockerfile_copies_is_there_and_is_sent() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    copied = []
    for line in (ROOT / "k3s/Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied += line.split()[1:-1]
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(Path(name).match(pattern) or pattern in map(str, Path(name).parents) for pattern in sent), name
    tools = project()["tool"]["setuptools"]
    packages = {pattern.rstrip("*") for pattern in tools["packages"]["find"]["include"]}
    modules = {f"{name}.py" for name in tools.get("py-modules", ())}
    assert packages | modules <= set(copied), "the image lacks a part of the distribution"


def test_the_scripts_are_executable_and_parse() -> None:
    for name in (
        "tools/images.sh",
        ".ci/run",
        *(f"k3s/image/{one}.sh" for one in ("llama", "packages", "tools", "turnpike")),
    ):
        assert os.access(ROOT / name, os.X_OK), name
        assert subprocess.run(["bash", "-n", str(ROOT / name)], check=False).returncode == 0, name
