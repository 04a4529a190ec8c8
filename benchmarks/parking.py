"""What does it save to keep conversations at rest, in rotation over few slots and over a restart? What does it cost?"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import CORES, Row, Weights, asked_for, show, system, text_of, timed
from broker.client import Client
from broker.messages import Done, Message, Sampling
from workers.models import DEMO

NUM_CONVERSATIONS = 64
NUM_TURNS = 4
NUM_SLOTS = 8
CONTEXT_TOKENS = 1000
ROUNDS = 2


@dataclass
class Conversation:
    """One that goes on, and what was computed of its prompts."""

    client: Client
    name: str
    messages: list[Message] = field(default_factory=list)
    num_computed: int = 0
    num_distinct: int = 0
    ttft: list[float] = field(default_factory=list)

    async def next(self, text: str, max_tokens: int = 8) -> Done:
        self.messages.append(Message("user", text))
        sampling = Sampling(max_tokens=max_tokens, ignore_eos=True)
        started = time.perf_counter()
        answer = self.client.ask("m", self.messages, conversation=self.name, sampling=sampling)
        first: float | None = None
        async for chunk in answer:
            first = first if first is not None or not chunk.tokens else time.perf_counter() - started
        assert first is not None
        done = answer.done
        self.ttft.append(first)
        self.num_computed += done.usage.prompt_tokens - done.usage.cached_tokens
        self.num_distinct = done.usage.prompt_tokens  # the last prompt has all that is distinct in it
        self.messages.append(Message("assistant", done.text))
        return done


async def rotation() -> Row:
    """Each conversation waits for all others between its turns; 8 slots, and a context that holds about a dozen."""
    flags = ("--num-slots", NUM_SLOTS, "--num-ctx", 2048, "--park-bytes", 1 << 30)
    async with system(*flags, model_file=DEMO.path) as here:
        conversations = [Conversation(here.client, f"c{number}") for number in range(NUM_CONVERSATIONS)]
        for index in range(NUM_TURNS):
            for number, one in enumerate(conversations):
                await one.next(f"Our mast {number} of round {index} is {number + index} metres high. " * 4)
    computed = sum(one.num_computed for one in conversations)
    # What a model has answered is in the next prompt and was computed as it was chosen, all but its last token.
    answers = sum(7 * (NUM_TURNS - 1) for _ in conversations)
    distinct = sum(one.num_distinct for one in conversations) - answers
    name = f"{NUM_CONVERSATIONS} conversations over {NUM_SLOTS} slots: prompt tokens computed ÷ distinct"
    return Row(name, str(computed), str(distinct), computed / distinct, 1.02, at_most=True)


async def restart(weights: Weights) -> Row:
    """The next turn of a conversation after its worker was started anew: from disk, and without."""
    found: dict[str, list[float]] = {"disk": [], "none": []}
    with TemporaryDirectory(prefix="turnpike-kv-") as folder:
        for number in range(ROUNDS):
            for kind, max_bytes in (("disk", 1 << 32), ("none", 0)):
                flags = ("--threads", CORES, "--disk-bytes", max_bytes, "--kv-dir", f"{folder}/{number}{kind}")
                text = text_of(CONTEXT_TOKENS, number)
                async with system(*flags, model_file=weights.file) as here:
                    one = Conversation(here.client, "c")
                    await one.next(text, max_tokens=2)
                async with system(*flags, model_file=weights.file) as here:
                    await timed(here.client, text_of(32), 4)
                    one.client = here.client
                    done = await one.next("And now?", max_tokens=2)
                    assert (done.usage.cached_in == "disk") == (kind == "disk"), done.usage
                    found[kind].append(one.ttft[-1])
    computed, read = statistics.median(found["none"]), statistics.median(found["disk"])
    name = weights.of(f"TTFT after a restart, {CONTEXT_TOKENS} tokens: computed ÷ from disk")
    return Row(name, f"{read * 1000:.0f} ms", f"{computed * 1000:.0f} ms", computed / read, 30)


async def precision() -> list[Row]:
    """What q8_0 in the cache costs and saves."""
    prefill: dict[str, list[float]] = {"f16": [], "q8_0": []}
    decode: dict[str, list[float]] = {"f16": [], "q8_0": []}
    for _ in range(ROUNDS):
        for kind in prefill:
            async with system("--threads", CORES, "--kv-type", kind) as here:
                await timed(here.client, text_of(32), 4)
                found = await timed(here.client, text_of(CONTEXT_TOKENS), 64)
                done = found.answer.done
                prefill[kind].append((done.usage.prompt_tokens - done.usage.cached_tokens) / done.timings.prefill)
                decode[kind].append(found.decode_rate)
    rows = []
    for name, rates in ((f"prefill of {CONTEXT_TOKENS} tokens", prefill), (f"decode behind {CONTEXT_TOKENS}", decode)):
        f16, q8 = (statistics.median(one) for one in rates.values())
        ratio = statistics.median(one / other for one, other in zip(rates["q8_0"], rates["f16"], strict=True))
        rows.append(Row(f"{name}, KV in q8_0 ÷ f16", f"{q8:.1f}/s", f"{f16:.1f}/s", ratio, 0))
    return rows


async def measure(models: list[Weights]) -> list[Row]:
    return [*[await restart(weights) for weights in models], await rotation(), *await precision()]


def main() -> None:
    assert Path(DEMO.path).exists()
    show("conversations at rest", asyncio.run(measure(asked_for(__doc__))))


if __name__ == "__main__":
    main()
