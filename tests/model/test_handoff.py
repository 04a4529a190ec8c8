"""A conversation that goes back and forth between two workers, and outlives both on their disks, over a real NATS: of
every kind of memory next to nothing is computed twice, and answers are those of a cold start."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from broker.accounts import LOCAL, WORKER
from broker.client import Client
from broker.connection import close, connect
from broker.messages import Done, Message, Sampling
from broker.server import EmbeddedServer
from tests.fakes import fake_worker
from tests.model.conftest import Bench
from tests.model.test_checkpoints import bound
from tests.model.test_reuse import assert_same, cold, model
from workers.engine.calibration import calibrate
from workers.engine.checkpoints import MIN_DISTANCE
from workers.engine.protocol import Span
from workers.kv.cache import MIN_OFFLOADED_TOKENS, OffloadCache
from workers.kv.disk import Disk
from workers.llama.context import ContextOptions, LlamaEngine, LlamaModel
from workers.prompts.history import History
from workers.prompts.renderer import TemplateRenderer
from workers.worker_options import WorkerOptions

Start = Callable[..., Bench]
ANSWER = Sampling(max_tokens=24, ignore_eos=True, logprobs=20, grammar="root ::= [a-z ]+")
NEW_TOKENS = 30
"""Of a question and what the template puts around it, at most."""
DEAR = 0.05
"""Seconds that a token counts, and does not take: models of this size compute sooner than anything is fetched."""
WORDS = "node radio mast alarm level power clock queue worker token signal cable fan board link edge"
__all__ = ["model"]


class DearEngine(LlamaEngine):
    """One whose tokens count for more than they take; its clock knows nothing else."""

    counted = 1.0

    def clock(self) -> float:
        return self.counted

    def decode(self, spans: list[Span]) -> list[list[int]]:
        self.counted += DEAR * sum(len(span.tokens) for span in spans)
        return super().decode(spans)


@asynccontextmanager
async def worker(
    server: EmbeddedServer, model: LlamaModel, renderer: TemplateRenderer, name: str, folder: Path
) -> AsyncIterator[History]:
    """A worker with a disk, and what it remembers."""
    engine = DearEngine(model, ContextOptions(num_ctx=4096, num_slots=3, num_threads=1))
    history = History(renderer, model.vocabulary)
    calibration = calibrate(engine, engine.clock)
    disk = Disk(folder, 1 << 30, calibration.layout("f"), lambda key: history.recall(key.client, key.conversation))
    disk.open(lambda key, told: history.adopt(key.client, key.conversation, told))
    cache = OffloadCache(1 << 28, disk, can_remove_part=engine.can_remove_part)
    nc = await connect(server.address(WORKER), name=name)
    options = WorkerOptions(
        name,
        "m",
        pull_seconds=0.2,
        state_fingerprint="f",
        fetch_bytes_per_second=1e9,
        look_seconds=0.1,
        leave_seconds=0,
    )
    running = fake_worker(nc, engine, options, cache=cache, calibration=calibration, history=history)
    stop = asyncio.Event()
    task = asyncio.create_task(running.run(stop))
    try:
        await asyncio.wait({task, asyncio.ensure_future(running.is_serving.wait())}, return_when="FIRST_COMPLETED")
        yield history
    finally:
        stop.set()
        await task
        await close(nc)
        cache.close()
        disk.close()
        engine.close()


def words(seed: int, number: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS.split(), k=number))


class Talk:
    """A conversation, and what was computed of it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.messages = [Message("system", words(0, 800))]
        self.computed = self.distinct = self._num_known = 0
        self.last: Done
        self.watched: list[dict[int, float]] = []

    async def ask(self, text: str) -> Done:
        """Asks, and hears the answer; the conversation is as it was."""
        asked = [*self.messages, Message("user", text)]
        answer = self._client.ask("m", asked, conversation="c", sampling=ANSWER)
        self.watched = [dict(one.top) async for chunk in answer for one in chunk.logprobs]
        self.last = answer.done
        return self.last

    async def next(self, text: str) -> Done:
        """The next turn; what is new in its prompt counts as distinct."""
        done = await self.ask(text)
        self.computed += computed(done)
        self.distinct += done.usage.prompt_tokens - self._num_known
        self._goes_on_from(text, done)
        return done

    async def change(self, text: str) -> None:
        """The last turn asked again, then otherwise, then as it was."""
        (question, _), self.messages = self.messages[-2:], self.messages[:-2]
        for one in (question.content, text):
            await self._ask_again(one)
        # By both: one that was left with the other wording counts its tokens when it asks what fetching would save.
        workers: set[str] = set()
        while len(workers) < 2:
            workers.add((await self._ask_again(question.content)).worker)
        self._goes_on_from(question.content, self.last)

    async def _ask_again(self, text: str) -> Done:
        done = await self.ask(text)
        assert computed(done) <= NEW_TOKENS + MIN_DISTANCE + MIN_OFFLOADED_TOKENS, (done.worker, done.usage)
        return done

    def _goes_on_from(self, text: str, done: Done) -> None:
        self._num_known = done.usage.prompt_tokens + done.usage.completion_tokens - 1
        self.messages += [Message("user", text), Message("assistant", done.text)]


def computed(done: Done) -> int:
    return done.usage.prompt_tokens - done.usage.cached_tokens


async def test_a_conversation_between_two_workers_and_over_their_restart(
    nats_server: EmbeddedServer, bench: Start, model: LlamaModel, tmp_path: Path
) -> None:
    renderer = TemplateRenderer(model.chat_template, bos_token="<s>", eos_token="<|im_end|>")
    await renderer.start()
    try:
        async with Client(nats_server.address(LOCAL)) as client:
            talk = Talk(client)
            for life in range(2):
                async with (
                    worker(nats_server, model, renderer, "w1", tmp_path / "1") as first,
                    worker(nats_server, model, renderer, "w2", tmp_path / "2") as second,
                ):
                    seen = [await talk.next(words(100 * life + number, 10)) for number in range(2 if life else 10)]
                    assert talk.computed <= bound(model) * talk.distinct
                    origins = {one.usage.cached_in for one in seen}
                    assert "peer" in origins if life == 0 else seen[0].usage.cached_in in ("disk", "peer")
                    await talk.change(words(200 + life, 12))
                    told = {"w1": first, "w2": second}[talk.last.worker].recall(LOCAL, "c")
                assert told is not None
                tokens = array("i", told.tokens).tolist()[: talk.last.usage.prompt_tokens]
                assert_same(talk.watched[:1], cold(bench, model, tokens)[:1])
    finally:
        await renderer.close()
