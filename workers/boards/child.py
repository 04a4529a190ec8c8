"""One worker of a board: a process of its own, from its start to its exit, whose log goes into the board's."""

from __future__ import annotations

import asyncio
import codecs
import logging
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from broker import logs
from broker.messages.boards import DRAINING, LOADING
from broker.process import signal_child, spawn, terminate
from workers.boards.line import FromBoard, FromWorker, Line, pair

SILENT_SECONDS = 30.0
"""A worker that takes turns and has said nothing for so long is stuck: it says something every few seconds from the
loop that tells the server of its turns too, which by then gives them to others. A step may take as long as it likes."""
SILENT_START_SECONDS = 120.0
"""The same until it takes turns: its libraries and its context are made in that loop."""
GRACE_SECONDS = 10.0
"""After the second signal, for what is in hand to be handed back."""
READ_BYTES = 16 * 1024
MAX_LINE_CHARS = 4096
"""Of a line of its log; a longer one is cut."""
NUM_LAST = 5
OURS = "turnpike: "
"""With what the one line begins that says why a process of ours could not go on."""

log = logging.getLogger(__name__)


class Child:
    """Told of what the worker says on its line, asked how it is. `start` makes one."""

    def __init__(
        self,
        model: str,
        process: asyncio.subprocess.Process,
        own: socket.socket,
        heard: Callable[[], None],
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        """`heard` is called whenever the worker says something new."""
        self.model = model
        self.pid = process.pid
        self.told = FromWorker()
        """The worker's latest words."""
        self.is_leaving = False
        """It was told to go."""
        self.is_killed = False
        """By us."""
        self._process = process
        self._heard = heard
        self._silent_seconds = silent_seconds
        self._started_at = time.monotonic()
        self._heard_at = time.monotonic()
        self._line = Line[FromBoard, FromWorker](own, FromWorker, self._take, lambda: None)
        self._max_threads: int | None = None
        self._last = deque[str](maxlen=NUM_LAST)

    @classmethod
    async def start(
        cls,
        model: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str | None],
        heard: Callable[[], None],
        kept: Sequence[int] = (),
        silent_seconds: float = SILENT_SECONDS,
    ) -> Child:
        """Starts `command`, to which its end of the line is added; `kept` are descriptors that it holds with us.
        One that takes turns and says nothing for `silent_seconds` is in trouble."""
        own, theirs = pair()
        with theirs:
            words = [*command, "--board-fd", str(theirs.fileno())]
            try:
                process = await spawn(
                    words,
                    env=environment,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    pass_fds=(theirs.fileno(), *kept),
                )
            except BaseException:
                own.close()
                raise
        child = cls(model, process, own, heard, silent_seconds)
        child._line.open()
        return child

    def give(self, model: str, park_bytes: int) -> None:
        """Its model, where it was started without one: now it loads it, and may keep so much of conversations at
        rest."""
        self.model = model
        self._started_at = time.monotonic()
        self._line.send(FromBoard(self._max_threads, model, park_bytes))

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone."""
        return self._process.returncode is not None

    @property
    def state(self) -> str:
        """LOADING, SERVING or DRAINING."""
        if self.is_leaving:
            return DRAINING
        return self.told.state

    @property
    def is_loading(self) -> bool:
        """Whether it has not served yet."""
        return self.told.state == LOADING

    @property
    def seconds(self) -> float:
        """Since it was to load its model."""
        return time.monotonic() - self._started_at

    @property
    def silent_seconds(self) -> float:
        """Since it said something."""
        return time.monotonic() - self._heard_at

    @property
    def is_silent(self) -> bool:
        """Whether it has said nothing for longer than it should, unless it loads."""
        return self.silent_seconds > self._silent_seconds

    @property
    def trouble(self) -> str | None:
        """Why it should be killed; None while it is well."""
        silent = self.silent_seconds
        patience = SILENT_START_SECONDS if self.is_loading else self._silent_seconds
        return f"it has said nothing for {silent:.0f} s" if silent > patience else self.told.trouble

    @property
    def last_words(self) -> str:
        """Why it ended, as it said last: the one line of ours, else the last line."""
        found = [one for one in self._last if one.startswith(OURS)] or list(self._last)
        return found[-1].removeprefix(OURS) if found else "it said nothing"

    async def run(self) -> int:
        """Passes its log on until it ends; its exit code, negative where a signal ended it."""
        try:
            await self._pass_on_log()
            return await self._process.wait()
        finally:
            self._line.close()

    def drain(self) -> None:
        """It takes no more turns, finishes those that it has, and goes; one that loads has none, and goes at once."""
        if self.is_leaving:
            return
        self.is_leaving = True
        if self.is_loading:
            self.kill()
        else:
            signal_child(self._process, signal.SIGTERM)

    def kill(self) -> None:
        """Ends it now. What it has in hand is given to others by the server."""
        self.is_killed = True
        signal_child(self._process, signal.SIGKILL)

    async def end(self) -> None:
        """The second signal: what is in hand is handed back. It is another one than the first, as two of a kind are one
        to a process that has not looked at the first yet, which then drains until it is killed."""
        if not self.is_leaving:
            signal_child(self._process, signal.SIGTERM)
        self.is_leaving = True
        await terminate(self._process, GRACE_SECONDS, signal.SIGINT)

    def limit_threads(self, num: int | None) -> None:
        """A step of it takes no more threads than these."""
        if num != self._max_threads:
            self._max_threads = num
            self._line.send(FromBoard(num))

    def _take(self, told: FromWorker) -> None:
        self._heard_at = time.monotonic()
        if told != self.told:
            self.told = told
            self._heard()

    async def _pass_on_log(self) -> None:
        stream, decoder, rest = self._process.stdout, codecs.getincrementaldecoder("utf-8")("replace"), ""
        assert stream is not None
        while data := await stream.read(READ_BYTES):
            *lines, rest = (rest + decoder.decode(data)).split("\n")
            for line in lines:
                self._say(line)
            rest = rest[:MAX_LINE_CHARS]
        if rest:
            self._say(rest)

    def _say(self, line: str) -> None:
        line = line[:MAX_LINE_CHARS].rstrip()
        if line:
            self._last.append(line)
            if not logs.is_shown(line):
                return
            sys.stderr.write(f"{self.model or 'spare'} | {line}\n")
            sys.stderr.flush()
