"""What is fetched from a peer and what is computed instead, and what becomes of a state that is not what it should be.

No NATS: a peer answers as a test says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec
import pytest

from broker.errors import ServerError
from broker.messages import CutPoint, FetchPart, Holding, Message, Opened, RecomputedFor, Remembered, StatePart, Turn
from tests.fakes import FakeRenderer, FakeVocabulary
from tests.kv_fakes import FINGERPRINT, KEY, LAYOUT, FakeEnginePort, state_bytes, state_of
from workers.kv.cache import OffloadCache
from workers.kv.checks import checksum, cuts_checksum
from workers.kv.fetcher import FIRST_BYTES_PER_SECOND, SETUP_SECONDS, Fetcher, Offer, TransferFailed, TransferRate
from workers.kv.index import packed
from workers.prompts.history import History

TOKENS = list(range(3, 403))
ENTRY, STATE = state_of(TOKENS)
HOLDING = Holding("peer", FINGERPRINT, len(TOKENS), len(STATE))
OPENED = Opened("t", FINGERPRINT, ENTRY.tokens, len(STATE), 0, checksum(ENTRY.tokens, STATE))
PROMPT = packed([*TOKENS, 7])
CUTTABLE = replace(LAYOUT, checkpoint_begin=12)
CUTS = (CutPoint(40, 12), CutPoint(390, 12))
CHECKPOINTS = [b"a" * 12, b"b" * 12]
WITH_CUTS = msgspec.structs.replace(OPENED, cuts=CUTS, cuts_sha256=cuts_checksum(CHECKPOINTS))
EDITED = packed([*TOKENS[:395], 5, 7])
TURN = Turn("u", "c", (Message("user", "a"), Message("assistant", "b"), Message("user", "c")))
SLOW, FAST = 100.0, 1e6
"""Tokens that the engine computes a second: four seconds for all of TOKENS, or less than a transfer's beginning."""


@dataclass
class FakeDirectory:
    holding: Holding | None = HOLDING
    error: ServerError | None = None
    num_looked_up: int = 0

    async def look_up(self, key: object) -> Holding | None:
        self.num_looked_up += 1
        if self.error is not None:
            raise self.error
        return self.holding


def honest(request: FetchPart) -> StatePart:
    content = bytes(STATE) + b"".join(CHECKPOINTS)
    return StatePart(request.offset, content[request.offset : request.offset + request.size])


@dataclass
class FakePeers:
    """A peer that opens what it is told, and whose parts are what `give` makes of a request."""

    opened: Opened | TransferFailed = OPENED
    give: Callable[[FetchPart], StatePart] = honest
    is_silent: bool = False
    asked: list[str] = field(default_factory=list)

    async def open(self, worker: str, key: object) -> Opened:
        self.asked.append(f"open {worker}")
        if isinstance(self.opened, TransferFailed):
            raise self.opened
        return self.opened

    async def part(self, worker: str, request: FetchPart) -> StatePart:
        self.asked.append("part")
        if self.is_silent:
            await asyncio.Event().wait()
        return self.give(request)

    async def close(self, worker: str, transfer: str) -> None:
        self.asked.append(f"close {transfer}")


class Bench:
    """A fetcher of a worker called `me`, and all that it asks."""

    def __init__(
        self,
        *,
        directory: FakeDirectory | None = None,
        peers: FakePeers | None = None,
        engine: FakeEnginePort | None = None,
        max_bytes: int = 1_000_000,
        can_remove_part: bool = True,
    ) -> None:
        self.directory = directory or FakeDirectory()
        self.peers = peers or FakePeers()
        self.cache = OffloadCache(max_bytes, can_remove_part=can_remove_part)
        self.history = History(FakeRenderer(), FakeVocabulary())
        self.fetcher = Fetcher(
            "me",
            self.directory,
            self.peers,
            engine or FakeEnginePort(tokens_per_second=SLOW),
            self.cache,
            CUTTABLE,
            self.history,
            max_bytes_per_second=1e9,
        )

    async def found(self) -> Offer:
        offer = await self.fetcher.find(KEY.client, TURN)
        assert offer is not None
        return offer

    async def fetch(self, offer: Offer, num_here: int = 0) -> float | None:
        return await self.fetcher.fetch(offer, KEY, PROMPT, num_here)


# --- What is asked for ---


@pytest.mark.parametrize("holding", [None, Holding("me", FINGERPRINT, 400, len(STATE))], ids=["nobody", "we"])
async def test_where_nobody_else_has_the_conversation_nobody_is_asked(holding: Holding | None) -> None:
    bench = Bench(directory=FakeDirectory(holding))
    assert await bench.fetcher.find(KEY.client, TURN) is None
    assert bench.peers.asked == []


async def test_a_first_message_and_a_conversation_that_was_answered_here_last_are_not_looked_up() -> None:
    bench = Bench()
    first = Turn("t", "c", TURN.messages[:1])
    assert await bench.fetcher.find(KEY.client, first) is None
    prompt = await bench.history.prompt(KEY.client, first)
    bench.history.remember(KEY.client, first, prompt, [*prompt.tokens, ord("b") + 3], "b")
    assert await bench.fetcher.find(KEY.client, TURN) is None
    assert bench.directory.num_looked_up == 0


async def test_a_directory_that_does_not_answer_means_computing() -> None:
    bench = Bench(directory=FakeDirectory(error=ServerError("away")))
    assert await bench.fetcher.find(KEY.client, TURN) is None


@pytest.mark.parametrize(
    ("holding", "engine", "max_bytes", "cause"),
    [
        (Holding("peer", "other", 400, len(STATE)), FakeEnginePort(tokens_per_second=SLOW), 1_000_000, "fingerprint"),
        (HOLDING, FakeEnginePort(tokens_per_second=FAST), 1_000_000, "cheaper"),
        (HOLDING, FakeEnginePort({KEY: TOKENS[:390]}, tokens_per_second=SLOW), 1_000_000, "cheaper"),
        (HOLDING, FakeEnginePort(tokens_per_second=SLOW), 1000, "cheaper"),
        (Holding("peer", FINGERPRINT, 31, state_bytes(31)), FakeEnginePort(tokens_per_second=1.0), 10_000, "cheaper"),
    ],
    ids=["another model", "computed sooner", "nearly all is here", "no room", "too short"],
)
async def test_what_is_not_worth_fetching_is_not_opened_and_counted_by_its_cause(
    holding: Holding, engine: FakeEnginePort, max_bytes: int, cause: RecomputedFor
) -> None:
    bench = Bench(directory=FakeDirectory(holding), engine=engine, max_bytes=max_bytes)
    offer = await bench.found()
    assert (offer.opened, offer.cause) == (None, cause)
    assert bench.peers.asked == []
    assert await bench.fetch(offer) is None


@pytest.mark.parametrize("can_remove_part", [True, False])
async def test_a_state_that_cannot_be_cut_is_fetched_where_the_prompt_has_all_of_it(can_remove_part: bool) -> None:
    bench = Bench(can_remove_part=can_remove_part)
    assert await bench.fetch(await bench.found()) is not None
    another = Bench(can_remove_part=can_remove_part)
    edited = packed([*TOKENS[:399], 5, 7])
    fetched = await another.fetcher.fetch(await another.found(), KEY, edited, 0)
    assert (fetched is not None) == can_remove_part


async def test_a_state_is_fetched_with_its_checkpoints_and_can_be_cut_there() -> None:
    for prompt in (PROMPT, EDITED):
        bench = Bench(peers=FakePeers(WITH_CUTS), can_remove_part=False)
        assert await bench.fetcher.fetch(await bench.found(), KEY, prompt, 0) is not None
        entry, content, _ = bench.cache.take(KEY, keep=True) or pytest.fail("not there")
        assert (entry.tokens, entry.cuts) == (ENTRY.tokens, CUTS)
        assert content == bytes(STATE) + b"".join(CHECKPOINTS)
        found = bench.cache.find(prompt, KEY.client)
        assert found is not None
        assert found.num_tokens == (400 if prompt is PROMPT else 390)


async def test_checkpoints_that_there_is_no_room_for_are_not_fetched() -> None:
    bench = Bench(peers=FakePeers(WITH_CUTS), can_remove_part=False, max_bytes=len(STATE) + 20)
    assert await bench.fetcher.fetch(await bench.found(), KEY, PROMPT, 0) is not None
    assert bench.cache.take(KEY, keep=True) == (ENTRY, STATE, "peer")
    another = Bench(peers=FakePeers(WITH_CUTS), can_remove_part=False, max_bytes=len(STATE) + 20)
    assert await another.fetcher.fetch(await another.found(), KEY, EDITED, 0) is None, "of no use without them"


@pytest.mark.parametrize(
    "cuts",
    [
        (CutPoint(390, 12), CutPoint(40, 12)),
        (CutPoint(40, 12), CutPoint(40, 12)),
        (CutPoint(40, 12), CutPoint(400, 12)),
        (CutPoint(40, 13),),
        (CutPoint(40, 1 << 40),),
    ],
    ids=["in no order", "twice", "behind the last token", "another length", "no length that is"],
)
async def test_checkpoints_that_are_not_as_ours_are_make_a_state_that_is_not_fetched(
    cuts: tuple[CutPoint, ...],
) -> None:
    bench = Bench(peers=FakePeers(msgspec.structs.replace(WITH_CUTS, cuts=cuts)))
    offer = await bench.found()
    assert (offer.opened, offer.cause) == (None, "fingerprint")


async def test_no_wrong_byte_of_a_checkpoint_reaches_the_cache() -> None:
    def changed(request: FetchPart) -> StatePart:
        data = honest(request).data
        return StatePart(request.offset, data[:-1] + bytes([data[-1] ^ 1]))

    bench = Bench(peers=FakePeers(WITH_CUTS, give=changed))
    offer = await bench.found()
    assert await bench.fetch(offer) is None
    assert offer.cause == "killed"
    assert bench.cache.entry_of(KEY) is None


async def test_what_a_peer_remembers_of_a_conversation_is_taken_over() -> None:
    tokens = [1, *(ord(letter) + 3 for letter in "user: a\nassistant: b")]
    remembered = Remembered(TURN.messages[:2], "user: a\nassistant: ", packed(tokens))
    bench = Bench(peers=FakePeers(msgspec.structs.replace(OPENED, remembered=remembered)))
    await bench.found()
    assert bench.history.is_current(KEY.client, TURN)


# --- Checks of what a peer says ---


@pytest.mark.parametrize(
    ("opened", "cause"),
    [
        (msgspec.structs.replace(OPENED, fingerprint="other"), "fingerprint"),
        (msgspec.structs.replace(OPENED, num_bytes=len(STATE) + 4), "fingerprint"),
        (msgspec.structs.replace(OPENED, tokens=ENTRY.tokens + b"x"), "fingerprint"),
        (msgspec.structs.replace(OPENED, tokens=b"", num_bytes=state_bytes(0)), "fingerprint"),
        (msgspec.structs.replace(OPENED, tokens=packed([1] * 9_000), num_bytes=state_bytes(9_000)), "fingerprint"),
        (TransferFailed("gone", "evicted"), "evicted"),
        (TransferFailed("busy", "cheaper"), "cheaper"),
        (TransferFailed("the peer does not answer"), "killed"),
    ],
    ids=["another model", "another length", "half a token", "no token", "no room", "gone", "busy", "silent"],
)
async def test_a_state_that_is_not_as_ours_are_is_not_fetched(
    opened: Opened | TransferFailed, cause: RecomputedFor
) -> None:
    bench = Bench(peers=FakePeers(opened), max_bytes=20_000)
    offer = await bench.found()
    assert (offer.opened, offer.cause) == (None, cause)
    assert bench.peers.asked == ["open peer"]


SWAPPED = msgspec.structs.replace(HOLDING, is_swapped=True)


@pytest.mark.parametrize(
    ("holding", "opened", "speed", "cause"),
    [
        (SWAPPED, TransferFailed("the peer does not answer"), SLOW, "swapped"),
        (SWAPPED, TransferFailed("gone", "evicted"), SLOW, "swapped"),
        (SWAPPED, OPENED, FAST, "swapped"),
        (SWAPPED, msgspec.structs.replace(OPENED, fingerprint="other"), SLOW, "fingerprint"),
        (msgspec.structs.replace(SWAPPED, worker="me"), OPENED, SLOW, "swapped"),
    ],
    ids=["its board is gone", "let go of since", "computed sooner", "another model", "an earlier process of this name"],
)
async def test_what_is_missing_since_its_worker_made_room_for_another_model_is_counted_so(
    holding: Holding, opened: Opened | TransferFailed, speed: float, cause: RecomputedFor
) -> None:
    engine = FakeEnginePort(tokens_per_second=speed)
    bench = Bench(directory=FakeDirectory(holding), peers=FakePeers(opened), engine=engine)
    offer = await bench.found()
    assert (offer.opened, offer.cause) == (None, cause)


async def test_what_a_board_keeps_is_fetched_as_from_a_worker_and_counted_as_swapped_where_that_fails() -> None:
    bench = Bench(directory=FakeDirectory(SWAPPED))
    assert await bench.fetch(await bench.found()) is not None
    another = Bench(directory=FakeDirectory(SWAPPED), peers=FakePeers(give=gone))
    offer = await another.found()
    assert await another.fetch(offer) is None
    assert offer.cause == "swapped"


# --- Fetching ---


async def test_an_honest_peers_state_is_in_the_cache_afterwards() -> None:
    bench = Bench()
    seconds = await bench.fetch(await bench.found())
    assert seconds is not None
    assert bench.peers.asked[-1] == "close t"
    assert bench.cache.take(KEY, keep=True) == (ENTRY, STATE, "peer")


async def test_what_has_come_here_meanwhile_is_not_fetched_but_closed() -> None:
    bench = Bench()
    offer = await bench.found()
    assert await bench.fetch(offer, num_here=len(TOKENS) - 10) is None
    assert bench.peers.asked == ["open peer", "close t"]


def with_a_byte_changed(request: FetchPart) -> StatePart:
    data = honest(request).data
    return StatePart(request.offset, bytes([data[0] ^ 1]) + data[1:])


def with_less(request: FetchPart) -> StatePart:
    return StatePart(request.offset, honest(request).data[:-1])


def gone(request: FetchPart) -> StatePart:
    raise TransferFailed("gone", "evicted")


@pytest.mark.parametrize(("give", "cause"), [(with_a_byte_changed, "killed"), (with_less, "killed"), (gone, "evicted")])
async def test_no_wrong_byte_reaches_the_cache(give: Callable[[FetchPart], StatePart], cause: RecomputedFor) -> None:
    bench = Bench(peers=FakePeers(give=give))
    offer = await bench.found()
    assert await bench.fetch(offer) is None
    assert offer.cause == cause
    assert bench.cache.entry_of(KEY) is None
    assert bench.peers.asked[-1] == "close t"


async def test_a_peer_that_falls_silent_is_waited_for_no_longer_than_computing_would_take() -> None:
    engine = FakeEnginePort(tokens_per_second=len(TOKENS) / 0.1)  # a tenth of a second for all
    bench = Bench(peers=FakePeers(is_silent=True), engine=engine)
    offer = await bench.found()
    async with asyncio.timeout(5):
        assert await bench.fetch(offer) is None
    assert bench.cache.entry_of(KEY) is None
    assert bench.peers.asked[-1] == "close t"
    assert offer.cause == "cheaper"


async def test_a_fetch_that_is_cancelled_is_closed() -> None:
    bench = Bench(peers=FakePeers(is_silent=True))
    fetching = asyncio.create_task(bench.fetch(await bench.found()))
    await asyncio.wait({fetching}, timeout=0.05)
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    assert bench.peers.asked[-1] == "close t"


# --- The rate ---


def test_a_rate_is_learned_from_transfers_and_a_slow_network_is_forgiven_by_and_by() -> None:
    rate = TransferRate(1e9)
    assert rate.seconds(int(FIRST_BYTES_PER_SECOND)) == pytest.approx(SETUP_SECONDS + 1)
    for _ in range(50):
        rate.learn(1_000_000, 1.0)
    assert rate.bytes_per_second == pytest.approx(1e6, rel=0.01)
    rate.forgive()
    assert rate.bytes_per_second == pytest.approx(1.1e6, rel=0.01)
    for _ in range(100):
        rate.forgive()
    assert rate.bytes_per_second == FIRST_BYTES_PER_SECOND


def test_no_more_is_expected_of_peers_than_they_may_give() -> None:
    assert TransferRate(1e6).bytes_per_second == 1e6
