"""Conversations survive a swap of models: drained by one worker process, found by the next one on the board, given to
another board's; next to nothing is computed twice, and answers are those of a worker that was never drained."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.accounts import read_credentials
from broker.connection import close, connect
from broker.messages import Done, Sampling
from tests.real import GEMMA, QWEN, real_model
from tests.real.fleet import MODEL, Fleet, Talk, fleet
from tests.real.test_reuse_peers import assert_same
from workers.boards.parked import Parked
from workers.llama.random_model import write_model

SHORT = Sampling(max_tokens=4, ignore_eos=True, logprobs=20)
WORDS = ("radio", "node", "alarm", "power", "mast", "antenna", "battery", "link", "signal", "cable")
MAX_SHARE = 0.02
"""Of the tokens that were computed before a swap, those that are computed again."""


def text(num_words: int, salt: int) -> str:
    return f"{salt} " + " ".join(WORDS[(index * 7 + salt) % 10] for index in range(num_words))


@asynccontextmanager
async def board(folder: Path, name: str) -> AsyncIterator[tuple[Parked, asyncio.TaskGroup]]:
    nc = await connect(read_credentials(folder / "worker.credentials"), name=name)
    async with asyncio.TaskGroup() as group:
        parked = Parked(nc, name, folder / name, 1 << 30)
        yield parked, group
        await parked.close()
    await close(nc)


async def all_next(talks: list[Talk], number: int) -> list[Done]:
    return [(await talk.next(f"And {number}?", SHORT)).done for talk in talks]


def share_again(before: list[Done], after: list[Done]) -> float:
    """Of what had been computed, by what the later turns did not find; what they say of it themselves is not asked."""
    known = [one.usage.prompt_tokens + one.usage.completion_tokens for one in before]
    missing = sum(max(0, most - one.usage.cached_tokens) for most, one in zip(known, after, strict=True))
    return missing / sum(known)


async def swapped(workers: Fleet, parked: Parked, name: str, later: str) -> None:
    """The worker of that name is drained, and there is none for a while; then there is another."""
    await workers.stop(name)
    assert parked.num_bytes > 0
    await workers.start(later, *parked.worker_flags)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("shape", ["tiny", "tiny-swa", "tiny-hybrid"])
async def test_eight_conversations_of_a_thousand_tokens_survive_a_swap(
    shape: str, tmp_path: Path, model_dir: Path
) -> None:
    """More than there are slots: some are in the context when the worker is drained, the others in RAM."""
    file = write_model(model_dir / f"{shape}.gguf", shape, "Q8_0")
    flags = ("--num-ctx", "4096", "--num-slots", "3")
    async with fleet(tmp_path, file, *flags) as workers, board(tmp_path, "a") as (parked, _):
        await workers.start("a1", *parked.worker_flags)
        talks = [Talk(workers.client, f"talk-{number}") for number in range(8)]
        first = [(await talk.next(text(950, number), SHORT)).done for number, talk in enumerate(talks)]
        assert min(one.usage.prompt_tokens for one in first) > 940
        await swapped(workers, parked, "a1", "a2")
        second = await all_next(talks, 2)
        await swapped(workers, parked, "a2", "a3")
        third = await all_next(talks, 3)
    assert {one.usage.cached_in for one in (*second, *third)} == {"board"}
    assert share_again(first, second) <= MAX_SHARE
    assert share_again(second, third) <= MAX_SHARE


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", [QWEN, GEMMA])
async def test_a_real_models_conversations_go_on_here_and_on_another_board(name: str, tmp_path: Path) -> None:
    async with (
        fleet(tmp_path, real_model(name), "--num-ctx", "2048", "--num-slots", "2") as workers,
        board(tmp_path, "a") as (here, group),
        board(tmp_path, "b") as (there, _),
    ):
        await workers.start("a1", *here.worker_flags)
        calm, talk = Talk(workers.client, "calm"), Talk(workers.client, "talk")
        expected = [await calm.next(text(250, 1), SHORT), await calm.next("And 2?", SHORT)]
        expected.append(await calm.next("And 3?", SHORT))
        found = [await talk.next(text(250, 1), SHORT)]
        await swapped(workers, here, "a1", "a2")
        found.append(await talk.next("And 2?", SHORT))
        await here.start(MODEL, group)
        await workers.stop("a2")
        await workers.start("b1", *there.worker_flags)
        found.append(await talk.next("And 3?", SHORT))
    done = [one.done for one in found]
    assert [one.usage.cached_in for one in done[1:]] == ["board", "peer"]
    assert share_again(done[:-1], done[1:]) <= MAX_SHARE
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)
