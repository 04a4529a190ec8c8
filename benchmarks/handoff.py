"""What does it save to fetch a conversation from another worker, and what does it cost the one that gives it?"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import CORES, ROOT, Row, System, Weights, asked_for, model, show, system, text_of
from benchmarks.parking import CONTEXT_TOKENS, Conversation
from broker import codec, subjects
from broker.accounts import WORKER, write_credentials
from broker.connection import connect
from broker.messages import MAX_PART_BYTES, FetchClose, FetchOpen, FetchPart, Opened, Sampling
from broker.process import spawn, terminate

NUM_CONVERSATIONS = 4
GIVEN_BYTES_PER_SECOND = 20_000_000
WINDOW_SECONDS = 5
NUM_WINDOWS = 6


@asynccontextmanager
async def another_worker(here: System, *flags: str | int, model_file: Path | None = None) -> AsyncIterator[None]:
    """A second worker process beside the one that `system` started."""
    with TemporaryDirectory(prefix="turnpike-peer-") as folder:
        credentials = Path(folder) / "worker.credentials"
        write_credentials(credentials, here.server.address(WORKER))
        command = [sys.executable, ROOT / "turnpike", "worker", "--model-file", model_file or model(), "--model", "m"]
        command += ["--credentials", credentials, "--worker-name", "second", "--log-level", "WARNING", *flags]
        worker = await spawn([*map(str, command)], env={"PYTHONPATH": str(ROOT)})
        try:
            while len(await here.client.workers()) < 2:
                assert worker.returncode is None, "the second worker did not start"
            yield
        finally:
            await terminate(worker)


async def moved(
    fetch_bytes_per_second: int, model_file: Path | None = None, num_conversations: int = NUM_CONVERSATIONS
) -> tuple[list[float], list[float]]:
    """Times to first token of second turns that another worker had than the first, and what fetching took of them."""
    flags = ("--threads", CORES, "--num-slots", 8, "--fetch-bytes-per-second", fetch_bytes_per_second)
    ttft: list[float] = []
    fetching: list[float] = []
    async with system(*flags, model_file=model_file) as here, another_worker(here, *flags, model_file=model_file):
        for number in range(num_conversations):
            one = Conversation(here.client, f"c{number}")
            first = await one.next(text_of(CONTEXT_TOKENS, number), max_tokens=2)
            done = await one.next("And now?", max_tokens=2)
            if done.worker != first.worker:
                assert (done.usage.cached_in == "peer") == bool(fetch_bytes_per_second), done.usage
                ttft.append(one.ttft[-1])
                fetching.append(done.timings.fetch)
    return ttft, fetching


async def fetched(weights: Weights) -> Row:
    computed, _ = await moved(0, weights.file)
    taken, fetching = await moved(1_000_000_000, weights.file)
    each = [" ".join(f"{one * 1000:.0f}" for one in times) for times in (taken, computed, fetching)]
    print(f"ms, fetched {each[0]}, computed {each[1]}; fetching took {each[2]}")
    ours, without = statistics.median(taken), statistics.median(computed)
    name = f"TTFT of the next turn on another worker, {CONTEXT_TOKENS} tokens: computed ÷ fetched"
    return Row(weights.of(name), f"{ours * 1000:.0f} ms", f"{without * 1000:.0f} ms", without / ours, 30)


async def given(weights: Weights) -> Row:
    """Decode of four streams, in turn with and without a peer that fetches an idle conversation again and again: each
    time it is copied out of the context, as parking does, and sent."""
    # Guesses would make the answers' speed another from window to window.
    flags = ("--threads", CORES, "--num-slots", 8, "--num-ctx", 8192, "--speculation", "off")
    async with system(*flags, "--fetch-bytes-per-second", GIVEN_BYTES_PER_SECOND, model_file=weights.file) as here:
        await Conversation(here.client, "idle").next(text_of(CONTEXT_TOKENS), max_tokens=2)
        (worker,) = await here.client.workers()
        peer = await connect(here.server.address(WORKER), name="peer")
        num_bytes = 0

        async def fetch_for(seconds: float) -> None:
            nonlocal num_bytes
            until = time.perf_counter() + seconds
            subject = subjects.kv(worker.worker)
            while time.perf_counter() < until:
                request = codec.encode(FetchOpen(here.client.name, "idle"))
                opened = codec.decode((await peer.request(subject, request, timeout=30)).data, Opened)
                offsets = iter(range(0, opened.num_bytes, MAX_PART_BYTES))

                async def read(opened: Opened = opened, offsets: Iterator[int] = offsets) -> None:
                    nonlocal num_bytes
                    for offset in offsets:
                        if time.perf_counter() >= until:
                            return
                        part = FetchPart(opened.transfer, offset, min(MAX_PART_BYTES, opened.num_bytes - offset))
                        answer = await peer.request(subject, codec.encode(part), timeout=30)
                        num_bytes += len(answer.data)

                await asyncio.gather(*(read() for _ in range(8)))
                await peer.publish(subject, codec.encode(FetchClose(opened.transfer)))

        times: list[float] = []

        async def stream(number: int) -> None:
            sampling = Sampling(max_tokens=1500, ignore_eos=True)
            async for chunk in here.client.ask("m", text_of(20, number), sampling=sampling):
                times.extend([time.perf_counter()] * len(chunk.tokens))

        streams = [asyncio.create_task(stream(number)) for number in range(4)]
        await asyncio.sleep(5)  # all of them decode
        windows: list[tuple[bool, float, float]] = []
        for number in range(NUM_WINDOWS):
            # Answers grow slower as they go on: with, without, without, with, so that both lose the same.
            for is_giving in (True, False) if number % 2 == 0 else (False, True):
                began = time.perf_counter()
                await (fetch_for(WINDOW_SECONDS) if is_giving else asyncio.sleep(WINDOW_SECONDS))
                windows.append((is_giving, began, time.perf_counter()))
        assert not any(task.done() for task in streams), "the answers ended before the windows"
        for task in streams:
            task.cancel()
        await peer.close()
    rates: dict[bool, list[float]] = {True: [], False: []}
    for is_giving, began, ended in windows:
        rates[is_giving].append(sum(began <= at < ended for at in times) / (ended - began))
    print("decode with and without:", {kind: [f"{one:.1f}" for one in each] for kind, each in rates.items()})
    rate = num_bytes / (NUM_WINDOWS * WINDOW_SECONDS) / 1e6
    ours, without = statistics.mean(rates[True]), statistics.mean(rates[False])
    name = f"decode of 4 streams while {rate:.0f} MB/s are copied out and given to a peer ÷ without"
    return Row(weights.of(name), f"{ours:.1f}/s", f"{without:.1f}/s", ours / without, 0.93)


async def measure(models: list[Weights]) -> list[Row]:
    return [*[await fetched(weights) for weights in models], *[await given(weights) for weights in models]]


def main() -> None:
    show("a conversation that changes its worker", asyncio.run(measure(asked_for(__doc__))))


if __name__ == "__main__":
    main()
