"""Conversations at rest: more of them than slots, over restarts, longer than the context."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pytest

from broker.answer import Answer, TurnFailed
from broker.client import Client
from broker.messages import Done, Message, Sampling
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.kv_fakes import LAYOUT
from tests.support import eventually
from workers.engine_runner import EngineRunner
from workers.kv.cache import MIN_OFFLOADED_TOKENS, OffloadCache
from workers.kv.disk import Disk

TEXT = "What is the weather like on the mast today, and what will it be tomorrow? "


class Conversation:
    """One that goes on, turn by turn."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name
        self.messages: list[Message] = []

    def question(self) -> str:
        return f"{self.name} {len(self.messages)}: {TEXT}"

    async def next(self) -> Done:
        self.messages.append(Message("user", self.question()))
        sampling = Sampling(max_tokens=8)
        done: Done = await self._client.ask("m", self.messages, conversation=self.name, sampling=sampling)
        self.messages.append(Message("assistant", done.text))
        return done


def computed(done: Done) -> int:
    return done.usage.prompt_tokens - done.usage.cached_tokens


async def test_more_conversations_than_slots_compute_nothing_twice(client: Client, start_worker: StartWorker) -> None:
    engine = FakeEngine(num_slots=3, num_ctx=3000)
    async with start_worker(engine, offload_cache=OffloadCache(1_000_000)):
        conversations = [Conversation(client, f"c{number}") for number in range(12)]
        first = [await one.next() for one in conversations]
        later = [await one.next() for _ in range(3) for one in conversations]
    # The beginning is the same for all of them.
    assert all(done.usage.recomputed_tokens == 0 for done in (*first, *later))
    assert {done.usage.cached_in for done in later} == {"ram"}
    assert max(map(computed, later)) < len(TEXT) + 40
    assert engine.num_restored >= 36


async def test_a_short_question_asked_again_is_not_computed_again(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(num_slots=1, num_ctx=1200), offload_cache=OffloadCache(1_000_000)):
        first = await client.ask("m", "Why so?")
        await client.ask("m", "And then?")
        again = await client.ask("m", "Why so?")
    assert first.usage.prompt_tokens + first.usage.completion_tokens > MIN_OFFLOADED_TOKENS
    # Less than what is worth a place behind the beginning that all prompts share.
    assert first.usage.prompt_tokens < MIN_OFFLOADED_TOKENS
    assert computed(again) == 1
    assert again.usage.cached_in == "ram"


async def test_what_the_caps_do_not_hold_is_computed_again_and_counted(
    client: Client, start_worker: StartWorker
) -> None:
    engine = FakeEngine(num_slots=2, num_ctx=3000)
    async with start_worker(engine, offload_cache=OffloadCache(1000)):
        conversations = [Conversation(client, f"c{number}") for number in range(6)]
        for one in conversations:
            await one.next()
        done = await conversations[0].next()
    assert done.usage.recomputed_for == "evicted"
    assert done.usage.recomputed_tokens > 40


async def test_conversations_outlive_their_worker_on_disk(
    client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    conversations = [Conversation(client, f"c{number}") for number in range(5)]
    async with start_worker(offload_cache=OffloadCache(1_000_000, Disk(tmp_path, 1_000_000, LAYOUT))):
        for one in conversations:
            await one.next()
    disk = Disk(tmp_path, 1_000_000, LAYOUT)
    disk.open()
    engine = FakeEngine(num_slots=2)
    async with start_worker(engine, name="w2", offload_cache=OffloadCache(1_000_000, disk)) as running:
        done = [await one.next() for one in conversations]
        assert running.cache.stats.num_evicted == 0
    assert {one.usage.cached_in for one in done} == {"disk"}
    assert max(map(computed, done)) < len(TEXT) + 60
    assert engine.num_restored == 5


async def test_a_cancelled_and_a_failed_turn_leave_what_is_parked_as_it_is(
    client: Client, start_worker: StartWorker
) -> None:
    engine = FakeEngine(num_slots=1, num_ctx=1200)
    async with start_worker(engine, offload_cache=OffloadCache(1_000_000)):
        one, other = Conversation(client, "one"), Conversation(client, "other")
        await one.next()
        await other.next()
        with pytest.raises(TurnFailed, match="prompt_too_long"):
            await client.ask("m", "x" * 5000, conversation="one")
        done = await one.next()
    assert done.usage.cached_in == "ram"
    assert done.usage.recomputed_tokens == 0


async def test_a_conversation_longer_than_the_context_is_an_error_or_loses_its_oldest_turns(
    client: Client, start_worker: StartWorker
) -> None:
    async def long(name: str) -> list[Done]:
        conversation = Conversation(client, name)
        conversation.messages.append(Message("system", "You are brief."))
        return [await conversation.next() for _ in range(20)]

    async with start_worker(FakeEngine(num_ctx=1000)):
        with pytest.raises(TurnFailed, match="prompt_too_long"):
            await long("refused")
    engine = FakeEngine(num_ctx=1000)
    async with start_worker(engine, name="w2", overflow="drop"):
        found = await long("shortened")
    assert found[0].usage.dropped_messages == 0
    last = found[-1].usage
    assert last.dropped_messages > 0
    assert last.dropped_messages % 2 == 0  # whole turns
    assert last.prompt_tokens < 1000
    assert last.recomputed_for == "overflow"
    assert found[-1].text.startswith("echo s")


async def test_a_last_turn_that_fits_without_room_to_spare_is_answered(
    client: Client, start_worker: StartWorker
) -> None:
    messages = [Message("user", "x" * 500), Message("assistant", "y"), Message("user", "z" * 900)]
    async with start_worker(FakeEngine(num_ctx=1000), overflow="drop"):
        done = await client.ask("m", messages, sampling=Sampling(max_tokens=4))
    assert done.usage.dropped_messages == 2
    assert 900 < done.usage.prompt_tokens < 1000


async def test_a_batch_turn_is_set_aside_for_an_interactive_one_and_goes_on(
    client: Client, start_worker: StartWorker
) -> None:
    engine = FakeEngine(num_slots=2, num_ctx=3000, answer="x" * 300, step_seconds=0.002)
    long = Sampling(max_tokens=300)
    async with start_worker(engine, offload_cache=OffloadCache(1_000_000)):
        ended: list[str] = []

        async def ask(name: str, sampling: Sampling, priority: Literal["interactive", "batch"]) -> Done:
            # Batch turns that begin alike and answer the same would go on from each other's cells.
            text = f"{name}: {TEXT}" if priority == "batch" else TEXT
            done: Done = await client.ask("m", text, conversation=name, sampling=sampling, priority=priority)
            ended.append(name)
            return done

        async with asyncio.TaskGroup() as group:
            batch = [group.create_task(ask(f"batch-{number}", long, "batch")) for number in range(2)]
            await asyncio.to_thread(engine.entered.wait, 10)
            await eventually(lambda: sum(len(cells) > 200 for cells in engine.cells) == 2)
            quick = [
                group.create_task(ask(f"quick-{number}", Sampling(max_tokens=5), "interactive")) for number in range(4)
            ]
        assert ended[:4] == [f"quick-{number}" for number in range(4)]
        assert {task.result().text for task in batch} == {"x" * 300}
        assert {task.result().text for task in quick} == {"x" * 5}
        # Nothing of the batch turn that was set aside was computed again.
        assert engine.num_restored >= 1
        assert engine.num_tokens < 2 * 300 + 4 * 5 + 300  # three prompts: the quick turns have one together


async def test_batch_keeps_its_share_of_slots_and_a_cancelled_turn_that_was_set_aside_ends(
    client: Client, start_worker: StartWorker
) -> None:
    engine = FakeEngine(num_slots=2, num_ctx=3000, answer="x" * 2000, step_seconds=0.002)
    async with start_worker(engine, offload_cache=OffloadCache(1_000_000)) as running:
        batch = [
            client.ask("m", TEXT, conversation=f"b{n}", priority="batch", sampling=Sampling(max_tokens=700))
            for n in (0, 1)
        ]
        async with asyncio.TaskGroup() as group:
            tasks = []
            for answer in batch:
                await answer.publish()
                tasks.append(group.create_task(wait_for(answer)))
            await eventually(lambda: sum(len(cells) > 100 for cells in engine.cells) == 2)
            slow = group.create_task(
                wait_for(client.ask("m", TEXT, conversation="i", sampling=Sampling(max_tokens=400)))
            )
            assert isinstance(running.worker.engine, EngineRunner)
            jobs = running.worker.engine._loop._running
            (aside,) = await eventually(lambda: [one for one in list(jobs.values()) if one.is_preempted])
            name = aside.job.conversation
            await client.cancel(conversation=name)
            done = await tasks[int(name[1:])]
            assert done.finish_reason == "cancelled"
            assert 0 < len(done.tokens) < 700
            assert not slow.done()
        assert len((await tasks[1 - int(name[1:])]).tokens) == 700


async def wait_for(answer: Answer) -> Done:
    done: Done = await answer
    return done
