"""Breaks things at random, from a seed, and accounts for every turn at the end.

Producers, workers and the server are processes. Each producer and worker has a wall clock of its own; where this user
may lay one, the first worker is behind a cable that can be pulled out. The workers run in the deterministic mode, on a
model with random weights or a real one, so every answer is known to the token beforehand, whoever computes it and
however often it is resumed.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from broker.accounts import LOCAL, OPERATOR
from broker.client import Client
from broker.process import spawn, terminate
from tests.chaos.account import Account
from tests.chaos.cable import Cable
from tests.chaos.producer import MODEL, NUM_CASES, case
from tests.cluster import Cluster, Process
from tests.support import ROOT

ACK_WAIT_SECONDS = 3.0
NUM_WORKERS = 2
NUM_PRODUCERS = 2
START_SECONDS = 120.0
SETTLE_SECONDS = {"small": 90.0, "real": 300.0}


def build_clock(folder: Path) -> Path:
    """The library that gives a process a wall clock of its own."""
    library = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


class Chaos:
    """One run in one folder."""

    def __init__(
        self,
        folder: Path,
        model_file: Path,
        seed: int,
        cable: Cable | None = None,
        max_cut_seconds: float = 30.0,
        size: str = "small",
    ) -> None:
        """`size` is one of the producer's SIZES, for a model that is so slow."""
        self._folder = folder
        self._cable = cable
        self._max_cut_seconds = max_cut_seconds
        self._size = size
        self._clock = build_clock(folder)
        self._model_file = model_file
        self._rng = random.Random(seed)
        host = cable.address if cable else "127.0.0.1"
        self._cluster = Cluster(folder, MODEL, host=host, ack_wait_seconds=ACK_WAIT_SECONDS)
        self._workers: list[Process] = []
        self._producers: list[Process] = []
        self._num_workers_started = 0
        self.account = Account(seed)

    # --- The parts ---

    def _own_clock(self, name: str) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._clock), "STEPPED_CLOCK": str(self._folder / f"{name}.clock")}

    async def _start_worker(self, index: int) -> Process:
        self._num_workers_started += 1
        return await self._cluster.start_worker(
            f"w{self._num_workers_started}",
            *("--model-file", self._model_file, "--deterministic", "--threads", "1", "--wait-seconds", "60"),
            inside=self._cable.inside if self._cable and index == 0 else (),
            env=self._own_clock(f"worker{index}"),
        )

    async def _start_producer(self, index: int) -> Process:
        command: list[str | Path] = [sys.executable, "-m", "tests.chaos.producer", self._cluster.credentials(LOCAL)]
        command += [self._folder / f"producer{index}.jsonl", f"{self.account.seed}/{index}/{time.time()}", self._size]
        with (self._folder / f"producer{index}.log").open("ab") as log:
            env = {"PYTHONPATH": str(ROOT)} | self._own_clock(f"producer{index}")
            return await spawn(command, stdout=log.fileno(), stderr=log.fileno(), env=env)

    # --- Faults ---

    async def _kill_worker(self) -> None:
        index = self._rng.randrange(len(self._workers))
        self._workers[index].kill()
        await self._workers[index].wait()
        self._workers[index] = await self._start_worker(index)

    async def _drain_worker(self) -> None:
        index = self._rng.randrange(len(self._workers))
        await terminate(self._workers[index], grace=30)
        self._workers[index] = await self._start_worker(index)

    async def _freeze_worker(self) -> None:
        """Longer than its turns wait for it: when it wakes up, they are another's."""
        worker = self._rng.choice(self._workers)
        worker.send_signal(signal.SIGSTOP)
        await asyncio.sleep(ACK_WAIT_SECONDS * self._rng.uniform(0.5, 2.5))
        worker.send_signal(signal.SIGCONT)

    async def _kill_server(self) -> None:
        assert self._cluster.broker is not None
        self._cluster.broker.kill()  # nats-server goes with it
        await self._cluster.broker.wait()
        await asyncio.sleep(self._rng.uniform(0.0, 3.0))
        await self._cluster.start_broker()

    async def _cut_link(self) -> None:
        assert self._cable is not None
        self._cable.pull_out()
        await asyncio.sleep(self._rng.uniform(2.0, self._max_cut_seconds))
        self._cable.plug_in()

    async def _step_clock(self) -> None:
        """Of one worker or producer, by up to a day either way."""
        names = [f"worker{index}" for index in range(NUM_WORKERS)] + [f"producer{i}" for i in range(NUM_PRODUCERS)]
        step = self._rng.choice((-1, 1)) * round(10 ** self._rng.uniform(0, 4.9))
        (self._folder / f"{self._rng.choice(names)}.clock").write_text(str(step))

    async def _kill_producer(self) -> None:
        index = self._rng.randrange(len(self._producers))
        self._producers[index].kill()
        await self._producers[index].wait()
        self._producers[index] = await self._start_producer(index)

    # --- The run ---

    async def run(self, seconds: float, between: tuple[float, float] = (0.5, 4.0)) -> Account:
        """Breaks something every now and then for so long, lets it settle, and accounts."""
        faults: dict[str, Callable[[], Awaitable[None]]] = {
            "worker killed": self._kill_worker,
            "worker frozen": self._freeze_worker,
            "worker drained": self._drain_worker,
            "server killed": self._kill_server,
            "producer killed": self._kill_producer,
            "clock stepped": self._step_clock,
        }
        weights = [4, 2, 1, 2, 1, 1]
        if self._cable:
            faults["link cut"] = self._cut_link
            weights.append(1)
        await self._cluster.start_broker()
        try:
            expected = await self._undisturbed()
            self._workers += [await self._start_worker(index) for index in range(1, NUM_WORKERS)]
            self._producers = [await self._start_producer(index) for index in range(NUM_PRODUCERS)]
            started = time.perf_counter()
            while time.perf_counter() - started < seconds:
                await asyncio.sleep(self._rng.uniform(*between))
                name = self._rng.choices(list(faults), weights)[0]
                self.account.faults[name] += 1
                await faults[name]()
            for producer in self._producers:
                producer.terminate()
            async with asyncio.timeout(SETTLE_SECONDS[self._size]):
                codes = await asyncio.gather(*(producer.wait() for producer in self._producers))
            assert set(codes) == {0}, f"producers ended with {codes}"
            self.account.seconds = time.perf_counter() - started
            files = [self._folder / f"producer{index}.jsonl" for index in range(NUM_PRODUCERS)]
            await self.account.settle(files, dict(enumerate(expected)), self._cluster.address(OPERATOR))
        finally:
            for process in self._producers:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            await self._cluster.close()
        return self.account

    async def _undisturbed(self) -> list[list[int]]:
        """Every case's tokens, computed once in peace by the first worker."""
        self._workers = [await self._start_worker(0)]
        async with Client(self._cluster.address(LOCAL)) as client:
            async with asyncio.timeout(START_SECONDS):
                while not await client.workers():
                    assert self._workers[0].returncode is None, "the worker did not start"
            found = []
            for number in range(NUM_CASES):
                text, sampling = case(number, self._size)
                found.append(list((await client.ask(MODEL, text, sampling=sampling)).tokens))
        return found
