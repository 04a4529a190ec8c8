"""A turn from its delivery to its settlement, with an engine that answers at once and a server in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from broker.errors import Fenced, ServerError
from broker.jetstream import ACK, NAK, nak_after
from broker.messages import Cancel, End, Failed, Holding, Sampling, Turn
from tests.fakes import FakeRenderer, FakeVocabulary, NoGrammars
from tests.turn_fakes import (
    CLIENT,
    FakeCancels,
    FakeEnginePort,
    FakePeers,
    FakeReport,
    FakeTurnStore,
    FakeWriter,
    Wire,
    delivery_of,
    is_done,
    is_failed,
    turn_of,
)
from workers.engine.events import Event, Finished, Generated, Job, Lost
from workers.kv.cache import OffloadCache
from workers.kv.fetcher import Offer
from workers.kv.index import Key
from workers.prompts.history import History
from workers.turns.admission import Admission
from workers.turns.handler import TurnHandler
from workers.turns.in_hand import TurnsInHand
from workers.turns.jobs import JobMaker
from workers.turns.life import DEATH_STARTS
from workers.turns.prefetch import Prefetch
from workers.turns.prompt_questions import PromptQuestions
from workers.turns.recent import RecentTurns
from workers.turns.remembering import Remembering
from workers.turns.settlement import FAULT_SECONDS, Settlement
from workers.turns.streaming import Streaming

TURN = turn_of()


class Engine(FakeEnginePort):
    """Tells what a test wants of each job, or what a test's function does."""

    def __init__(self, in_hand: TurnsInHand, answer: Callable[[str], list[Event]]) -> None:
        super().__init__()
        self._in_hand = in_hand
        self._answer = answer
        self.submitted = asyncio.Event()

    def submit(self, job: Job) -> None:
        super().submit(job)
        self.submitted.set()
        self._in_hand.route(self._answer(job.id))


class SlowPeers(FakePeers):
    """A peer that takes for ever to give what it offers; the turn may be cancelled meanwhile."""

    def __init__(self, in_hand: TurnsInHand, offer: Offer | None, *, cancels_turn: bool) -> None:
        super().__init__(offer)
        self._in_hand = in_hand
        self._cancels_turn = cancels_turn
        self.asked = asyncio.Event()
        self.num_stopped = 0

    async def fetch(self, offer: Offer, key: Key, prompt: bytes, num_here: int) -> float | None:
        self.asked.set()
        if self._cancels_turn:
            for work in self._in_hand:
                work.cancelled_by(Cancel())
        try:
            await asyncio.Event().wait()
        finally:
            self.num_stopped += 1
        return None


def echo(job: str) -> list[Event]:
    """The answer "hi"."""
    answer = Finished(job, "stop", 3, 0, 2, 0.1, 0.1, (1, 2, 3, 107, 108))
    return [Generated(job, "hi", (107, 108), ()), answer]


class House:
    """A turn handler whose engine answers at once."""

    def __init__(
        self,
        answer: Callable[[str], list[Event]] = echo,
        grammars: NoGrammars | None = None,
        writer: FakeWriter | None = None,
        offer: Offer | None = None,
        cancels_turn: bool = True,
    ) -> None:
        self.store = FakeTurnStore()
        self.report = FakeReport()
        self.recent = RecentTurns()
        self.wire = Wire()
        self.in_hand = TurnsInHand()
        self.engine = Engine(self.in_hand, answer)
        self.peers = SlowPeers(self.in_hand, offer, cancels_turn=cancels_turn)
        self.writer = writer or FakeWriter()
        history = History(FakeRenderer(), FakeVocabulary())
        jobs = JobMaker(history, grammars or NoGrammars(), 4096, "error")
        self.handler = TurnHandler(
            in_hand=self.in_hand,
            admission=Admission(
                "w1", self.store, FakeCancels(), self.peers, jobs, self.engine, self.recent, lambda: 0.0
            ),
            prefetch=Prefetch(self.engine, OffloadCache(0), self.peers),
            streaming=Streaming("w1", 0.0, Remembering(history, self.engine, self.peers), self.recent),
            questions=PromptQuestions("w1", history, FakeVocabulary()),
            settlement=Settlement("w1", self.store, self.report, self.recent),
            engine=self.engine,
            recent=self.recent,
            writer=lambda address: self.writer,
            worker="w1",
            fingerprint="f",
        )

    async def end_of(self, turn: Turn = TURN) -> End:
        """How a turn ends here."""
        await self.handler.handle(delivery_of(turn, self.wire))
        return self.store.ends[CLIENT, turn.id]


async def test_a_turn_is_answered_and_out_of_hand_again() -> None:
    house = House()
    assert is_done(await house.end_of(), "stop")
    assert house.wire.told == [ACK]
    assert len(house.in_hand) == 0
    (job,) = house.engine.jobs
    assert house.engine.cancelled == [job.id]  # whatever the engine still has of it goes


async def test_a_turn_that_comes_twice_has_two_jobs() -> None:
    house = House()
    await house.end_of()
    await house.end_of()
    assert len({job.id for job in house.engine.jobs}) == 2


async def test_the_engine_goes_on_behind_what_an_earlier_worker_has_sent() -> None:
    house = House(writer=FakeWriter("h", (107,), num_starts=2))
    await house.end_of()
    assert house.engine.jobs[0].resumed == (107,)
    assert house.writer.can_resume
    assert house.writer.num_prompt_tokens == len(house.engine.jobs[0].prompt) > 0


async def test_with_a_grammar_only_who_has_the_same_goes_on() -> None:
    houses = [House(), House(), House()]
    for house, gbnf in zip(houses, ("x", "y", None), strict=True):
        await house.end_of(turn_of(sampling=Sampling(grammar=gbnf and f'root ::= "{gbnf}"')))
        assert house.writer.can_resume
    one, other, free = (house.writer.grammar for house in houses)
    assert len({one, other, free}) == 3
    assert free == ""


async def test_a_turn_that_was_begun_too_often_is_dead_and_not_computed() -> None:
    house = House(writer=FakeWriter(num_starts=DEATH_STARTS + 1))
    end = await house.end_of()
    assert is_failed(end, "poison")
    assert isinstance(end, Failed)
    assert end.detail == f"the turn was begun {DEATH_STARTS} times and never finished"
    assert house.store.letters[0].workers == ("w0",) * DEATH_STARTS
    assert house.engine.jobs == []
    assert is_done(await House(writer=FakeWriter(num_starts=DEATH_STARTS)).end_of(), "stop")


async def test_a_turn_that_another_worker_has_is_forgotten() -> None:
    house = House()
    house.writer.error = Fenced("t1")
    delivery = delivery_of(TURN, house.wire)
    await house.handler.handle(delivery)
    assert (house.wire.told, house.store.ends) == ([], {})
    assert delivery.is_settled
    assert len(house.in_hand) == 0


@pytest.mark.parametrize("is_lost_before", [False, True])
async def test_a_lost_engines_turns_are_for_another_worker(is_lost_before: bool) -> None:
    house = House(answer=lambda job: [] if is_lost_before else [Lost("gone")])
    if is_lost_before:
        house.in_hand.route([Lost("gone")])
    async with asyncio.timeout(10):
        await house.handler.handle(delivery_of(TURN, house.wire))
    assert house.wire.told == [NAK]
    assert house.in_hand.lost_reason == "gone"


async def test_a_server_that_is_away_leaves_the_turn_to_redelivery(caplog: pytest.LogCaptureFixture) -> None:
    house = House()
    house.store.error = ServerError("away")
    delivery = delivery_of(TURN, house.wire)
    with caplog.at_level(logging.WARNING):
        await house.handler.handle(delivery)
    assert "left to redelivery" in caplog.text
    assert (house.wire.told, delivery.is_settled) == ([], False)


async def test_a_fault_of_ours_is_logged_and_costs_its_own_turn_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(NoGrammars):
        async def gbnf(self, sampling: Sampling, client: str = "") -> str | None:
            if sampling.seed == 13:
                raise LookupError("a fault")
            return None

    house = House(grammars=Faulty())
    await house.handler.handle(delivery_of(turn_of(sampling=Sampling(seed=13)), house.wire))
    assert house.wire.told == [nak_after(FAULT_SECONDS)]
    assert "LookupError: a fault" in caplog.text
    assert is_done(await house.end_of(), "stop")


async def test_a_cancelled_handling_hands_the_turn_back_and_says_so_in_the_reply() -> None:
    house = House(answer=lambda job: [])
    handling = asyncio.ensure_future(house.handler.handle(delivery_of(TURN, house.wire)))
    await asyncio.wait_for(house.engine.submitted.wait(), 10)
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert house.wire.told == [NAK]
    assert house.writer.is_handed_back
    assert len(house.in_hand) == 0


async def test_a_cancelled_handling_of_a_turn_that_another_worker_has_says_nothing() -> None:
    house = House(answer=lambda job: [])
    delivery = delivery_of(TURN, house.wire)
    handling = asyncio.ensure_future(house.handler.handle(delivery))
    await asyncio.wait_for(house.engine.submitted.wait(), 10)
    house.writer.error = Fenced("t1")
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert (house.wire.told, delivery.is_settled) == ([], True)


async def test_a_turn_whose_state_is_being_fetched_is_handed_back_and_was_no_crash() -> None:
    house = House(offer=Offer(Holding("w9", "f", 400, 1608)), cancels_turn=False)
    handling = asyncio.ensure_future(house.handler.handle(delivery_of(TURN, house.wire)))
    await asyncio.wait_for(house.peers.asked.wait(), 10)
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert house.writer.is_handed_back
    assert (house.wire.told, house.engine.jobs) == ([NAK], [])


async def test_a_cancel_that_came_before_the_engine_knew_the_turn_is_passed_on() -> None:
    house = House(offer=Offer(Holding("w9", "f", 400, 1608)))
    await house.end_of()
    (job,) = house.engine.jobs
    assert house.engine.cancelled == [job.id, job.id]
    assert house.peers.num_stopped == 1
