"""A process's life: run until a signal, children that never outlive us, exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nats.errors

from broker.errors import SettingsError, TurnpikeError

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
PATIENCE_SECONDS = 0.5
"""What a command for people may take to wind up after ^C: with what is to follow it ends within a second."""
FORCE_SECONDS = 0.4
HURRY_SECONDS = 0.1
SHOW_CURSOR = b"\x1b[?25h"
_PR_SET_PDEATHSIG = 1
_M_ARENA_MAX = -8
_M_MMAP_THRESHOLD = -3
LARGE_BYTES = 256 * 1024

log = logging.getLogger(__name__)


@dataclass
class _Interrupts:
    """What a signal does in this process just now."""

    takers: list[Callable[[], object]] = field(default_factory=list)
    """Whoever has ^C for themselves; the last one counts."""
    waiting: list[asyncio.Task[object]] = field(default_factory=list)
    """Those that wait for what is not there yet, and hear of no `stop`."""
    is_in_a_hurry: bool = False
    """Somebody at a terminal waits for the end."""
    folders: set[Path] = field(default_factory=set)
    """To be gone at the end."""
    last_acts: list[Callable[[], object]] = field(default_factory=list)
    """What must be done also where the process is ended by force."""
    children: weakref.WeakSet[asyncio.subprocess.Process] = field(default_factory=weakref.WeakSet)


_interrupts = _Interrupts()


@contextlib.contextmanager
def interrupts_go_to(taker: Callable[[], object]) -> Iterator[None]:
    """While entered, a SIGINT calls `taker` in the event loop, and ends nothing by itself."""
    _interrupts.takers.append(taker)
    try:
        yield
    finally:
        _interrupts.takers.remove(taker)


@contextlib.contextmanager
def ended_by_a_signal() -> Iterator[None]:
    """While entered, the first signal cancels this task: it waits, for a server say, and nothing is begun yet."""
    task = asyncio.current_task()
    assert task is not None
    _interrupts.waiting.append(task)
    try:
        yield
    finally:
        _interrupts.waiting.remove(task)


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder that is gone afterwards, also where the process is ended by force."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    _interrupts.folders.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _interrupts.folders.discard(folder)  # not before: an end by force may come while it goes


@contextlib.contextmanager
def at_an_end_by_force(act: Callable[[], object]) -> Iterator[None]:
    """While entered, `act` is called before the process is ended by force, from another thread: a terminal gets its
    modes back."""
    _interrupts.last_acts.append(act)
    try:
        yield
    finally:
        _interrupts.last_acts.remove(act)


class _Force(threading.Timer):
    """Ends the process after so many seconds, and does not keep it alive until then."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds, _end_now)
        self.daemon = True


def run(main: Callable[[asyncio.Event], Awaitable[int | None]], *, patience: float | None = None) -> int:
    """Runs `main(stop)` to its end and returns the exit code.

    The first SIGINT or SIGTERM sets `stop`, and main winds up; what is `ended_by_a_signal` is cancelled. The second one
    cancels main, which then has only its `finally` blocks left. Errors of ours become one line on stderr.

    With `patience`, for commands that somebody waits for: main is cancelled so many seconds after the first signal, and
    FORCE_SECONDS later the process ends whatever it is in, a thread or a computation among it.
    """
    force = _Force((patience or 0.0) + FORCE_SECONDS)
    _interrupts.is_in_a_hurry = False
    try:
        return asyncio.run(_supervised(main, patience, force))
    except* TurnpikeError as group:
        report(group)
        code = EXIT_USAGE if group.subgroup(SettingsError) else EXIT_ERROR
    except* nats.errors.Error as group:
        # What was under way when the connection was lost, or a server that does not answer: no fault of the code's.
        report(group)
        code = EXIT_ERROR
    except* BrokenPipeError:
        code = EXIT_ERROR  # who read our output has seen enough
    except* OSError as group:
        report(group)
        code = EXIT_ERROR
    finally:
        force.cancel()
    return code


async def _supervised(
    main: Callable[[asyncio.Event], Awaitable[int | None]], patience: float | None, force: _Force
) -> int:
    """Runs main until it ends or signals end it; the exit code. The first signal starts `force` where there is any
    patience to lose."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    task = asyncio.ensure_future(main(stop))
    interrupted = False

    def hurry(number: int, _: object) -> None:
        # Called between two bytecodes, also where the event loop is not reached.
        is_taken = number == signal.SIGINT and _interrupts.takers
        if not is_taken and not _interrupts.is_in_a_hurry:
            _interrupts.is_in_a_hurry = True
            force.start()

    def on_signal(number: int) -> None:
        nonlocal interrupted
        if number == signal.SIGINT and _interrupts.takers:
            _interrupts.takers[-1]()
            return
        interrupted = True
        for waiting in _interrupts.waiting:
            waiting.cancel()
        if stop.is_set():
            task.cancel()
        elif patience is not None:
            loop.call_later(patience, task.cancel)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
        if patience is not None:
            signal.signal(number, hurry)
    try:
        return await task or 0
    except asyncio.CancelledError:
        if not interrupted:
            raise
        return EXIT_INTERRUPTED
    finally:
        sys.stdout.flush()


def _end_now() -> None:
    """For whoever does not end by itself: nothing is left behind, and the cursor comes back."""
    children = list(_interrupts.children)
    for child in children:
        signal_child(child, signal.SIGKILL)
    for child in children:
        _until_dead(child.pid)
    for folder in list(_interrupts.folders):
        shutil.rmtree(folder, ignore_errors=True)
    for act in reversed(_interrupts.last_acts):
        with contextlib.suppress(Exception):
            act()
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), SHOW_CURSOR)
    os._exit(EXIT_INTERRUPTED)


def _until_dead(pid: int) -> None:
    """Whoever is killed in the midst of a system call finishes that: a file may still be made."""
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)
        select.select([process], [], [], HURRY_SECONDS)
        os.close(process)


def report(error: BaseException) -> None:
    """One line on stderr for each error in the group."""
    if isinstance(error, BaseExceptionGroup):
        for inner in {f"{type(each)}{each}": each for each in _leaves(error)}.values():
            report(inner)  # once, however many tasks met it
    elif isinstance(error, SettingsError):
        for problem in error.problems:
            print(f"turnpike: {problem}", file=sys.stderr)  # noqa: T201
    elif isinstance(error, OSError):
        # A disk that is full, a folder that may not be written to: the file and why, and for DEBUG where.
        log.debug("failed", exc_info=error)
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"turnpike: {where}{error.strerror or error or type(error).__name__}", file=sys.stderr)  # noqa: T201
    else:
        print(f"turnpike: {str(error) or type(error).__name__}", file=sys.stderr)  # noqa: T201


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


async def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str | None] | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
) -> asyncio.subprocess.Process:
    """Starts a child that the terminal's ^C does not reach (we stop it) and that dies with us (Linux).

    `env` is added to our environment; what is None there is taken out. Of our descriptors it has those in `pass_fds`,
    for as long as it lives.
    """
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=None if env is None else _environment(env),
        start_new_session=True,
        pass_fds=pass_fds,
        preexec_fn=die_with_parent(),
    )
    _interrupts.children.add(process)
    return process


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    return {name: text for name, text in {**os.environ, **changes}.items() if text is not None}


def die_with_parent() -> Callable[[], None]:
    """What a child runs before its program, so that even a SIGKILL of ours takes it along."""
    parent = os.getpid()

    def ask() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def pid_namespace() -> str:
    """Of this process: process ids mean the same where it is the same. Empty where the system does not tell."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def keep_the_heap_small() -> None:
    """Has glibc keep one heap for all threads, and none of what is large in it; nothing where the C library is another.

    With a heap each, what one thread allocates and another frees leaves holes that the others cannot use; and once a
    large block was freed, glibc would take others of its size from the heap too, which leaves larger ones.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


async def terminate(
    process: asyncio.subprocess.Process, grace: float = 10.0, number: signal.Signals = signal.SIGTERM
) -> int:
    """That signal, then SIGKILL after `grace` seconds, soon where somebody has pressed ^C; returns the exit code."""
    grace = min(grace, HURRY_SECONDS) if _interrupts.is_in_a_hurry else grace
    if process.returncode is None:
        signal_child(process, number)
        try:
            await asyncio.wait_for(process.wait(), grace)
        except TimeoutError:
            signal_child(process, signal.SIGKILL)
    return await process.wait()


def signal_child(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """A signal for a child that may have ended already, whose exit code stays what it is.

    `Process.kill()` and its like ask the system first whether it has ended, and so take the exit code that asyncio
    waits for: it tells 255 then.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
