"""The bucket PLACEMENT: who may write what, who gets a claim, and what expires."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from nats.aio.client import Client as NatsConnection

from broker import codec, jetstream, permissions, placing, publishing, subjects
from broker.accounts import BOARD, GATEWAY, LOCAL, REAPER, SIDECAR, WORKER
from broker.connection import close, connect
from broker.errors import NotAcknowledged, NotStored, ServerError
from broker.messages.boards import ALWAYS, NEVER, SERVING, Claim, Order
from broker.placing import Placement, Watch
from broker.server import EmbeddedServer
from tests.boards import board, on_board
from tests.support import freeze

STATE = board("pi-1", on_board("m", SERVING), on_board("other"))


@pytest.fixture
async def pi(nats_server: EmbeddedServer) -> AsyncIterator[NatsConnection]:
    """A board's connection."""
    nc = await connect(nats_server.address(BOARD), name="pi-1")
    yield nc
    await close(nc)


async def test_what_boards_say_and_operators_want_is_read_by_everybody(
    nats_server: EmbeddedServer, pi: NatsConnection, operator: NatsConnection
) -> None:
    claim, order = Claim("pi-1", "m"), Order("m", "pi-1", pin=ALWAYS, sent_at=5.0)
    await placing.announce(pi, board("pi-2"))
    await placing.announce(pi, STATE)
    assert await placing.claim(pi, claim)
    await placing.order(operator, order)
    expected = Placement((STATE, board("pi-2")), {("m", 0): claim}, {("m", "pi-1"): order})
    for user in (LOCAL, GATEWAY, WORKER, BOARD, REAPER, SIDECAR):
        nc = await connect(nats_server.address(user), name=user)
        assert await placing.read(nc) == expected, user
        await close(nc)
    await placing.withdraw(pi, "pi-2")
    assert await placing.boards(operator) == (STATE,)


async def test_of_boards_that_claim_at_once_one_gets_it_until_it_lets_go(pi: NatsConnection) -> None:
    claims = [Claim(f"pi-{number}", "m") for number in range(8)]
    taken = await asyncio.gather(*(placing.claim(pi, one) for one in claims))
    assert sum(taken) == 1
    winner, loser = claims[taken.index(True)], claims[taken.index(False)]
    assert (await placing.read(pi)).claims == {("m", 0): winner}
    assert await placing.claim(pi, winner), "renewed"
    assert not await placing.claim(pi, loser)
    assert await placing.claim(pi, Claim(loser.board, "m", 1)), "a second copy is another claim"
    await placing.release(pi, loser)
    assert not await placing.claim(pi, loser), "nobody lets go of what is another's"
    await placing.release(pi, winner)
    assert await placing.claim(pi, loser)


async def test_a_board_that_says_nothing_any_more_is_forgotten_and_an_order_is_not(
    pi: NatsConnection, operator: NatsConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "BOARD_SECONDS", 1)
    monkeypatch.setattr(placing, "CLAIM_SECONDS", 1)
    async with Watch(operator) as watch:
        await placing.order(operator, Order("m", pin=NEVER))
        await placing.announce(pi, STATE)
        assert await placing.claim(pi, Claim("pi-1", "m"))
        written_at = time.perf_counter()
        async with asyncio.timeout(10):
            while not (await placing.read(operator)).claims:
                pass
            while (found := await placing.read(operator)).boards or found.claims:
                await watch.changed(0.1)
        assert time.perf_counter() - written_at > 0.9
        assert found == Placement(orders={("m", None): Order("m", pin=NEVER)})
        assert watch.placement() == found, "also of who was told by nobody"
        assert await placing.claim(pi, Claim("pi-2", "m")), "whoever comes next has it"


async def test_a_watch_hears_what_was_stored_and_nothing_else(pi: NatsConnection) -> None:
    await placing.announce(pi, STATE)
    async with Watch(pi) as watch:
        assert watch.placement() == Placement((STATE,))
        await watch.changed(0)
        assert await placing.claim(pi, Claim("pi-1", "m"))
        assert await watch.changed(10)
        headers = {jetstream.LAST_SUBJECT_SEQUENCE: "0"}
        payload = codec.encode(Claim("pi-2", "m"))
        with pytest.raises(NotStored):
            await publishing.publish(pi, subjects.placed_claim("m", 0), payload, headers=headers)
        busier = board("pi-1", on_board("m", SERVING, num_in_hand=3))
        await placing.announce(pi, busier)
        assert await watch.changed(10)
        assert watch.placement() == Placement((busier,), {("m", 0): Claim("pi-1", "m")})
        await placing.release(pi, Claim("pi-1", "m"))
        await placing.withdraw(pi, "pi-1")
        async with asyncio.timeout(10):
            while watch.placement() != Placement():
                await watch.changed(10)


async def test_a_watch_that_was_away_reads_what_it_missed(pi: NatsConnection, operator: NatsConnection) -> None:
    await placing.announce(pi, STATE)
    async with Watch(operator) as watch:
        # Nobody is told of what an operator takes out of the stream, nor of a bucket that is made anew.
        await jetstream.api(operator, f"STREAM.PURGE.{subjects.KV_PLACEMENT}")
        assert watch.placement() == Placement((STATE,))
        await watch.refresh()
        assert watch.placement() == Placement()
        await placing.announce(pi, board("pi-2"))
        await watch.refresh()
        assert watch.placement() == Placement((board("pi-2"),))


async def test_a_board_of_hundreds_of_models_with_much_to_say_of_each_is_seen(pi: NatsConnection) -> None:
    models = [on_board(f"a-model-with-a-long-name-{number:03}", "broken", reason="x" * 500) for number in range(256)]
    await placing.announce(pi, board("pi-1", *models))
    (found,) = await placing.boards(pi)
    assert [one.model for one in found.models] == [one.model for one in models]
    assert {one.reason for one in found.models} == {"x" * placing.SHORT_REASON}
    await placing.announce(pi, board("pi-1", *models[:100]))
    (found,) = await placing.boards(pi)
    assert {one.reason for one in found.models} == {"x" * 500}


async def test_a_server_of_an_earlier_release_has_no_boards(pi: NatsConnection, operator: NatsConnection) -> None:
    await jetstream.api(operator, f"STREAM.DELETE.{subjects.KV_PLACEMENT}")
    started = time.perf_counter()
    assert await placing.read(pi) == Placement()
    async with Watch(pi) as watch:
        assert watch.placement() == Placement()
    assert time.perf_counter() - started < placing.READ_SECONDS, "nobody waits for an answer"


async def test_an_account_of_an_earlier_release_is_told_so_at_once_and_asks_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(permissions, "_PLACEMENT", "another.right")
    placing._tell_refused.cache_clear()
    async with EmbeddedServer(tmp_path / "server") as server:
        await server.ensure(["m"])
        nc = await connect(server.address(LOCAL), name="old")
        started = time.perf_counter()
        assert await placing.boards(nc) == ()
        sent = nc.stats["out_msgs"]
        assert [await placing.boards(nc) for _ in range(9)] == [()] * 9
        assert nc.stats["out_msgs"] == sent, "it is not asked for again soon"
        assert time.perf_counter() - started < placing.READ_SECONDS
        monkeypatch.setattr(placing, "REFUSED_SECONDS", 0.0)
        assert await placing.boards(nc) == ()
        assert nc.stats["out_msgs"] > sent, "the server may have been set up anew"
        assert time.perf_counter() - started < placing.READ_SECONDS
        await close(nc)
    (said,) = [one.getMessage() for one in caplog.records if "boards are not seen" in one.getMessage()]
    assert "`turnpike broker secret`" in said


async def test_where_the_server_does_not_answer_boards_are_not_there(
    nats_server: EmbeddedServer, pi: NatsConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "READ_SECONDS", 0.1)
    freeze(nats_server.pid)
    try:
        with pytest.raises(ServerError, match="KV_PLACEMENT: not read"):
            await placing.read(pi)
        assert await placing.boards(pi) == ()
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        (LOCAL, subjects.placed_board("pi-1")),
        (GATEWAY, subjects.placed_claim("m", 0)),
        (WORKER, subjects.placed_board("pi-1")),
        (BOARD, subjects.placed_order("m")),
    ],
)
async def test_nobody_speaks_for_boards_and_boards_do_not_for_operators(
    nats_server: EmbeddedServer, operator: NatsConnection, user: str, subject: str
) -> None:
    nc = await connect(nats_server.address(user), name=user)
    with pytest.raises(NotAcknowledged):
        await publishing.publish(nc, subject, b"", timeout=0.2)
    assert await jetstream.last_stored(operator, subjects.KV_PLACEMENT, subject) is None
    await close(nc)


async def test_an_entry_that_is_not_understood_costs_itself(pi: NatsConnection, operator: NatsConnection) -> None:
    await placing.announce(pi, STATE)
    for subject, payload in (
        (subjects.placed_board("pi-2"), b"\xc1"),
        (subjects.placed_board("pi-3"), codec.encode(board("pi-4"))),
        (subjects.placed_claim("m", 0), codec.encode(Claim("pi-1", "m", 1))),
        (subjects.ALL_PLACEMENT.replace(">", "heat.pi-1"), b"\x80"),
    ):
        await publishing.publish(operator, subject, payload)
    assert await placing.read(pi) == Placement((STATE,))
    async with Watch(pi) as watch:
        assert watch.placement() == Placement((STATE,))
    assert not await placing.claim(pi, Claim("pi-1", "m")), "what a later release claims stays claimed"


async def test_what_a_later_release_says_is_taken_as_far_as_it_is_understood(
    pi: NatsConnection, operator: NatsConnection
) -> None:
    fields = msgspec.to_builtins(STATE) | {"v": 1, "zeal": 1}
    served, other = fields["models"]
    odd = {"model": "new", "state": ["two", "words"], "planned_bytes": 1, "load_seconds": 1.0}
    fields["models"] = [served | {"mood": "good"}, odd, other]
    payload = msgspec.json.encode(fields)
    headers = {"Content-Type": codec.JSON}
    await operator.request(subjects.placed_board("pi-1"), payload, headers=headers)
    assert await placing.boards(pi) == (STATE,)


def test_what_is_said_of_a_board_counts_more_than_what_is_said_of_all() -> None:
    everywhere, here = Order("m", pin=ALWAYS), Order("m", "pi-1", pin=NEVER)
    placement = Placement(orders={("m", None): everywhere, ("m", "pi-1"): here, ("x", "pi-1"): Order("x", "pi-1")})
    assert placement.orders_for("m", "pi-1") == [everywhere, here]
    assert placement.orders_for("m", "pi-2") == [everywhere]
    assert [placement.pin("m", name) for name in ("pi-1", "pi-2")] == [NEVER, ALWAYS]
    assert placement.pin("x", "pi-1") is None
