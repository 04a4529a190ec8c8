"""Models that cannot be loaded, and boards that may try: what becomes of the turns that wait for them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from nats.aio.client import Client as NatsConnection

from broker import subjects
from broker.accounts import BOARD, WORKER
from broker.answer import TurnFailed
from broker.client import Client
from broker.connection import close, connect
from broker.delivery import Puller
from broker.errors import NotLoaded
from broker.messages.boards import BROKEN, SERVING
from broker.placing import Watch
from broker.priorities import INTERACTIVE
from broker.server import EmbeddedServer
from tests.board_fakes import SECONDS, is_in, model_of, reaping, running_board, until
from workers.boards import models
from workers.boards.queues import Queues


@pytest.fixture
def queue_names() -> list[str]:
    return ["a", "b"]


async def test_what_crashes_one_board_is_loaded_by_another_and_no_turn_ends_for_it(
    nats_server: EmbeddedServer, client: Client, watch: Watch, tmp_path: Path
) -> None:
    async with (
        reaping(nats_server),
        running_board(nats_server, tmp_path, {"a": "crashes"}, name="b1") as first,
        running_board(nats_server, tmp_path, {"a": "serves"}, name="b2") as second,
    ):
        await until(watch, lambda found: len(found.boards) == 2)
        answer = client.ask("a", "hello")
        await answer.publish()
        broken = await until(watch, is_in("a", BROKEN))
        assert broken.reason == "its worker was ended by SIGSEGV: starting a"
        await until(watch, is_in("a", SERVING, "b2"))
        assert (first.models(), second.models()) == (["a"], ["a"])
        assert await client.read(answer.turn.id) is None
        await answer.close()
        await first.end()
        await second.end()


async def test_what_no_board_can_load_ends_its_turns_with_one_error_and_is_tried_again_for_a_later_turn(
    nats_server: EmbeddedServer, client: Client, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the earliest when its time has come: until then a turn is refused at once, with the reason."""
    monkeypatch.setitem(models.FIRST_WAIT_SECONDS, True, 2.0)
    async with reaping(nats_server), running_board(nats_server, tmp_path, {"a": "broken", "b": "serves"}) as board:
        await until(watch, lambda found: model_of(found, "a"))
        answers = [client.ask("a", str(number)) for number in range(3)]
        for answer in answers:
            await answer.publish()
        why = "model 'a' cannot be loaded: model file m.gguf: is no model"
        for answer in answers:
            with pytest.raises(TurnFailed, match=f"^not_loaded: {why}$") as ended:
                async with asyncio.timeout(SECONDS):
                    await answer
            assert ended.value.failed.retryable
            assert 0 <= (ended.value.failed.retry_after or 0) <= 2.0
        with pytest.raises(NotLoaded, match=r"is no model; a board tries again in [0-2] s"):
            await client.until_served("a")
        broken = await until(watch, is_in("a", BROKEN))
        assert broken.num_failures == 1
        async with asyncio.timeout(SECONDS):
            status = await client.until_served("a", SECONDS)
        assert status is not None
        assert status.words().startswith("not loaded yet, about ")
        assert time.time() >= broken.retry_at
        assert board.models() == ["a"], "nothing is tried that nobody waits for"
        again = client.ask("a", "again")
        await again.publish()
        with pytest.raises(TurnFailed, match="is no model"):
            async with asyncio.timeout(SECONDS):
                await again
        broken = await until(
            watch, lambda found: one if (one := model_of(found, "a")) and one.num_failures > 1 else None
        )
        assert 3 < broken.retry_at - broken.since < 5
        assert board.models() == ["a", "a"]
        await board.end()


async def test_a_turn_behind_those_that_were_cancelled_in_the_queue_is_waiting_and_not_older_than_it_is(
    nats_server: EmbeddedServer, client: Client, operator: NatsConnection
) -> None:
    """The server may not count it then: its word on what is pending is not all."""
    nc = await connect(nats_server.address(BOARD), name="b")
    queues = Queues(nc)
    for number in range(3):
        await client.ask("a", str(number)).publish()
    assert (await queues.look({"a"}, set()))["a"].num_interactive == 3
    await client.cancel()
    async with reaping(nats_server), asyncio.timeout(SECONDS):
        while await queues.look({"a"}, set()):
            pass
    await asyncio.sleep(1.0)  # of age, which is what is measured
    await client.ask("a", "later").publish()
    found = (await queues.look({"a"}, set()))["a"]
    assert (found.num_interactive, found.num_batch) == (1, 0)
    assert found.oldest_interactive_seconds < 0.9
    worker = await connect(nats_server.address(WORKER), name="w")
    puller = Puller(worker, subjects.turns_stream("a"), INTERACTIVE)
    await puller.start()
    assert await puller.pull(SECONDS) is not None, "who takes turns has it all the same"
    await close(worker)
    await close(nc)
