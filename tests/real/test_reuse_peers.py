"""A conversation whose memory cannot be cut moves from one worker to another: fetched, and resumed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.messages import Sampling
from tests.model.test_engine import LOGITS_TOLERANCE
from tests.real.fleet import Talk, Told, fleet, read
from tests.real.test_deterministic import QUESTIONS, SYSTEM
from tests.support import eventually
from workers.engine.checkpoints import BEFORE_END, MIN_DISTANCE
from workers.llama.random_model import write_model

SHORT = Sampling(max_tokens=2, ignore_eos=True, logprobs=20)
"""Of random weights answers have bytes that are no text, and are gone on from as they were sent."""
LONG = Sampling(max_tokens=400, ignore_eos=True, logprobs=20)


def assert_same(found: Told, expected: Told) -> None:
    """The same answer, up to where it chose between equals: from there on they are two."""
    assert len(found.tokens) == len(expected.tokens)
    for ours, theirs in zip(found.logprobs, expected.logprobs, strict=True):
        told = dict(theirs.top)
        assert abs(ours.logprob - told[ours.token]) < 2 * LOGITS_TOLERANCE
        if ours.token != theirs.token:
            assert told[theirs.token] - told[ours.token] < 2 * LOGITS_TOLERANCE
            return


@pytest.mark.timeout(120)
@pytest.mark.parametrize("shape", ["tiny-hybrid", "tiny-delta"])
async def test_a_conversation_is_fetched_by_a_second_worker_and_goes_on_with_the_first_when_that_one_dies(
    shape: str, tmp_path: Path, model_dir: Path
) -> None:
    file = write_model(model_dir / f"{shape}.gguf", shape, "Q8_0")
    turns = ((SYSTEM * 8, SHORT), (QUESTIONS[1], SHORT), (QUESTIONS[2], LONG))
    async with fleet(tmp_path, file, "--num-ctx", "4096", "--num-slots", "1", "--coalesce-seconds", "0") as workers:
        await workers.start("a")
        calm, talk = Talk(workers.client, "calm"), Talk(workers.client, "talk")
        expected = [await calm.next(*turn) for turn in turns]
        found = [await talk.next(*turns[0])]
        await workers.start("b")
        await workers.keep_busy("a")
        found.append(await talk.next(*turns[1]))
        answer = talk.ask(*turns[2])
        reader = asyncio.create_task(read(answer))
        await eventually(lambda: answer.num_tokens > 10)
        await workers.kill("b")
        assert answer.num_tokens < LONG.max_tokens
        await workers.let_go()
        found.append(await reader)
    usage = [one.done.usage for one in found]
    assert [one.done.worker for one in found] == ["a", "b", "a"]
    assert [one.cached_in for one in usage[1:]] == ["peer", "ram"]
    assert all(one.cached_tokens >= usage[0].prompt_tokens - MIN_DISTANCE - BEFORE_END for one in usage[1:])
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)
