"""Whether a delivery becomes a job: each check by itself, and that the cheap ones come first."""

from __future__ import annotations

import time
from typing import Any, Literal

import pytest

from broker import codec
from broker.errors import TurnRejected
from broker.messages import Cancel, Done, Failed, Holding, Message, Sampling, Timings, Usage
from broker.priorities import BATCH
from tests.fakes import FakeRenderer, FakeVocabulary, NoGrammars
from tests.turn_fakes import (
    CLIENT,
    FakeCancels,
    FakeEnginePort,
    FakePeers,
    FakeTurnStore,
    delivery_of,
    is_done,
    is_failed,
    turn_of,
    work_of,
)
from workers.engine.events import LoopSnapshot
from workers.kv.fetcher import Offer
from workers.prompts.history import History
from workers.prompts.rendered import Rendered
from workers.turns.admission import Admission, Admitted
from workers.turns.jobs import ROOM_TOKENS, JobMaker, Overflow
from workers.turns.outcomes import Dead, Over
from workers.turns.recent import RecentTurns
from workers.turns.understanding import Understood

MEASURED = LoopSnapshot(prefill_tokens_per_second=100.0, decode_tokens_per_second=10.0)
DONE = Done("stop", "", (), Usage(1, 0, 0), Timings(0, 0, 0), "w0")


class CountingRenderer(FakeRenderer):
    """Notes how often it is asked."""

    num_rendered = 0

    async def render(self, messages: tuple[Message, ...], *more: Any) -> Rendered:
        self.num_rendered += 1
        return await super().render(messages, *more)


class Desk:
    """An admission with everything that it asks."""

    def __init__(
        self,
        *,
        cancel: Cancel | None = None,
        offer: Offer | None = None,
        snapshot: LoopSnapshot | None = None,
        max_tokens: int = 4096,
        overflow: Overflow = "error",
    ) -> None:
        self.store = FakeTurnStore()
        self.peers = FakePeers(offer)
        self.recent = RecentTurns()
        self.renderer = CountingRenderer()
        self.history = History(self.renderer, FakeVocabulary())
        jobs = JobMaker(self.history, NoGrammars(), max_tokens, overflow)
        engine = FakeEnginePort(snapshot)
        self.admission = Admission(
            "w1", self.store, FakeCancels(cancel), self.peers, jobs, engine, self.recent, lambda: 12.5
        )

    async def admitted(self, *turn: Any, **delivered: Any) -> Admitted:
        """What a turn is admitted as, which it must be."""
        found = await self.admission.admit(work_of(*turn, **delivered))
        assert isinstance(found, Admitted), found
        return found


# --- What was delivered ---


async def test_a_turn_is_understood_with_its_address() -> None:
    found = await Desk().admission.understand(delivery_of(turn_of("hi"), priority=BATCH))
    assert isinstance(found, Understood)
    assert (found.turn, found.address.priority, found.address.client) == (turn_of("hi"), BATCH, CLIENT)


async def test_a_subject_of_nobody_is_dropped_without_an_end() -> None:
    assert await Desk().admission.understand(delivery_of(turn_of(), subject="turn.m.urgent.c.t1")) == Over()


@pytest.mark.parametrize(
    ("payload", "fragment"),
    [(b"\xc1", "not msgpack"), (codec.encode(turn_of(id="t2")), "not the subject's turn"), (b"", "")],
)
async def test_bytes_that_are_no_turn_are_dead_and_say_why(payload: bytes, fragment: str) -> None:
    found = await Desk().admission.understand(delivery_of(payload))
    assert isinstance(found, Dead)
    assert (found.failed.code, found.failed.worker, found.workers) == ("invalid_message", "w1", ())
    assert fragment in found.failed.detail


async def test_only_a_turn_that_was_delivered_before_is_looked_up_for_an_end() -> None:
    desk = Desk()
    desk.store.ends[CLIENT, "t1"] = DONE
    assert await desk.admission.understand(delivery_of(turn_of(), num_delivered=2)) == Over()
    assert isinstance(await desk.admission.understand(delivery_of(turn_of(), num_delivered=1)), Understood)


async def test_bytes_that_are_no_turn_and_have_their_end_get_no_second_one() -> None:
    desk = Desk()
    desk.store.ends[CLIENT, "t1"] = DONE
    assert await desk.admission.understand(delivery_of(b"\xc1", num_delivered=2)) == Over()


# --- What ends a turn before it is begun ---


async def test_a_cancelled_turn_ends_so_and_asks_no_peer() -> None:
    desk = Desk(cancel=Cancel())
    end = await desk.admission.admit(work_of(stored_at=time.time() - 3))
    assert isinstance(end, Done)
    assert is_done(end, "cancelled")
    assert (end.worker, end.usage.prompt_tokens) == ("w1", 0)
    assert 3 <= end.timings.queue_wait < 60
    assert desk.peers.asked_for == []


async def test_a_turn_that_was_cancelled_for_its_deadline_fails() -> None:
    end = await Desk(cancel=Cancel(reason="deadline")).admission.admit(work_of())
    assert is_failed(end, "deadline")


async def test_a_turn_past_its_deadline_fails_and_asks_no_peer() -> None:
    desk = Desk()
    end = await desk.admission.admit(work_of(turn_of(deadline=time.time() - 1)))
    assert end == Failed("deadline", "the deadline passed while the turn was queued", worker="w1")
    assert desk.peers.asked_for == []


async def test_a_cancel_comes_before_a_deadline() -> None:
    end = await Desk(cancel=Cancel()).admission.admit(work_of(turn_of(deadline=time.time() - 1)))
    assert is_done(end, "cancelled")


# --- Too late ---


async def test_a_turn_that_cannot_meet_its_deadline_is_told_both_times_and_when_to_come_again() -> None:
    desk = Desk(snapshot=MEASURED)
    desk.recent.computed(50)
    # 123 tokens of prompt at 100 a second, 50 of answer at 10 a second.
    turn = turn_of("x" * 100, deadline=time.time() + 3)
    end = await desk.admission.admit(work_of(turn))
    assert isinstance(end, Failed)
    assert (end.code, end.retryable, end.retry_after, end.worker) == ("overloaded", True, 12.5, "w1")
    assert end.detail.startswith("the answer would take about 6.2 s, and the deadline is in ")


async def test_an_answer_is_expected_to_be_as_long_as_they_were_and_no_longer_than_it_may_be() -> None:
    desk = Desk(snapshot=MEASURED)
    deadline = time.time() + 3
    assert isinstance(await desk.admission.admit(work_of(turn_of(deadline=deadline))), Admitted)
    desk.recent.computed(50)
    assert is_failed(await desk.admission.admit(work_of(turn_of(deadline=deadline))), "overloaded")
    short = turn_of(deadline=deadline, sampling=Sampling(max_tokens=5))
    assert isinstance(await desk.admission.admit(work_of(short)), Admitted)


async def test_nobody_is_too_late_for_an_engine_that_was_never_measured() -> None:
    desk = Desk()
    desk.recent.computed(10**9)
    assert isinstance(await desk.admission.admit(work_of(turn_of(deadline=time.time() + 60))), Admitted)


async def test_what_is_known_of_a_conversation_need_not_be_computed() -> None:
    desk = Desk(snapshot=LoopSnapshot(prefill_tokens_per_second=100.0, decode_tokens_per_second=1e6))
    first = turn_of("x" * 1000)
    job = (await desk.admitted(first)).job
    prompt = await desk.history.prompt(CLIENT, first)
    name = desk.history.remember(CLIENT, first, prompt, [*job.prompt, 70], "C")
    messages = (*first.messages, Message("assistant", "C"), Message("user", "more"))
    deadline = time.time() + 5
    known = turn_of(conversation=name, messages=messages, deadline=deadline)
    assert isinstance(await desk.admission.admit(work_of(known)), Admitted)
    unknown = turn_of(messages=(Message("user", "y" * 1000), *messages[1:]), deadline=deadline)
    assert is_failed(await desk.admission.admit(work_of(unknown)), "overloaded")


# --- The job ---


async def test_a_job_has_the_turns_prompt_and_what_room_is_left_for_the_answer() -> None:
    desk = Desk(max_tokens=100)
    found = await desk.admitted(turn_of("hi", sampling=Sampling(max_tokens=1000)), priority=BATCH)
    job = found.job
    assert (job.id, job.client, job.conversation, job.is_batch) == ("t1/0", CLIENT, "a", True)
    assert job.prompt == found.prompt.tokens
    assert len(job.prompt) == len("user: hi\nassistant: ") + 1
    assert job.max_tokens == 100 - len(job.prompt)
    assert (await desk.admitted(turn_of(sampling=Sampling(max_tokens=7)))).job.max_tokens == 7


async def test_what_a_peer_offers_comes_with_the_job() -> None:
    offer = Offer(Holding("w9", "f", 400, 1608))
    desk = Desk(offer=offer)
    found = await desk.admitted(turn_of())
    assert found.offer is offer
    assert desk.peers.asked_for == ["a"]


async def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers() -> None:
    end = await Desk(max_tokens=64).admission.admit(work_of(turn_of("x" * 64)))
    length = len("user: \nassistant: ") + 1 + 64
    detail = f"messages: {length} tokens, and the context holds 64"
    assert end == Failed("prompt_too_long", detail, False, "w1")


def long_conversation() -> tuple[Message, ...]:
    roles: tuple[Literal["user", "assistant"], ...] = ("user", "assistant")
    turns = [Message(role, f"{number} " + "x" * 200) for number in range(6) for role in roles]
    return (Message("system", "be brief"), *turns, Message("user", "last"))


async def test_a_long_conversation_loses_its_oldest_turns_where_that_is_wanted() -> None:
    desk = Desk(max_tokens=1024, overflow="drop")
    work = work_of(turn_of(messages=long_conversation()))
    found = await desk.admission.admit(work)
    assert isinstance(found, Admitted)
    assert len(found.job.prompt) < 1024 - ROOM_TOKENS
    assert "be brief" in found.prompt.rendered.text
    assert found.prompt.rendered.text.endswith("user: last\nassistant: ")
    kept = found.prompt.rendered.text.count("user: ") + found.prompt.rendered.text.count("assistant: ") - 1
    assert work.notes.num_dropped == len(long_conversation()) - 1 - kept > 0
    # As few as it takes: with the turn that was dropped last it would not fit.
    assert len(found.job.prompt) + 2 * 213 > 1024 - ROOM_TOKENS


@pytest.mark.parametrize("num_turns", [*range(1, 20), 3000])
async def test_the_turns_to_leave_out_are_found_by_few_renderings(num_turns: int) -> None:
    desk = Desk(max_tokens=1024, overflow="drop")
    turns = (Message("user", "x" * 50), Message("assistant", "y" * 50)) * num_turns
    work = work_of(turn_of(messages=(Message("system", "be brief"), *turns, Message("user", "last"))))
    found = await desk.admission.admit(work)
    assert isinstance(found, Admitted)
    size, head = 2 * 50 + len("user: \nassistant: \n"), 1 + len("system: be brief\nuser: last\nassistant: ")
    num_kept = num_turns if head + num_turns * size < 1024 else (1024 - ROOM_TOKENS - 1 - head) // size
    assert (work.notes.num_dropped, len(found.job.prompt)) == (2 * (num_turns - num_kept), head + num_kept * size)
    assert desk.renderer.num_rendered <= 1 + 2 * num_turns.bit_length()


async def test_a_long_conversation_is_refused_whole_where_it_is_not() -> None:
    work = work_of(turn_of(messages=long_conversation()))
    assert is_failed(await Desk(max_tokens=1024).admission.admit(work), "prompt_too_long")
    assert work.notes.num_dropped == 0


async def test_of_a_raw_prompt_nothing_is_dropped() -> None:
    desk = Desk(max_tokens=64, overflow="drop")
    end = await desk.admission.admit(work_of(turn_of("x" * 64, raw=True)))
    assert is_failed(end, "prompt_too_long")


async def test_a_last_turn_that_fits_without_room_to_spare_is_taken() -> None:
    desk = Desk(max_tokens=400, overflow="drop")
    messages = (Message("user", "x" * 300), Message("assistant", "y"), Message("user", "z" * 200))
    found = await desk.admitted(turn_of(messages=messages))
    assert 400 - ROOM_TOKENS < len(found.job.prompt) < 400
    assert "x" not in found.prompt.rendered.text


async def test_continuations_are_jobs_of_their_own_length() -> None:
    desk = Desk()
    found = await desk.admitted(turn_of("which", kind="score", continuations=("yes", "maybe")))
    begins = [begin for _, begin in found.job.continuations]
    assert begins == [len(found.job.prompt)] * 2
    assert [len(tokens) - begin for tokens, begin in found.job.continuations] == [3, 5]
    assert found.job.max_tokens == 5


async def test_a_continuation_that_does_not_fit_is_refused() -> None:
    end = await Desk(max_tokens=64).admission.admit(work_of(turn_of(kind="score", continuations=("y" * 60,))))
    assert isinstance(end, Failed)
    assert end.code == "prompt_too_long"
    assert end.detail.startswith("continuations: ")


async def test_a_grammar_that_cannot_be_followed_is_the_turns_end() -> None:
    class Refusing(NoGrammars):
        async def gbnf(self, sampling: Sampling, client: str = "") -> str | None:
            raise TurnRejected("invalid_grammar", f"grammar: of {client}", retryable=True)

    desk = Desk()
    jobs = JobMaker(desk.history, Refusing(), 4096, "error")
    admission = Admission("w1", desk.store, FakeCancels(), desk.peers, jobs, FakeEnginePort(), desk.recent, lambda: 0.0)
    assert await admission.admit(work_of()) == Failed("invalid_grammar", "grammar: of c", True, "w1")


async def test_what_would_hold_up_the_engine_is_done_before_it_and_what_is_no_number_is_greedy() -> None:
    wanted = Sampling(temperature=1e-30, logit_bias=((7, 1.0), ("ab", -2.0)))
    desk = Desk()
    found = (await desk.admitted(turn_of(sampling=wanted))).job.sampling
    assert found.logit_bias == ((7, 1.0), *((token, -2.0) for token in desk.history.tokens_of("ab")))
    assert found.temperature == 0.0
