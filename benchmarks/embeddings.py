"""How quick are vectors, are they the peer's, and does a chat on the same board notice that they are made?

1,000 passages of OpenAssistant's texts, over the queue and by llama-server --embeddings with the same file and threads,
in turns of a block each: ours, theirs, theirs, ours, …, so that a machine that slows down slows both. Then questions to
a chat model's worker beside an embedding model's, while that has nothing to do and while a long list keeps it busy. Six
minutes on two cores; `--passages 50` for a first look.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import CORES, REAL_MODELS, ROOT, Row, model, show, text_of, timed
from benchmarks.peers import LlamaServer, llama_server
from broker.accounts import LOCAL, WORKER, write_credentials
from broker.client import Client
from broker.embedding import TEXTS_A_TURN
from broker.process import spawn, terminate
from broker.server import EmbeddedServer
from producers.data.datasets import load_conversations
from tests.conftest import SHARED

MINILM = REAL_MODELS / "all-minilm-l6-v2-f16.gguf"
CHAT = REAL_MODELS / "q05.gguf"
MAX_CHARACTERS = 1200
"""Of a passage, so that it is never longer than the model's 512 tokens."""
BLOCKS = 4
IN_FLIGHT = 8
PARALLEL = 16
"""Texts that llama-server may put into one batch; its steps have as many tokens as ours at most."""
ASKED = 5
"""Questions of a block, beside an idle embedding worker and beside a busy one."""
PROMPT_TOKENS = 96


def passages(num: int) -> list[str]:
    """Different ones; where the texts beside the checkout are not here, or too few, the shipped ones, numbered."""
    trees = SHARED / "oasst_en_trees.jsonl"
    talks = load_conversations(trees if trees.exists() else None)
    found = list(dict.fromkeys(one.content.strip()[:MAX_CHARACTERS] for talk in talks for one in talk.messages))
    found = [text for text in found if text]
    numbered = (f"{number}: {text}" for number in range(1, num) for text in found)
    return [*found, *(next(numbered) for _ in range(num - len(found)))][:num]


async def by_llama_server(server: LlamaServer, texts: Sequence[str]) -> np.ndarray:
    """As many in a request, and as many requests at once, as our client has turns."""
    parts = [texts[at : at + TEXTS_A_TURN] for at in range(0, len(texts), TEXTS_A_TURN)]
    found: list[list[bytes]] = [[] for _ in parts]
    waiting = iter(enumerate(parts))

    async def ask() -> None:
        for index, part in waiting:
            found[index] = await server.embed(list(part))

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(ask())
    return np.frombuffer(b"".join(one for part in found for one in part), "<f4").reshape(len(texts), -1)


async def by_queue(client: Client, texts: Sequence[str]) -> np.ndarray:
    vectors = await client.embed("e", texts, max_in_flight=IN_FLIGHT)
    return np.frombuffer(vectors.data, "<f4").reshape(len(vectors), -1)


async def throughput(client: Client, texts: list[str]) -> list[Row]:
    """Seconds of all passages with both, and the largest difference of their vectors."""
    size = -(-len(texts) // BLOCKS)
    blocks = [texts[at : at + size] for at in range(0, len(texts), size)]
    seconds = {"ours": 0.0, "theirs": 0.0}
    differences = []
    flags = ("--embeddings", "-t", CORES, "-tb", CORES, "-b", 512, "-ub", 512, "-np", PARALLEL, "-c", 512 * PARALLEL)
    async with llama_server(*flags, model_file=MINILM) as server:
        await by_queue(client, texts[:TEXTS_A_TURN])
        await by_llama_server(server, texts[:TEXTS_A_TURN])
        for index, block in enumerate(blocks):
            made = {}
            for name in ("ours", "theirs") if index % 2 == 0 else ("theirs", "ours"):
                began_at = time.perf_counter()
                made[name] = await (by_queue(client, block) if name == "ours" else by_llama_server(server, block))
                took = time.perf_counter() - began_at
                seconds[name] += took
                print(f"{name}: {len(block)} passages in {took:.1f} s, {len(block) / took:.1f}/s", flush=True)
            differences.append(float(np.abs(made["ours"] - made["theirs"]).max()))
    ours, theirs = (len(texts) / seconds[name] for name in ("ours", "theirs"))
    return [
        Row(f"{len(texts):,} passages: texts/s", f"{ours:.1f}", f"{theirs:.1f}", ours / theirs, 0.95),
        Row("largest difference of a value", f"{max(differences):.2g}", "", max(differences), 1e-3, at_most=True),
    ]


async def ttft(client: Client, salt: int) -> float:
    """Of a question that no earlier one begins like."""
    began_at = time.perf_counter()
    return (await timed(client, text_of(PROMPT_TOKENS, salt), 16)).times[0] - began_at


async def beside(client: Client, texts: list[str]) -> list[Row]:
    """Times to a chat's first token, beside an idle embedding worker and beside a busy one, in turns."""
    alone, busy = [], []
    stop = asyncio.Event()
    num_texts = 0

    async def embed_on(begun: asyncio.Event) -> None:
        nonlocal num_texts
        while not stop.is_set():
            async for part in client.embed_in_turns("e", texts):
                num_texts += len(part)
                begun.set()
                if stop.is_set():
                    break

    await ttft(client, 0)
    seconds = 0.0
    for block in range(BLOCKS):
        alone += [await ttft(client, 1000 * block + index) for index in range(1, ASKED + 1)]
        stop.clear()
        begun = asyncio.Event()
        embedding = asyncio.ensure_future(embed_on(begun))
        await begun.wait()
        began_at, num_before = time.perf_counter(), num_texts
        busy += [await ttft(client, 1000 * block + 500 + index) for index in range(1, ASKED + 1)]
        seconds += time.perf_counter() - began_at
        print(f"beside the chat: {num_texts - num_before} passages meanwhile", flush=True)
        stop.set()
        await embedding
    print(f"alone {[round(one, 3) for one in alone]}\nbusy  {[round(one, 3) for one in busy]}", flush=True)
    without, with_ = statistics.median(alone), statistics.median(busy)
    return [
        Row(
            "a chat's TTFT beside a busy embedding worker ÷ beside an idle one",
            f"{1000 * with_:.0f} ms",
            f"{1000 * without:.0f} ms",
            with_ / without,
            1.2,
            at_most=True,
        )
    ]


async def measure(num: int) -> list[Row]:
    """All of it on one broker with two workers."""
    texts = passages(num)
    with TemporaryDirectory(prefix="turnpike-bench-") as folder:
        async with EmbeddedServer(Path(folder)) as server:
            await server.ensure(["m", "e"])
            credentials = Path(folder) / "worker.credentials"
            write_credentials(credentials, server.address(WORKER))
            command = [sys.executable, str(ROOT / "turnpike"), "worker", "--credentials", str(credentials)]
            command += ["--log-level", "WARNING"]
            workers = []
            try:
                async with Client(server.address(LOCAL)) as client:
                    for name, file in (("e", MINILM), ("m", CHAT if CHAT.exists() else model())):
                        worker = [*command, "--worker-name", name, "--model", name, "--model-file", str(file)]
                        workers.append(await spawn(worker, env={"PYTHONPATH": str(ROOT)}))
                        while not any(one.model == name and one.is_serving for one in await client.workers()):
                            assert workers[-1].returncode is None, f"the worker of {file.name} did not start"
                    return [*await throughput(client, texts), *await beside(client, texts)]
            finally:
                await asyncio.gather(*map(terminate, workers))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1000)
    if not MINILM.exists():
        sys.exit(f"no {MINILM}: make real-models")
    show("vectors, beside llama-server and beside a chat", asyncio.run(measure(parser.parse_args().passages)))
