"""What a worker says of its load and its node, what it brings near, and what it tells readers again."""

from __future__ import annotations

from typing import Any

import pytest

from broker.discovery import AWAY_SECONDS, DRAINING, SERVING
from broker.messages import Done, Failed, Holding, NodeState, Timings, Usage
from broker.priorities import BATCH, INTERACTIVE
from tests.turn_fakes import CLIENT, FakeEnginePort, FakePeers, delivery_of, turn_of, work_of
from workers.engine.events import Job, LoopSnapshot
from workers.engine.power import Power
from workers.kv.cache import OffloadCache
from workers.kv.fetcher import Offer
from workers.kv.index import Key, KvEntry, packed
from workers.queue.occupancy import Occupancy
from workers.reporting import node
from workers.reporting.load import LoadGauge
from workers.reporting.node import NodeListener
from workers.turns.prefetch import Prefetch
from workers.turns.recent import FIRST_MEAN_SECONDS, RecentTurns
from workers.turns.replays import fitting

NOBODY: Any = None
"""The connection of what only a subscription would bring."""


class Standing:
    """How a worker is seen."""

    def __init__(self, state: str) -> None:
        self.state = state


class Station:
    """How a node is."""

    state = NodeState(celsius=61.0, is_throttled=True)


def gauge(state: str = SERVING, num_held: int = 2) -> LoadGauge:
    occupancy = Occupancy(2)
    for _ in range(num_held):
        occupancy.take(delivery_of(turn_of(), num_pending=3), INTERACTIVE)
    occupancy.note_pending(BATCH, 4)
    snapshot = LoopSnapshot(prefill_tokens_per_second=100.0, decode_tokens_per_second=10.0)
    recent = RecentTurns(mean_seconds=6.0, cached_share=0.5, num_failed=1)
    return LoadGauge(FakeEnginePort(snapshot), occupancy, recent, Standing(state), Station())


def test_a_load_has_what_its_parts_say() -> None:
    load = gauge().load()
    assert (load.num_slots, load.num_active, load.num_pending, load.num_pending_batch) == (2, 2, 7, 4)
    # Three before it and one more for a slot; behind all others for batch.
    assert (load.expected_wait_seconds, load.batch_wait_seconds) == (4 * 6.0 / 2, 8 * 6.0 / 2)
    assert (load.prefill_tokens_per_second, load.decode_tokens_per_second) == (100.0, 10.0)
    assert (load.cached_share, load.num_failed, load.celsius, load.is_throttled) == (0.5, 1, 61.0, True)
    assert load.state == SERVING


def test_for_a_worker_that_drains_nobody_waits() -> None:
    load = gauge(DRAINING, num_held=0).load()
    assert (load.expected_wait_seconds, load.batch_wait_seconds) == (AWAY_SECONDS, AWAY_SECONDS)


def test_what_turns_came_to_is_smoothed_and_failures_are_counted() -> None:
    recent = RecentTurns()
    recent.took(FIRST_MEAN_SECONDS + 5)
    assert recent.mean_seconds == pytest.approx(FIRST_MEAN_SECONDS + 1)
    for num_tokens in (10, 20):
        recent.computed(num_tokens)
    assert recent.mean_tokens == pytest.approx(12)
    for cached in (0, 100):
        recent.ended(Done("stop", "", (), Usage(100, cached, 1), Timings(0, 0, 0), "w1"))
    recent.ended(Failed("deadline", ""))
    recent.ended(Done("cancelled", "", (), Usage(0, 0, 0), Timings(0, 0, 0), "w1"))
    assert recent.cached_share == pytest.approx(0.2)
    assert recent.num_failed == 1


def test_the_longest_turn_may_be_longer_than_the_longest_of_a_few_and_is_slowly_forgotten() -> None:
    recent = RecentTurns()
    assert recent.longest_expected_seconds is None
    recent.took(10.0)
    assert recent.longest_expected_seconds == pytest.approx(30.0)
    recent.took(20.0)
    assert recent.longest_expected_seconds == pytest.approx(40.0)
    for _ in range(98):
        recent.took(1.0)
    assert recent.longest_expected_seconds == pytest.approx(20.0 * 0.98**98 * 1.02)


def test_what_the_sidecar_says_holds_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    power = Power()
    listener = NodeListener(NOBODY, "n", power)
    listener.hear(NodeState(watts=7.5, celsius=50.0))
    listener.forget_old()
    assert (listener.state.celsius, power.watts) == (50.0, 7.5)
    monkeypatch.setattr(node, "NODE_SECONDS", -1.0)
    listener.forget_old()
    assert (listener.state, power.watts) == (NodeState(), None)


# --- Prefetch ---

TOKENS = list(range(1, 101))
KEY = Key(CLIENT, "a")
JOB = Job("t1/0", CLIENT, "a", TOKENS, 10)


@pytest.mark.parametrize(
    ("num_resident", "num_in_ram", "num_here"), [(0, 0, 0), (40, 0, 40), (0, 60, 60), (40, 60, 60), (60, 40, 60)]
)
async def test_a_peer_is_told_what_need_not_come(num_resident: int, num_in_ram: int, num_here: int) -> None:
    cache, peers = OffloadCache(1 << 20), FakePeers(seconds=0.25)
    if num_in_ram:
        cache.offload(KvEntry(KEY, packed(TOKENS[:num_in_ram]), 10), b"x" * 10)
    engine, work = FakeEnginePort(LoopSnapshot(resident={KEY: num_resident})), work_of()
    await Prefetch(engine, cache, peers).bring(work, JOB, Offer(Holding("w9", "f", 90, 360)))
    assert peers.fetched == [(KEY, num_here)]
    assert work.notes.fetch_seconds == 0.25


async def test_without_an_offer_and_a_disk_nothing_is_brought() -> None:
    peers, work = FakePeers(seconds=0.25), work_of()
    await Prefetch(FakeEnginePort(), OffloadCache(1 << 20), peers).bring(work, JOB, None)
    assert (peers.fetched, work.notes.fetch_seconds) == ([], None)


# --- Replays ---


@pytest.mark.parametrize(("num_bytes", "number"), [(0, 0), (17, 0), (18, 1), (35, 1), (36, 2), (1000, 3)])
def test_a_reader_is_told_as_much_as_fits_into_a_message(num_bytes: int, number: int) -> None:
    payloads = [letter * 10 for letter in (b"a", b"b", b"c")]
    assert fitting(payloads, num_bytes) == tuple(payloads[:number])
    assert fitting([b"x" * 2000, b"y"], 1000) == ()
