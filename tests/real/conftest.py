"""One worker of each real model, for all tests that ask it and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from producers.local_system import LocalSystem
from tests.real import GEMMA, QWEN
from tests.real.serving import served

FLAGS = ("--num-ctx", "8192", "--num-slots", "8")
COALESCE = {QWEN: "0", GEMMA: "0.5"}
"""How long a worker's chunks gather: 0 sends each token."""


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def system(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalSystem]:
    """The worker of the model that the parameter names, as `m`. Whoever asks it runs in the session's event loop."""
    name: str = request.param
    folder = tmp_path_factory.mktemp("system")
    async with served(name, folder, *FLAGS, "--coalesce-seconds", COALESCE[name]) as found:
        yield found
