"""Boards with several models each, of which not all fit, while things break: `make chaos` and `make chaos-boards`.

    python -m tests.chaos.boards [TURNS] [SEED] [FOLDER] [BOARDS] [MODELS] [OFFERED] [EVERY]

BOARDS boards, each with OFFERED of MODELS models of every kind of cache and memory for one or two of them, answer
TURNS turns. With EVERY a board or a worker is killed every so many seconds, one after the other; without, all kinds of
faults come at random. FOLDER as for `python -m tests.chaos`. TP_MODELS, a folder with real models, puts two of them in
place of two.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from nats.aio.client import Client as NatsConnection

from broker import jetstream, subjects
from broker.accounts import LOCAL, OPERATOR
from broker.client import Client
from broker.connection import close, connect
from broker.messages.boards import AVAILABLE, BROKEN, DRAINING, LOADING
from broker.placing import CLAIM_SECONDS, Watch
from broker.process import spawn, terminate
from tests.board_fakes import children_of, is_gone
from tests.chaos.account import HEADER, BoardsAccount
from tests.chaos.board_logs import KILLED, loads_of, stamp
from tests.chaos.cable import WHY_NO_CABLES, Cable, can_lay_cables, lay_cable
from tests.chaos.producer import CONCURRENCY, case, model_of, num_cases
from tests.chaos.scale import Scale, board_flags, lock_models, models_in
from tests.cluster import Cluster, Process
from tests.support import ROOT, RunFolder, argument, eventually
from workers.boards.child import SILENT_SECONDS
from workers.kv.board_folder import BoardFolder

ACK_WAIT_SECONDS = 5.0
NUM_PRODUCERS = 2
PEACE_SECONDS = 240.0
RUN_SECONDS = 3600.0
SETTLE_SECONDS = 300.0
DEATH_SECONDS = 5.0
"""Within which a killed board's workers are gone."""
SIZE = "boards"


class BoardsChaos:
    """One run in one folder."""

    def __init__(self, folder: Path, models: dict[str, Path], scale: Scale, seed: int, cable: Cable | None) -> None:
        self._folder = folder
        self._models = list(models)
        self._asked = [name if file.name.startswith(name) else f"{name}=real" for name, file in models.items()]
        self._scale = scale
        self._cable = cable
        self._rng = random.Random(seed)
        self._planned = lock_models(folder, models)
        host = cable.address if cable else "127.0.0.1"
        self._cluster = Cluster(folder, self._models[0], host=host, ack_wait_seconds=ACK_WAIT_SECONDS)
        self._boards: list[Process] = []
        self._producers: list[Process] = []
        self._producer_files = [folder / f"producer{index}.jsonl" for index in range(NUM_PRODUCERS)]
        self._watch: Watch | None = None
        self.account = BoardsAccount(seed)

    # --- The parts ---

    async def _start_board(self, index: int) -> Process:
        offered = self._scale.offered(index, self._models)
        inside = self._cable.inside if self._cable and index == 0 else ()
        num_fitting = self._scale.num_fitting[index % len(self._scale.num_fitting)]
        flags = board_flags(self._folder, self._planned, offered, num_fitting)
        return await self._cluster.start_board(f"b{index}", *flags, inside=inside)

    async def _start_producer(self, index: int) -> Process:
        command: list[str | Path] = [sys.executable, "-m", "tests.chaos.producer", self._cluster.credentials(LOCAL)]
        command += [self._producer_files[index], f"{self.account.seed}/{index}/{time.time()}", SIZE]
        command += [",".join(self._asked), str(self._scale.num_turns // NUM_PRODUCERS)]
        command += [str(NUM_PRODUCERS * CONCURRENCY / self._scale.turns_per_second)]
        with (self._folder / f"producer{index}.log").open("ab") as log:
            return await spawn(command, stdout=log.fileno(), stderr=log.fileno(), env={"PYTHONPATH": str(ROOT)})

    # --- Faults ---

    async def _kill_board(self, index: int) -> None:
        """And looks whether its workers go with it; another takes its place, at once or once it is forgotten."""
        board = self._boards[index]
        workers = {}
        for pid in _children(board.pid):
            with suppress(ProcessLookupError):
                workers[pid] = os.pidfd_open(pid)
        board.kill()
        await board.wait()
        stamp(self._folder / f"b{index}.log", KILLED)
        for pid, there in workers.items():
            self.account.orphans += [] if await is_gone(there, DEATH_SECONDS) else [pid]
        await asyncio.sleep(self._rng.choice((0.0, 0.0, self._scale.max_away_seconds)))
        self._boards[index] = await self._start_board(index)

    async def _kill_any_board(self) -> None:
        await self._kill_board(self._rng.randrange(len(self._boards)))

    async def _kill_at(self, state: str) -> None:
        """A board that is loading, or draining, or about to load."""
        await self._kill_board(await self._moment(state))

    async def _moment(self, state: str) -> int:
        """The first board that is so; any, where none comes to it."""
        assert self._watch is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(self._scale.max_away_seconds):
                while True:
                    placement = self._watch.placement()
                    states = {(one.board, model.model): model.state for one in placement.boards for model in one.models}
                    found = [board for (board, _), is_in in states.items() if is_in == state]
                    if state == AVAILABLE:
                        claims = [(claim.board, claim.model) for claim in placement.claims.values()]
                        found = [key[0] for key in claims if states.get(key) in (AVAILABLE, BROKEN)]
                    if found:
                        return int(self._rng.choice(found)[1:])
                    await self._watch.changed(0.5)
        return self._rng.randrange(len(self._boards))

    def _workers(self) -> list[int]:
        return [pid for board in self._boards for pid in _children(board.pid)]

    async def _signal_worker(self, number: signal.Signals, seconds: float = 0.0) -> None:
        """To any worker, and that it may go on after so many seconds."""
        if workers := self._workers():
            pid = self._rng.choice(workers)
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            await asyncio.sleep(seconds)
            if seconds and pid in self._workers():
                os.kill(pid, signal.SIGCONT)

    async def _freeze_worker(self) -> None:
        await self._signal_worker(signal.SIGSTOP, self._rng.uniform(0.1, self._scale.max_away_seconds))

    async def _freeze_board(self) -> None:
        board = self._rng.choice(self._boards)
        board.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(0.0, self._scale.max_away_seconds))
        board.send_signal(signal.SIGCONT)

    async def _end_board(self, *, twice: bool = False) -> None:
        index = self._rng.randrange(len(self._boards))
        board = self._boards[index]
        board.terminate()
        if twice:
            await asyncio.sleep(self._rng.uniform(0.0, 1.0))
            with suppress(ProcessLookupError):
                board.terminate()
        await terminate(board, grace=60)
        self._boards[index] = await self._start_board(index)

    async def _kill_server(self) -> None:
        assert self._cluster.broker is not None
        self._cluster.broker.kill()
        await self._cluster.broker.wait()
        await asyncio.sleep(self._rng.choice((0.0, 2.0, self._scale.max_away_seconds)))
        await self._cluster.start_broker()

    async def _cut_link(self) -> None:
        assert self._cable is not None
        self._cable.pull_out()
        await asyncio.sleep(self._rng.uniform(0.0, self._scale.max_away_seconds))
        self._cable.plug_in()

    async def _kill_producer(self) -> None:
        index = self._rng.randrange(NUM_PRODUCERS)
        if self._producers[index].returncode is None:
            self._producers[index].kill()
            await self._producers[index].wait()
            self._producers[index] = await self._start_producer(index)

    def _faults(self) -> dict[str, tuple[int, Callable[[], Awaitable[None]]]]:
        """By name, with how often they come."""
        faults: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "board killed while it loads": (3, lambda: self._kill_at(LOADING)),
            "board killed while it drains": (2, lambda: self._kill_at(DRAINING)),
            "board killed with a claim": (2, lambda: self._kill_at(AVAILABLE)),
            "board killed": (2, self._kill_any_board),
            "board frozen": (2, self._freeze_board),
            "board ended": (1, self._end_board),
            "board ended twice": (1, lambda: self._end_board(twice=True)),
            "worker killed": (4, lambda: self._signal_worker(signal.SIGKILL)),
            "worker frozen": (2, self._freeze_worker),
            "worker hung": (1, lambda: self._signal_worker(signal.SIGSTOP)),
            "server killed": (2, self._kill_server),
            "producer killed": (1, self._kill_producer),
        }
        if self._cable:
            faults["link cut"] = 1, self._cut_link
        if self._scale.max_away_seconds < SILENT_SECONDS / 4:  # nobody has the time to wait for that
            del faults["worker hung"]
        return faults

    async def _break_things(self, stop: asyncio.Event) -> None:
        """One thing after the other; what was begun is mended before it comes back."""
        faults, number, due = self._faults(), 0, time.monotonic()
        while True:
            due += self._scale.every or self._rng.uniform(*self._scale.between)
            if await self._is_over(stop, due - time.monotonic()):
                return
            name = ("board killed", "worker killed")[number % 2]
            if self._scale.every is None:
                name = self._rng.choices(list(faults), [weight for weight, _ in faults.values()])[0]
            self.account.faults[name] += 1
            await faults[name][1]()
            number += 1
            if self._scale.every is None:  # in a row, and not all that would have been due meanwhile
                due = time.monotonic()

    async def _is_over(self, stop: asyncio.Event, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()
        return stop.is_set()

    # --- The run ---

    async def run(self) -> BoardsAccount:
        """Asks for all turns while things break, has the boards end, and accounts."""
        await self._cluster.start_broker()
        nc = await connect(self._cluster.address(OPERATOR), name="watch")
        try:
            async with Watch(nc) as self._watch:
                self._boards = [await self._start_board(index) for index in range(self._scale.num_boards)]
                expected = await self._undisturbed()
                started = time.perf_counter()
                self._producers = [await self._start_producer(index) for index in range(NUM_PRODUCERS)]
                await self._until_asked()
                self.account.seconds = time.perf_counter() - started
                await self._end(self._watch)
            await self.account.settle(self._producer_files, expected, self._cluster.address(OPERATOR))
            self.account.left += await _queued(nc)
        finally:
            await close(nc)
            for process in self._producers:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            await self._cluster.close()
        self.account.loads = loads_of([self._folder / f"b{index}.log" for index in range(self._scale.num_boards)])
        return self.account

    async def _undisturbed(self) -> dict[int, list[int]]:
        """Every case's tokens, computed once in peace."""
        assert self._watch is not None
        async with Client(self._cluster.address(LOCAL)) as client, asyncio.timeout(PEACE_SECONDS):
            while len(self._watch.placement().boards) < self._scale.num_boards:
                await self._watch.changed(0.5)
            for name in self._models:
                await client.until_served(name, PEACE_SECONDS)

            async def tokens(number: int) -> tuple[int, list[int]]:
                model, size = model_of(number, self._asked, SIZE)
                text, sampling = case(number, size)
                return number, list((await client.ask(model, text, sampling=sampling)).tokens)

            return dict(await asyncio.gather(*map(tokens, range(num_cases(self._models)))))

    async def _until_asked(self) -> None:
        """Things break until the producers have asked for all turns; their ends are waited for in peace."""
        stop, acknowledged = asyncio.Event(), _Acknowledged(self._producer_files)
        num_wanted = self._scale.num_turns - 2 * NUM_PRODUCERS
        async with asyncio.TaskGroup() as group:
            group.create_task(self._break_things(stop))
            await eventually(lambda: acknowledged.count() >= num_wanted, RUN_SECONDS)
            stop.set()
        async with asyncio.timeout(SETTLE_SECONDS):
            codes = await asyncio.gather(*(producer.wait() for producer in self._producers))
        assert set(codes) == {0}, f"producers ended with {codes}"

    async def _end(self, watch: Watch) -> None:
        """Half of the boards end, the others are killed: then nothing may be claimed any more, once that expires, and
        no half of a file is left: of a board that was killed, once its folder is taken up again."""
        self.account.orphans += [pid for pid in _workers_in(self._folder) if pid not in self._workers()]
        for board in self._boards[::2]:
            board.terminate()
        for index in range(1, len(self._boards), 2):
            self._boards[index].kill()
        await asyncio.gather(*(board.wait() for board in self._boards))
        deadline = time.monotonic() + CLAIM_SECONDS + 2.0
        while (found := watch.placement()).claims or found.boards:
            if time.monotonic() > deadline:
                self.account.left += [f"claim {claim}" for claim in found.claims.values()]
                self.account.left += [f"board {board.board}" for board in found.boards]
                break
            await watch.changed(0.5)
        self.account.orphans += _workers_in(self._folder)
        for index in range(1, len(self._boards), 2):
            kept = BoardFolder(self._folder / "kept" / f"b{index}")
            await asyncio.to_thread(kept.bound, kept.max_bytes)  # as its next start does
        self.account.left += [str(path) for path in (self._folder / "kept").glob("*/*/*.part")]


class _Acknowledged:
    """Turns that producers have noted as acknowledged, in files that grow: each line is read once."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._read = dict.fromkeys(files, 0)
        """Bytes of whole lines."""
        self._num = 0

    def count(self) -> int:
        """Until now."""
        for path, num_read in self._read.items():
            with suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(num_read)
                news = file.read()
                end = news.rfind(b"\n") + 1
                self._num += news.count(b'"event": "acknowledged"', 0, end)
                self._read[path] += end
        return self._num


async def _queued(nc: NatsConnection) -> list[str]:
    streams = await jetstream.streams(nc, subjects.ALL_TURNS)
    return [f"{one.state.num_messages} turns in {one.name}" for one in streams if one.state.num_messages]


def _children(pid: int) -> list[int]:
    """None of a process that has gone."""
    with suppress(OSError):
        return children_of(pid)
    return []


def _workers_in(folder: Path) -> list[int]:
    """The workers of this run that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"worker" in words and any(word.startswith(bytes(folder)) for word in words):
                found.append(int(path.parent.name))
    return found


def main() -> int:
    folder = RunFolder("boards", argument(3))
    every = argument(7)
    scale = Scale(
        num_boards=int(argument(4) or 3),
        num_models=int(argument(5) or 5),
        num_offered=int(argument(6) or 3),
        num_turns=int(argument(1) or 500),
        every=float(every) if every else None,
    )
    given = os.environ.get("TP_MODELS")
    models = models_in(folder.path, scale.num_models, Path(given) if given else None)
    with lay_cable() if can_lay_cables() and every is None else nullcontext() as cable:
        if cable is None and every is None:
            print(f"no link is cut: {WHY_NO_CABLES}", file=sys.stderr)  # noqa: T201
        account = asyncio.run(BoardsChaos(folder.path, models, scale, int(argument(2) or 1), cable).run())
    print(f"{HEADER}\n{account.markdown()}\n{account.told()}")  # noqa: T201
    if account.failures:
        print(f"{json.dumps(account.failures)}\nsee {folder.path}", file=sys.stderr)  # noqa: T201
        return 1
    folder.all_was_well()
    return 0


if __name__ == "__main__":
    sys.exit(main())
