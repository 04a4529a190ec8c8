"""What the benchmarks share: the model, the peers, a broker with a worker process, the table."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
from rich.console import Console
from rich.table import Table

from broker.accounts import BOARD, GATEWAY, LOCAL, WORKER, write_credentials
from broker.answer import Answer
from broker.client import Client
from broker.messages import Message, Sampling
from broker.process import spawn, terminate
from broker.server import EmbeddedServer
from tools.real_models import pinned
from workers.model_file import embeds

ROOT = Path(__file__).parents[1]
MODEL = ROOT / ".cache" / "models" / "TinyLlama-1.1B-Q4_0.gguf"
REAL_MODELS = ROOT / ".cache" / "real-models"
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Weights:
    """A model that a question is asked with: its file, and its name where it is a real one."""

    file: Path
    name: str | None = None

    def of(self, question: str) -> str:
        """The question, with the model's name behind it; the random shape has none."""
        return question if self.name is None else f"{question} ({self.name})"


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, ours, the peer's, their ratio or the value, and the target."""

    question: str
    ours: str
    peer: str
    result: float
    target: float
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        return self.result <= self.target if self.at_most else self.result >= self.target


def show(title: str, rows: list[Row]) -> None:
    """The table on the terminal, and its rows as JSON lines in .cache/bench.jsonl for `python -m benchmarks`."""
    table = Table(title=title)
    for name in ("question", "ours", "peer", "result", "target", "met"):
        table.add_column(name)
    for row in rows:
        bound = f"{'≤' if row.at_most else '≥'} {row.target:g}"
        table.add_row(row.question, row.ours, row.peer, f"{row.result:.3g}", bound, "yes" if row.is_met else "NO")
    Console(width=160).print(table)
    keep(rows)


def keep(rows: list[Row]) -> None:
    """As JSON lines, for the table of all."""
    with (ROOT / ".cache" / "bench.jsonl").open("a") as file:
        for row in rows:
            file.write(json.dumps({**row.__dict__, "is_met": row.is_met}) + "\n")


def machine() -> str:
    """The machine in one line."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith(("model name", "Model"))
        ),
        platform.machine(),
    )
    return f"{cpu}, {CORES} cores, Linux {platform.release()}, Python {platform.python_version()}"


def model() -> Path:
    """The TinyLlama-1.1B shape in Q4_0, made on the spot (1 min, 2.8 GB of disk for the while)."""
    if not MODEL.exists():
        command = [sys.executable, "-m", "workers.llama.random_model", "TinyLlama-1.1B", "Q4_0", str(MODEL)]
        subprocess.run(command, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    return MODEL


def all_weights() -> list[Weights]:
    """The random shape, and the real models of text that `make real-models` has fetched."""
    here = [one for one in pinned() if (REAL_MODELS / one.file).is_file()]
    real = [Weights(REAL_MODELS / one.file, one.name) for one in here if not embeds(REAL_MODELS / one.file)]
    return [Weights(model()), *real]


def asked_for(question: str | None) -> list[Weights]:
    """The models of the command line's `--model-file`, else all of them."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--model-file", type=Path, nargs="+", default=[], help="instead of all models")
    return [Weights(one, one.stem) for one in parser.parse_args().model_file] or all_weights()


def tool(name: str) -> Path:
    """A peer's binary, built by benchmarks/build_tools.sh."""
    folder = subprocess.run([ROOT / "benchmarks" / "build_tools.sh"], capture_output=True, text=True, check=True)
    return ROOT / folder.stdout.strip() / name


def worker_libraries() -> dict[str, str]:
    """For a peer's environment: it then runs on the worker's llama.cpp, with our attention."""
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    return {"LD_LIBRARY_PATH": str(Path(spec.origin).parent / "lib")}


def llama_bench(
    *,
    threads: int,
    prompt: int = 0,
    generate: int = 0,
    depth: int = 0,
    model_file: Path | None = None,
    patched: bool = False,
) -> float:
    """Tokens per second of llama-bench's one test behind `depth` tokens of context, the mean of two runs; `patched`:
    with the worker's attention."""
    command = [
        tool("llama-bench"),
        "-m",
        model_file or model(),
        "-t",
        threads,
        "-p",
        prompt,
        "-n",
        generate,
    ]
    command += ["-r", 2, "-d", depth, "-fa", 1, "-o", "json"]
    env = os.environ | (worker_libraries() if patched else {})
    found = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, env=env)
    return float(json.loads(found.stdout)[0]["avg_ts"])


def llama_batched_bench(
    *, threads: int, batch: int, prompt: int = 64, generate: int = 64, model_file: Path | None = None
) -> float:
    """Decoded tokens per second of all sequences together."""
    command = [
        tool("llama-batched-bench"),
        "-m",
        model_file or model(),
        "-t",
        threads,
        "-c",
        8192,
        "-b",
        2048,
        "-ub",
        256,
        "-fa",
        "on",
    ]
    command += ["-npp", prompt, "-ntg", generate, "-npl", batch, "-kvu", "--output-format", "jsonl"]
    found = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    line = next(line for line in found.stdout.splitlines() if line.startswith("{"))
    return float(json.loads(line)["speed_tg"])


@dataclass
class System:
    """A broker and a worker process, with a client on them."""

    client: Client
    server: EmbeddedServer
    worker: asyncio.subprocess.Process


@asynccontextmanager
async def system(
    *flags: str | int | float,
    entry: list[str] | None = None,
    user: str = WORKER,
    model_file: Path | None = None,
    log: Path | None = None,
) -> AsyncIterator[System]:
    """The whole system on this machine, as the commands run it. `entry` stands in for turnpike/; `log` is a file for
    all that the worker says."""
    with TemporaryDirectory(prefix="turnpike-bench-") as folder:
        async with EmbeddedServer(Path(folder)) as server:
            await server.ensure(["m"])
            credentials = Path(folder) / "worker.credentials"
            write_credentials(credentials, server.address(user))
            command: list[str | Path] = [sys.executable, *(entry or [str(ROOT / "turnpike")]), "worker"]
            command += ["--model-file", model_file or model(), "--model", "m", "--credentials", credentials]
            env = {"PYTHONPATH": str(ROOT)}
            command += ["--log-level", "WARNING" if log is None else "DEBUG", *map(str, flags)]
            with contextlib.nullcontext() if log is None else log.open("w") as told:
                worker = await spawn(command, env=env, stderr=None if told is None else told.fileno())
            try:
                async with Client(server.address(LOCAL)) as client:
                    while not await client.workers():
                        assert worker.returncode is None, "the worker did not start"
                    yield System(client, server, worker)
            finally:
                await terminate(worker)


@asynccontextmanager
async def gateway(server: EmbeddedServer) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """`turnpike gateway` on that server: its URL and its process."""
    with TemporaryDirectory(prefix="turnpike-bench-") as folder:
        credentials = Path(folder) / "gateway.credentials"
        write_credentials(credentials, server.address(GATEWAY))
        command = [sys.executable, str(ROOT / "turnpike"), "gateway", "--gateway-port", "0"]
        command += ["--credentials", str(credentials), "--log-level", "WARNING"]
        process = await spawn(command, env={"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE)
        try:
            assert process.stdout is not None
            url = (await process.stdout.readline()).decode().split()[-1]
            async with httpx2.AsyncClient(base_url=url) as http:
                while not (await http.get("/v1/models")).json()["data"]:
                    pass
            yield url, process
        finally:
            await terminate(process)


@asynccontextmanager
async def board(
    server: EmbeddedServer, folder: Path, *flags: str | int | Path, data: Path | None = None, log: Path | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`turnpike board` on that server, with all that it keeps in that folder, or in `data` what it has measured and
    verified. `log` is a file for all that it says."""
    credentials = folder / "board.credentials"
    write_credentials(credentials, server.address(BOARD))
    command: list[str | int | Path] = [sys.executable, ROOT / "turnpike", "board", "--credentials", credentials]
    command += ["--data-dir", data or folder / "data", "--board-dir", folder / "kept", *flags]
    with contextlib.nullcontext() if log is None else log.open("wb") as told:
        number = None if told is None else told.fileno()
        process = await spawn([*map(str, command)], env={"PYTHONPATH": str(ROOT)}, stdout=number, stderr=number)
        try:
            yield process
        finally:
            await terminate(process, 30.0)


@dataclass
class Timed:
    """An answer with the arrival of each of its tokens."""

    answer: Answer
    times: list[float]

    @property
    def decode_rate(self) -> float:
        """By the client's clock, whose first chunks came at once and whose last came when all was said."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])

    @property
    def worst_gap(self) -> float:
        return max(later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False))


async def timed(
    client: Client, messages: str | list[Message], max_tokens: int, streaming: asyncio.Event | None = None
) -> Timed:
    """Asks and notes when each token came; `streaming` is set by the first."""
    sampling = Sampling(max_tokens=max_tokens, ignore_eos=True)
    answer = client.ask("m", messages, sampling=sampling)
    times: list[float] = []
    async for chunk in answer:
        times += [time.perf_counter()] * len(chunk.tokens)
        if streaming is not None:
            streaming.set()
    return Timed(answer, times)


def text_of(num_tokens: int, salt: int = 0) -> str:
    """A message of so many tokens and a few more: each word is one token of the random model's vocabulary, and a real
    one's has nearly all of them."""
    words = ("radio", "node", "alarm", "power", "mast", "antenna", "battery", "link", "signal", "cable")
    return f"{salt} " + " ".join(words[(index * 7 + salt) % 10] for index in range(num_tokens))
