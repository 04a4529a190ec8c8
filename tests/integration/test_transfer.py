"""A conversation's state goes to the worker that has its turn; where it does not come, the turn is computed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg

from broker import codec, subjects
from broker.accounts import WORKER
from broker.client import Client
from broker.connection import connect
from broker.jetstream import last_stored
from broker.messages import (
    Done,
    FetchClose,
    FetchOpen,
    FetchPart,
    FetchRefused,
    FetchRequest,
    Holding,
    Message,
    Opened,
    Sampling,
    StatePart,
)
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine, FakeRenderer
from tests.integration.conftest import Running, StartWorker
from tests.integration.test_offloading import Conversation as Talk
from tests.kv_fakes import LAYOUT, WITH_CHECKPOINTS
from tests.support import answer_to, eventually
from workers.kv.cache import OffloadCache
from workers.kv.checks import checksum
from workers.kv.disk import Disk
from workers.kv.giver import MAX_TRANSFERS
from workers.kv.index import packed
from workers.prompts.history import History

TEXT = "What is the weather like on the mast today, and what will it be tomorrow? " * 4
FAST = 1e9
DEAR, CHEAP = 0.01, 1e-6
"""Seconds that a token counts, and does not take: computing a question counts for more than a transfer, or for less."""


def slow_engine(can_remove_part: bool = True) -> FakeEngine:
    """One whose tokens are dear enough to be fetched, and whose answers' texts do not give their tokens back."""
    return FakeEngine(num_ctx=20_000, counted_token_seconds=DEAR, is_ambiguous=True, can_remove_part=can_remove_part)


def kept(can_remove_part: bool, disk: Disk | None = None) -> dict[str, Any]:
    return {
        "offload_cache": OffloadCache(1_000_000, disk, can_remove_part=can_remove_part),
        "fetch_bytes_per_second": FAST,
    }


def of_each_kind[T: Callable[..., object]](test: T) -> T:
    """Of memories that can be cut anywhere, and of those that can be taken back to checkpoints alone."""
    marked: T = pytest.mark.parametrize("can_remove_part", [True, False], ids=["cut anywhere", "checkpoints"])(test)
    return marked


class Conversation(Talk):
    """One whose questions are long, on whatever worker."""

    def __init__(self, client: Client, name: str = "c") -> None:
        super().__init__(client, name)

    def question(self) -> str:
        return f"{len(self.messages)}: {TEXT}"

    async def until(self, worker: str) -> Done:
        """Goes on until that worker has answered: turns go to whoever asks for them."""
        for _ in range(50):
            if (done := await self.next()).worker == worker:
                return done
        raise AssertionError(f"{worker} has had no turn")


async def directory(nc: NatsConnection, conversation: str = "c") -> Holding:
    stored = await last_stored(nc, subjects.KV_HELD, subjects.held("m", "local", conversation))
    assert stored is not None
    return codec.decode(stored.payload, Holding, stored.headers)


@of_each_kind
async def test_a_conversation_that_changes_its_worker_is_not_computed_twice(
    client: Client, start_worker: StartWorker, can_remove_part: bool
) -> None:
    engine = slow_engine(can_remove_part)
    async with start_worker(slow_engine(can_remove_part), **kept(can_remove_part)):
        conversation = Conversation(client)
        await conversation.next()
        async with start_worker(engine, name="w2", **kept(can_remove_part)) as running:
            done = await conversation.until("w2")
            assert done.usage.cached_in == "peer"
            assert done.usage.recomputed_tokens == 0
            assert done.usage.prompt_tokens - done.usage.cached_tokens < len(TEXT) + 40
            assert 0 < done.timings.fetch < 1
            assert (await directory(running.nc)).worker == "w2"
            # Back and forth, and still each token is computed once.
            seen = [await conversation.next() for _ in range(10)]
            assert {one.worker for one in seen} == {"w1", "w2"}
            assert all(one.usage.recomputed_tokens == 0 for one in seen)


@of_each_kind
async def test_a_state_that_was_parked_is_given_too(
    client: Client, start_worker: StartWorker, can_remove_part: bool
) -> None:
    engine = FakeEngine(num_slots=1, num_ctx=3000, counted_token_seconds=DEAR, can_remove_part=can_remove_part)
    async with start_worker(engine, **kept(can_remove_part)) as running:
        conversation = Conversation(client)
        await conversation.next()
        await client.ask("m", "x" * 1500, conversation="other", sampling=Sampling(max_tokens=1200))
        assert running.cache.stats.num_in_ram == 1
        async with start_worker(slow_engine(can_remove_part), name="w2", **kept(can_remove_part)):
            done = await conversation.until("w2")
    assert done.usage.cached_in == "peer"
    assert done.usage.recomputed_tokens == 0


@of_each_kind
async def test_a_worker_that_was_started_anew_gives_what_is_on_its_disk_and_remembers_its_tokens(
    client: Client, start_worker: StartWorker, tmp_path: Path, can_remove_part: bool
) -> None:
    conversation = Conversation(client)
    engine, layout = slow_engine(can_remove_part), LAYOUT if can_remove_part else WITH_CHECKPOINTS
    old = History(FakeRenderer(), engine.vocabulary)
    disk = Disk(tmp_path, 1_000_000, layout, lambda key: old.recall(key.client, key.conversation))
    async with start_worker(engine, history=old, **kept(can_remove_part, disk)):
        await conversation.next()
        await conversation.next()
    engine = slow_engine(can_remove_part)
    new = History(FakeRenderer(), engine.vocabulary)
    disk = Disk(tmp_path, 1_000_000, layout)
    disk.open(lambda key, told: new.adopt(key.client, key.conversation, told))
    async with start_worker(engine, name="w1b", history=new, **kept(can_remove_part, disk)) as running:
        async with asyncio.timeout(10):
            while (await directory(running.nc)).worker != "w1b":
                pass
        async with start_worker(slow_engine(can_remove_part), name="w2", **kept(can_remove_part)):
            done = await conversation.next()
    assert done.usage.cached_in == {"w1b": "disk", "w2": "peer"}[done.worker]
    assert done.usage.recomputed_tokens == 0
    assert done.usage.prompt_tokens - done.usage.cached_tokens < len(TEXT) + 40


async def test_a_peer_that_is_gone_or_has_another_model_file_means_computing_and_is_counted(
    client: Client, start_worker: StartWorker
) -> None:
    conversation = Conversation(client)
    async with start_worker(slow_engine(), offload_cache=OffloadCache(1_000_000), fetch_bytes_per_second=FAST):
        await conversation.next()
    async with start_worker(
        slow_engine(), name="w2", offload_cache=OffloadCache(1_000_000), fetch_bytes_per_second=FAST
    ):
        done = await conversation.next()
        assert done.usage.recomputed_for == "killed"
        assert done.usage.recomputed_tokens > len(TEXT)
    other = start_worker(
        slow_engine(),
        name="w3",
        offload_cache=OffloadCache(1_000_000),
        fetch_bytes_per_second=FAST,
        fingerprint="other",
    )
    async with other:
        done = await conversation.next()
        assert done.usage.recomputed_for == "fingerprint"
        assert done.usage.recomputed_tokens > len(TEXT)


async def test_what_is_computed_sooner_than_fetched_is_computed(client: Client, start_worker: StartWorker) -> None:
    def quick(name: str) -> AbstractAsyncContextManager[Running]:
        engine = FakeEngine(counted_token_seconds=CHEAP)
        return start_worker(engine, name=name, offload_cache=OffloadCache(1_000_000), fetch_bytes_per_second=FAST)

    async with quick("w1"):
        conversation = Conversation(client)
        await conversation.next()
        async with quick("w2"):
            done = await conversation.until("w2")
    assert done.usage.recomputed_for == "cheaper"


# --- Peers that do not what they should ---

Answer = Callable[[FetchRequest], msgspec.Struct | None]


@asynccontextmanager
async def ghost(
    server: EmbeddedServer, conversation: Conversation, answer: Answer
) -> AsyncIterator[list[FetchRequest]]:
    """A peer of the test's own that says that it has the conversation; what it was asked."""
    asked: list[FetchRequest] = []
    nc = await connect(server.address(WORKER), name="ghost")

    async def on_request(message: Msg) -> None:
        request: FetchRequest = codec.decode(message.data, FetchRequest, message.headers)
        asked.append(request)
        if message.reply and (given := answer(request)) is not None:
            await message.respond(codec.encode(given))

    try:
        await nc.subscribe(subjects.kv("ghost"), cb=on_request)
        holding = Holding("ghost", "f", 400, 8 + 4 * 400)
        await nc.publish(subjects.held("m", "local", "c"), codec.encode(holding))
        await nc.flush()
        conversation.messages += [Message("user", TEXT), Message("assistant", "echo")]
        yield asked
    finally:
        await nc.close()


TOKENS = FakeEngine().vocabulary.tokenize(f"user: {TEXT}\nassistant: echo", template_spans=[], add_bos=True)
STATE = b"fake    " + packed(TOKENS)


def opened(state: bytes = STATE, tokens: list[int] = TOKENS, fingerprint: str = "f") -> Opened:
    return Opened("t", fingerprint, packed(tokens), len(state), 0, checksum(packed(tokens), STATE))


def honest(request: FetchRequest) -> msgspec.Struct | None:
    match request:
        case FetchOpen():
            return opened()
        case FetchPart(offset=offset, size=size):
            return StatePart(offset, STATE[offset : offset + size])
    return None


def dies_in_mid_transfer(request: FetchRequest) -> msgspec.Struct | None:
    return FetchRefused("gone") if isinstance(request, FetchPart) else honest(request)


def changes_a_byte(request: FetchRequest) -> msgspec.Struct | None:
    given = honest(request)
    return (
        StatePart(given.offset, bytes([given.data[0] ^ 1]) + given.data[1:]) if isinstance(given, StatePart) else given
    )


def sends_less(request: FetchRequest) -> msgspec.Struct | None:
    given = honest(request)
    return StatePart(given.offset, given.data[:-1]) if isinstance(given, StatePart) else given


def has_another_shape(request: FetchRequest) -> msgspec.Struct | None:
    return opened(STATE + b"more") if isinstance(request, FetchOpen) else honest(request)


def has_another_model(request: FetchRequest) -> msgspec.Struct | None:
    return opened(fingerprint="other") if isinstance(request, FetchOpen) else honest(request)


def has_nothing(request: FetchRequest) -> msgspec.Struct | None:
    return FetchRefused("gone")


def is_busy(request: FetchRequest) -> msgspec.Struct | None:
    return FetchRefused("busy")


def talks_nonsense(request: FetchRequest) -> msgspec.Struct | None:
    return Holding("ghost", "f", 1, 1)


async def ask_beside(
    server: EmbeddedServer, client: Client, start_worker: StartWorker, answer: Answer, token_seconds: float = DEAR
) -> tuple[Done, Running]:
    conversation = Conversation(client)
    async with (
        ghost(server, conversation, answer),
        start_worker(
            FakeEngine(counted_token_seconds=token_seconds),
            offload_cache=OffloadCache(1_000_000),
            fetch_bytes_per_second=FAST,
        ) as running,
    ):
        return await conversation.next(), running


async def test_an_honest_peer_is_believed(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker
) -> None:
    done, running = await ask_beside(nats_server, client, start_worker, honest)
    assert done.usage.cached_in == "peer"
    assert done.usage.cached_tokens == len(TOKENS)
    assert running.engine.num_restored == 1


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (dies_in_mid_transfer, "evicted"),
        (changes_a_byte, "killed"),
        (sends_less, "killed"),
        (has_another_shape, "fingerprint"),
        (has_another_model, "fingerprint"),
        (has_nothing, "evicted"),
        (is_busy, "cheaper"),
        (talks_nonsense, "killed"),
    ],
)
async def test_whatever_a_peer_does_the_turn_is_answered_and_no_wrong_byte_reaches_the_engine(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker, answer: Answer, cause: str
) -> None:
    done, running = await ask_beside(nats_server, client, start_worker, answer)
    assert done.text == "echo 2: "
    assert done.usage.cached_tokens == 0
    assert done.usage.recomputed_for == cause
    assert running.engine.num_restored == 0


async def test_a_peer_that_falls_silent_costs_little_more_than_computing(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker
) -> None:
    started = time.perf_counter()
    done, _ = await ask_beside(
        nats_server, client, start_worker, lambda one: honest(one) if isinstance(one, FetchOpen) else None, 0.0003
    )
    assert done.usage.cached_tokens == 0
    assert time.perf_counter() - started < 5  # not the 5 s of a part, again and again


async def test_a_cancel_ends_a_turn_that_is_being_fetched(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker
) -> None:
    conversation = Conversation(client)
    silent = asyncio.Event()

    def falls_silent(request: FetchRequest) -> msgspec.Struct | None:
        if isinstance(request, FetchOpen):
            return opened()
        silent.set()
        return None

    engine = FakeEngine(counted_token_seconds=DEAR)
    async with (
        ghost(nats_server, conversation, falls_silent) as asked,
        start_worker(engine, offload_cache=OffloadCache(1_000_000), fetch_bytes_per_second=FAST),
    ):
        conversation.messages.append(Message("user", TEXT))
        answer = client.ask("m", conversation.messages, conversation="c")
        await answer.publish()
        async with asyncio.timeout(10):
            await silent.wait()
        started = time.perf_counter()
        await client.cancel(conversation="c")
        done = await answer
        assert done.finish_reason == "cancelled"
        assert time.perf_counter() - started < 2
        await eventually(lambda: any(isinstance(one, FetchClose) for one in asked))
    assert engine.num_restored == 0


async def test_no_more_states_are_held_for_readers_than_a_few_and_none_of_what_is_not_there(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker
) -> None:
    nc = await connect(nats_server.address(WORKER), name="reader")

    async def ask(request: FetchRequest) -> Opened | StatePart | FetchRefused:
        answer = await answer_to(nc, subjects.kv("w1"), codec.encode(request))
        found: Opened | StatePart | FetchRefused = codec.decode(
            answer.data, Opened | StatePart | FetchRefused, answer.headers
        )
        return found

    async with start_worker(slow_engine(), offload_cache=OffloadCache(1_000_000), fetch_bytes_per_second=FAST):
        await Conversation(client).next()
        first = await ask(FetchOpen("local", "c"))
        assert isinstance(first, Opened)
        part = await ask(FetchPart(first.transfer, 0, first.num_bytes))
        assert isinstance(part, StatePart)
        assert checksum(first.tokens, part.data) == first.sha256
        others = [await ask(FetchOpen("local", "c")) for _ in range(MAX_TRANSFERS)]
        assert others[-1] == FetchRefused("busy")
        assert await ask(FetchOpen("local", "unknown")) == FetchRefused("busy")
        await nc.publish(subjects.kv("w1"), codec.encode(FetchClose(first.transfer)))
        assert await ask(FetchPart(first.transfer, 0, 8)) == FetchRefused("gone")
        assert await ask(FetchOpen("local", "unknown")) == FetchRefused("gone")
        # What is no request is not answered, and harms nobody.
        await nc.publish(subjects.kv("w1"), b"nonsense")
        assert isinstance(await ask(FetchOpen("local", "c")), Opened)
    async with start_worker(slow_engine(), offload_cache=OffloadCache(5000), fetch_bytes_per_second=FAST):
        await Conversation(client, "d").next()
        assert isinstance(await ask(FetchOpen("local", "d")), Opened)
        assert await ask(FetchOpen("local", "d")) == FetchRefused("busy")  # two would be over half of 5,000 bytes
    await nc.close()
