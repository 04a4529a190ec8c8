"""From an engine's events to chunks and an end: gathering, what another worker had sent, and every way to end."""

from __future__ import annotations

import time

import msgspec
import pytest

from broker.conversations import name_of
from broker.errors import Fenced
from broker.messages import Cancel, Done, Failed, Holding, Message, Progress, RecomputedFor, ToolCall, Turn, Usage
from tests.fakes import FakeRenderer, FakeVocabulary
from tests.turn_fakes import (
    CLIENT,
    FakeEnginePort,
    FakePeers,
    FakeWriter,
    is_failed,
    tell,
    turn_of,
    work_of,
)
from workers.engine.events import Computed, Event, Finished, Generated, Lost, Rejected, Seated
from workers.kv.fetcher import Offer
from workers.kv.index import Key
from workers.prompts.history import History, Prompt
from workers.prompts.rendered import Rendered
from workers.turns.outcomes import Answered, Returned
from workers.turns.recent import RecentTurns
from workers.turns.remembering import Remembering
from workers.turns.streaming import Streaming, gathered
from workers.turns.usage import usage
from workers.turns.work import TurnNotes, Work

LONG = 3600.0
"""Seconds of gathering that no test waits for."""
JOB = "t1/0"
PROMPT = Prompt(Rendered("hi", [(0, 0, 2)]), [1, 107, 108])


def generated(text: str) -> Generated:
    return Generated(JOB, text, tuple(ord(character) + 3 for character in text), ())


def finished(text: str = "abc", reason: str = "stop", **changes: object) -> Finished:
    tokens = (*PROMPT.tokens, *generated(text).tokens)
    known = {"num_prompt_tokens": 3, "num_cached": 0, "num_generated": len(text), "tokens": tokens}
    return Finished(job=JOB, reason=reason, prefill_seconds=0.5, decode_seconds=2.0, **(known | changes))  # type: ignore[arg-type]


class Stage:
    """A streaming with everything that it tells."""

    def __init__(self, coalesce_seconds: float = 0.0) -> None:
        self.engine = FakeEnginePort()
        self.peers = FakePeers()
        self.recent = RecentTurns()
        self.history = History(FakeRenderer(), FakeVocabulary())
        remembering = Remembering(self.history, self.engine, self.peers)
        self.streaming = Streaming("w1", coalesce_seconds, remembering, self.recent)
        self.writer = FakeWriter()

    async def stream(self, work: Work, *events: Event) -> object:
        tell(work, events)
        return await self.streaming.stream(work, PROMPT, self.writer, None)

    async def done(self, work: Work, *events: Event) -> Done:
        """The answer that the events make."""
        found = await self.stream(work, *events)
        assert isinstance(found, Answered)
        assert isinstance(found.end, Done)
        return found.end


# --- Batches ---


async def batches(work: Work, coalesce_seconds: float, *events: Event) -> list[int]:
    """How many events each batch has, of those that come one after another, the next when nothing more is awaited."""
    coming = iter(events)
    tell(work, [next(coming)])
    sizes: list[int] = []
    async for batch in gathered(work, coalesce_seconds):
        sizes.append(len(batch))
        tell(work, [event for event in [next(coming, None)] if event is not None])
    return sizes


async def test_each_token_is_sent_by_itself_where_nothing_is_gathered() -> None:
    assert await batches(work_of(), 0.0, *map(generated, "abc"), finished()) == [1, 1, 1, 1]


async def test_the_first_tokens_are_sent_at_once_and_later_ones_gathered_until_the_end() -> None:
    work = work_of()
    tell(work, [generated("a")])
    batches = aiter(gathered(work, LONG))
    assert await anext(batches) == [generated("a")]
    tell(work, [generated("b"), generated("c"), finished()])
    assert await anext(batches) == [generated("b"), generated("c"), finished()]
    with pytest.raises(StopAsyncIteration):
        await anext(batches)


async def test_that_a_turn_is_seated_holds_no_token_back() -> None:
    work = work_of()
    tell(work, [Seated(JOB, 0)])
    batches = aiter(gathered(work, LONG))
    assert await anext(batches) == [Seated(JOB, 0)]
    tell(work, [generated("a")])
    assert await anext(batches) == [generated("a")]
    await batches.aclose()  # type: ignore[attr-defined]


async def test_what_has_come_meanwhile_is_one_batch() -> None:
    work = work_of()
    tell(work, [Seated(JOB, 0), generated("a"), generated("b")])
    assert len(await anext(aiter(gathered(work, 0.0)))) == 3


async def test_nothing_behind_an_end_is_waited_for_or_sent() -> None:
    work = work_of()
    tell(work, [generated("a"), finished(), generated("late")])
    assert [batch async for batch in gathered(work, LONG)] == [[generated("a"), finished()]]


async def test_a_deadline_ends_the_waiting() -> None:
    work = work_of(turn_of(deadline=time.time() - 1))
    (batch,) = [batch async for batch in gathered(work, LONG)]
    assert batch == [Rejected(JOB, "deadline", "the deadline passed while the turn was computed")]


# --- The answer ---


async def test_an_answer_is_written_as_it_comes_and_ends_whole() -> None:
    stage, work = Stage(), work_of(stored_at=time.time() - 5)
    done = await stage.done(work, Seated(JOB, 0, None, 100.0), generated("ab"), generated("c"), finished(joules=7.5))
    assert stage.writer.chunks == [("abc", (100, 101, 102))]
    assert (done.text, done.tokens, done.finish_reason) == ("abc", (100, 101, 102), "stop")
    assert (done.worker, done.attempt, done.num_chunks) == ("w1", 0, 2)
    assert (done.timings.prefill, done.timings.decode, done.timings.cancel) == (0.5, 2.0, 0.0)
    assert 105 <= done.timings.queue_wait < 160
    assert work.notes.joules == 7.5
    assert work.notes.first_token_at == pytest.approx(time.time(), abs=60)
    assert stage.recent.mean_tokens == 3


async def test_what_an_earlier_worker_has_sent_is_in_the_end_and_not_written_again() -> None:
    stage = Stage()
    stage.writer = FakeWriter("ab", (100, 101))
    done = await stage.done(work_of(), generated("c"), finished())
    assert stage.writer.chunks == [("c", (102,))]
    assert (done.text, done.tokens) == ("abc", (100, 101, 102))


async def test_the_end_says_which_stop_text_it_was() -> None:
    assert (await Stage().done(work_of(), generated("ab"), finished("ab", stop="c"))).stop == "c"
    assert (await Stage().done(work_of(), generated("ab"), finished("ab"))).stop is None


async def test_tokens_without_text_are_written_too() -> None:
    stage = Stage()
    await stage.done(work_of(), Generated(JOB, "", (9,), ()), finished())
    assert stage.writer.chunks == [("", (9,))]


async def test_how_far_the_prompt_is_computed_is_written_where_the_turn_asks() -> None:
    for asks in (True, False):
        stage, work = Stage(), work_of(turn_of(progress=asks))
        await stage.done(work, Seated(JOB, 1), Computed(JOB, 3, 0.5), generated("a"), finished("a"))
        told = (Progress(3, 1, 1, 0.0), Progress(3, 1, 3, 0.5))
        assert stage.writer.progress == (told if asks else ())
        assert stage.writer.chunks[-1] == ("a", (100,))


async def test_behind_what_an_earlier_worker_sent_nothing_is_told_of_the_prompt() -> None:
    stage = Stage()
    stage.writer = FakeWriter("ab", (100, 101))
    await stage.done(work_of(turn_of(progress=True)), Seated(JOB, 1), Computed(JOB, 3, 0.5), generated("c"), finished())
    assert stage.writer.progress == ()


async def test_a_turn_that_is_over_without_a_token_writes_no_chunk() -> None:
    stage, work = Stage(), work_of()
    done = await stage.done(work, Seated(JOB, 0), finished("", "cancelled"))
    assert stage.writer.chunks == []
    assert work.notes.first_token_at is None
    assert done.text == ""


@pytest.mark.parametrize("called", [True, False])
async def test_of_a_cancelled_answer_stays_what_it_said_or_called(called: bool) -> None:
    stage, work = Stage(), work_of()
    calls = (ToolCall("call00001", "lamp", "{}"),) if called else ()
    remembering = Remembering(stage.history, stage.engine, stage.peers)
    await remembering.keep(work, PROMPT, finished("abc", "cancelled"), "", calls)
    said = Message("assistant", "", calls)
    following = msgspec.structs.replace(work.turn, messages=(*work.turn.messages, said, Message("user", "And?")))
    assert stage.history.is_current(CLIENT, following) == called


async def test_a_lost_engine_has_the_turn_returned_and_sends_nothing_more() -> None:
    stage = Stage()
    assert await stage.stream(work_of(), generated("a"), Lost("gone")) == Returned()
    assert stage.writer.chunks == []


async def test_a_rejected_turn_fails_with_the_engines_words() -> None:
    stage = Stage()
    stage.writer.attempt = 2
    found = await stage.stream(work_of(), Rejected(JOB, "overloaded", "no room", retryable=True))
    assert found == Answered(Failed("overloaded", "no room", True, "w1", 2))


async def test_a_turn_that_passes_its_deadline_fails() -> None:
    found = await Stage().stream(work_of(turn_of(deadline=time.time() - 1)))
    assert isinstance(found, Answered)
    assert is_failed(found.end, "deadline")


async def test_a_cancel_is_in_the_timings_and_one_for_the_deadline_is_a_failure() -> None:
    work = work_of()
    work.cancelled_by(Cancel())
    work.cancelled_at -= 2
    done = await Stage().done(work, generated("a"), finished("a", "cancelled"))
    assert 2 <= done.timings.cancel < 60
    assert done.text == "a"
    late = work_of()
    late.cancelled_by(Cancel(reason="deadline"))
    found = await Stage().stream(late, generated("a"), finished("a", "cancelled"))
    assert isinstance(found, Answered)
    assert is_failed(found.end, "deadline")


async def test_an_answer_that_was_whole_before_its_deadlines_cancel_came_is_an_answer() -> None:
    work = work_of()
    work.cancelled_by(Cancel(reason="deadline"))
    assert (await Stage().done(work, generated("abc"), finished())).finish_reason == "stop"


async def test_a_fence_ends_the_streaming() -> None:
    stage = Stage()
    stage.writer.error = Fenced("t1")
    with pytest.raises(Fenced):
        await stage.stream(work_of(), generated("a"), finished())


# --- What stays ---


async def test_the_conversation_goes_on_from_an_answer_and_its_peers_know() -> None:
    stage, work = Stage(), work_of()
    await stage.done(work, generated("abc"), finished())
    assert stage.engine.renamed == []
    assert stage.peers.announced == [(CLIENT, "a", len(finished().tokens) - 1)]
    messages = (*work.turn.messages, Message("assistant", "abc"), Message("user", "more"))
    assert stage.history.is_current(CLIENT, turn_of(messages=messages))


async def test_a_conversation_that_is_named_by_its_history_has_the_next_name_everywhere() -> None:
    stage, turn = Stage(), turn_of()
    named = turn_of(conversation=name_of(turn.messages))
    await stage.done(work_of(named), generated("abc"), finished())
    name = name_of((*turn.messages, Message("assistant", "abc")))
    assert stage.engine.renamed == [(Key(CLIENT, named.conversation), name)]
    assert stage.peers.announced == [(CLIENT, name, len(finished().tokens) - 1)]


@pytest.mark.parametrize(
    ("turn", "text", "reason"),
    [
        (turn_of(), "", "cancelled"),
        (turn_of(raw=True), "abc", "stop"),
        (turn_of(kind="score", continuations=("x",)), "abc", "stop"),
    ],
)
async def test_nothing_goes_on_from_a_raw_or_scored_turn_or_one_that_was_cancelled_before_its_answer_began(
    turn: Turn, text: str, reason: str
) -> None:
    stage = Stage()
    await stage.done(work_of(turn), generated(text), finished(text, reason))
    assert (stage.engine.renamed, stage.peers.announced) == ([], [])


async def test_a_cancelled_answer_is_gone_on_from_as_far_as_it_came() -> None:
    stage, work = Stage(), work_of()
    await stage.done(work, generated("abc"), finished(reason="cancelled"))
    assert stage.peers.announced == [(CLIENT, "a", len(finished().tokens) - 1)]
    messages = (*work.turn.messages, Message("assistant", "abc"), Message("user", "more"))
    assert stage.history.is_current(CLIENT, turn_of(messages=messages))


# --- Usage ---

OFFER = Offer(Holding("w9", "f", 80, 328), cause="cheaper")


@pytest.mark.parametrize(
    ("num_known", "offer", "notes", "recomputed", "cause"),
    [
        (0, None, TurnNotes(), 0, None),
        (60, None, TurnNotes(), 39, "evicted"),
        (20, None, TurnNotes(), 0, None),  # all that was known was there
        (60, OFFER, TurnNotes(), 59, "cheaper"),
        (90, OFFER, TurnNotes(), 69, "cheaper"),  # more was known here than the peer had
        (0, None, TurnNotes(num_resumed_tokens=1), 79, "killed"),
        (60, OFFER, TurnNotes(num_resumed_tokens=1, num_dropped=2), 79, "killed"),
        (60, None, TurnNotes(num_dropped=2), 79, "overflow"),
    ],
)
def test_what_was_computed_again_is_counted_with_its_cause(
    num_known: int, offer: Offer | None, notes: TurnNotes, recomputed: int, cause: RecomputedFor | None
) -> None:
    end = finished(num_prompt_tokens=100, num_cached=20, num_generated=5, cached_in="context")
    found = usage(end, Prompt(PROMPT.rendered, [1] * 100, num_known), notes, offer)
    assert found == Usage(100, 20, 5, "context", recomputed, cause, notes.num_dropped)


def test_what_a_peer_gave_was_not_computed_again() -> None:
    end = finished(num_prompt_tokens=100, num_cached=60, cached_in="peer")
    assert usage(end, PROMPT, TurnNotes(), OFFER).recomputed_tokens == 0
