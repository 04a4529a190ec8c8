"""How far a load is, as a board tells it of a real model: all of it counts, and what is left is about right."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from nats.aio.client import Client as NatsConnection

from broker import placing
from broker.accounts import BOARD, OPERATOR, write_credentials
from broker.connection import close, connect
from broker.messages.boards import AVAILABLE, LOADING, SERVING, Order
from broker.model_status import progress
from broker.placing import Watch
from broker.process import spawn, terminate
from broker.server import EmbeddedServer
from tests.board_fakes import is_in, model_of, state_of, until
from tests.real import GEMMA, real_model
from tests.support import TURNPIKE, lock_files
from workers.llama.context import LlamaModel

SECONDS = 120.0
PATIENCE = 4.0
"""How many times longer or shorter than was told it may take, on a machine that has other things to do."""


def test_llama_cpp_tells_how_much_it_has_loaded() -> None:
    shares: list[float] = []
    LlamaModel(real_model(GEMMA), heard=shares.append).close()
    assert shares == sorted(shares)
    assert (shares[0] < 0.5, shares[-1]) == (True, 1.0)
    assert len(shares) > 10


async def loaded(operator: NatsConnection, watch: Watch) -> list[tuple[float, float, float]]:
    """Has the model loaded; what was told meanwhile: how much was done, how many seconds were left, and how many it
    took from then on."""
    await placing.order(operator, Order("g", load=True, sent_at=time.time()))
    told: list[tuple[float, float, float]] = []
    async with asyncio.timeout(SECONDS):
        while (one := model_of(watch.placement(), "g")) is None or one.state != SERVING:
            state = state_of(watch.placement())
            if one is not None and state is not None and one.state == LOADING and one.loaded is not None:
                share, left = progress(one, state)
                assert share is not None
                told.append((share, left, time.monotonic()))
            await watch.changed(1.0)
    return [(share, left, time.monotonic() - at) for share, left, at in told]


async def test_a_load_is_told_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    lock_files(tmp_path, {"g": real_model(GEMMA)})
    async with EmbeddedServer(tmp_path / "server") as server:
        await server.ensure(["g"])
        write_credentials(tmp_path / "board.credentials", server.address(BOARD))
        command = [*TURNPIKE, "board", "--credentials", tmp_path / "board.credentials", "--node", "b1"]
        command += ["--lock-file", tmp_path / "lock", "--models-dir", tmp_path / "models"]
        command += ["--data-dir", tmp_path / "data"]
        command += ["--board-dir", tmp_path / "kept", "--num-ctx", "1024", "--num-slots", "2", "--log-level", "WARNING"]
        operator = await connect(server.address(OPERATOR), name="operator")
        board = await spawn([*map(str, command)])
        try:
            async with Watch(operator) as watch:
                await until(watch, is_in("g", AVAILABLE))
                await loaded(operator, watch)  # it is verified, and measured
                await placing.order(operator, Order("g", load=False, sent_at=time.time()))
                await until(watch, is_in("g", AVAILABLE))
                told = await loaded(operator, watch)
        finally:
            await terminate(board, 10.0)
            await close(operator)
    shares = [share for share, _, _ in told]
    assert len(told) >= 2
    assert shares == sorted(shares)
    assert max(shares) < 1
    # Not most of it is told when the file has been read, and nothing of the rest.
    assert any(0.1 < share < 0.95 for share in shares)
    for share, left, took in told:
        if share > 0.2:
            assert left <= PATIENCE * took + 1.0, told
            assert took <= PATIENCE * left + 1.0, told
