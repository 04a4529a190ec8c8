"""What tests share: a real nats-server each, small models made on the spot, skips that say why."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from broker.server import EmbeddedServer

# How quick a machine is just now says nothing of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Before numpy is imported. Tests share the cores: threads of its matrices wait for each other by spinning, which cost
# more than five times what they computed.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

SHARED = Path(__file__).parents[2] / "shared" / "data"
ORDER = ("unit", "integration", "model", "chaos", "real")
"""Of the folders, quick ones first: a mistake shows within seconds."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The order; in several processes what computes is given out first, to run beside all the rest."""
    place = {folder: index for index, folder in enumerate(ORDER)}
    items.sort(key=lambda item: place.get(item.path.parent.name, len(place)))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.parent.name in ORDER[:2])


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What modules and tests are made of stays: no search for garbage goes through its million objects, then or now."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of pytest-xdist, where tests run in several processes."""
    from tests.scheduling import ByFolder

    config.option.loadscopereorder = False
    return ByFolder(config, log)


def pytest_unconfigure() -> None:
    """llama_cpp opens /dev/null twice where it is imported, and leaves that to the interpreter's end, which warns."""
    if (opened := sys.modules.get("llama_cpp._utils")) is not None:
        opened.outnull_file.close()
        opened.errnull_file.close()


@pytest.fixture
def queue_names() -> list[str]:
    """Models whose streams `nats_server` has: a module that wants others says so."""
    return ["m"]


@pytest.fixture
async def nats_server(tmp_path: Path, queue_names: list[str]) -> AsyncIterator[EmbeddedServer]:
    """A nats-server with these streams."""
    async with EmbeddedServer(tmp_path / "server") as server:
        await server.ensure(queue_names)
        yield server


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def oasst_trees() -> Path:
    """The real OpenAssistant trees that lie beside a developer's checkout."""
    path = SHARED / "oasst_en_trees.jsonl"
    if not path.exists():
        pytest.skip(f"no OpenAssistant trees at {path.parent}: they are not part of the project")
    return path
