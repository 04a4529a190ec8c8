"""What is made of long texts is made beside the loop, which says so itself: it has to be free to let them go on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from broker.messages import Done, Message, Sampling, Turn
from tests.fakes import FakeRenderer, FakeVocabulary, NoGrammars
from tests.turn_fakes import CLIENT, WORKER, FakeEnginePort, FakePeers, turn_of, work_of
from workers.engine.events import Finished
from workers.prompts.history import History
from workers.prompts.off_loop import MAX_READ, MAX_TOKENIZED, off_loop
from workers.turns.jobs import JobMaker
from workers.turns.prompt_questions import PromptQuestions
from workers.turns.remembering import Remembering

LONG = "x" * (MAX_TOKENIZED + 1)
QUESTION = Message("user", "?")
TURNS = {
    "a chat": turn_of(LONG),
    "a raw prompt": turn_of(LONG, raw=True),
    "a prompt of tokens": turn_of(messages=(), raw=True, prompt=(5,) * len(LONG)),
    "what is scored": turn_of(kind="score", continuations=(LONG,)),
    "an answer that is begun": turn_of(
        messages=(QUESTION, Message("assistant", LONG)), sampling=Sampling(json_schema={"type": "string"})
    ),
}


class HeldVocabulary(FakeVocabulary):
    """Makes nothing of what is long before the loop has had its turn."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.num_held = 0

    def tokenize(self, text: str, *, template_spans: list[tuple[int, int]], add_bos: bool) -> list[int]:
        if len(text) > MAX_TOKENIZED:
            self._hold()
        return super().tokenize(text, template_spans=template_spans, add_bos=add_bos)

    def spelled(self, token: int) -> bytes:
        if not self.num_held:
            self._hold()
        return super().spelled(token)

    def _hold(self) -> None:
        went_on = threading.Event()
        self._loop.call_soon_threadsafe(went_on.set)
        assert went_on.wait(2), "the loop waited for it"
        self.num_held += 1


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS.keys())
async def test_the_loop_is_free_while_a_long_prompt_is_made_tokens(turn: Turn) -> None:
    vocabulary = HeldVocabulary()
    jobs = JobMaker(History(FakeRenderer(), vocabulary), NoGrammars(), 1 << 20, "error")
    job, prompt = await jobs.make(work_of(turn))
    assert vocabulary.num_held > 0
    assert len(prompt.tokens) + sum(len(tokens) for tokens, _ in job.continuations) > MAX_TOKENIZED


async def test_the_loop_is_free_while_a_long_history_is_gone_on_with() -> None:
    vocabulary = HeldVocabulary()
    history = History(FakeRenderer(), vocabulary)
    first = turn_of("hello")
    prompt = await history.prompt(CLIENT, first)
    history.remember(CLIENT, first, prompt, [*prompt.tokens, *(ord(one) + 3 for one in "hi")], "hi")
    following = turn_of(messages=(*first.messages, Message("assistant", "hi"), Message("user", LONG)))
    found = await history.prompt(CLIENT, following)
    assert (found.num_known, vocabulary.num_held) == (len(prompt.tokens) + 2, 1)


async def test_the_loop_is_free_while_a_long_prompt_is_told() -> None:
    vocabulary = HeldVocabulary()
    questions = PromptQuestions(WORKER, History(FakeRenderer(), vocabulary), vocabulary)
    end = await questions.answer(work_of(turn_of(LONG, kind="prompt")))
    assert isinstance(end, Done)
    assert (len(end.pieces), vocabulary.num_held) == (len(end.tokens), 1)


async def test_the_loop_is_free_while_an_answer_to_a_long_history_is_noted() -> None:
    vocabulary, peers = HeldVocabulary(), FakePeers()
    history = History(FakeRenderer(), vocabulary)
    work = work_of(turn_of("x" * MAX_READ))
    prompt = await history.prompt(CLIENT, work.turn)
    vocabulary.num_held = 0
    tokens = (*prompt.tokens, *(5,) * len(LONG))  # which do not spell what was sent: that is made tokens
    end = Finished(work.job, "stop", len(prompt.tokens), 0, len(LONG), 0.1, 0.1, tokens)
    await Remembering(history, FakeEnginePort(), peers).keep(work, prompt, end, LONG)
    assert vocabulary.num_held == 1
    assert history.recall(CLIENT, work.turn.conversation) is not None


async def test_what_is_short_is_made_at_once_and_an_error_is_its_callers() -> None:
    loops: list[Any] = []

    def fail() -> int:
        loops.append(asyncio.get_running_loop())
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await off_loop(MAX_TOKENIZED, fail)
    with pytest.raises(RuntimeError, match="no running event loop"):
        await off_loop(MAX_TOKENIZED + 1, fail)
    assert loops == [asyncio.get_running_loop()]
