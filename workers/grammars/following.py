"""The engine's side of grammars: each is followed by a process of its own, whose time is counted, and which may die.

`Followers` is the process that all of them are forked from (workers.llama.follower): it has the vocabulary, once.
`Following` is one grammar's: asked about a token, it answers yes, or with all that are allowed. It is never waited for
longer than a few milliseconds: who has no answer yet asks again after the next step.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from broker.errors import TurnRejected

START_SECONDS = 120.0
"""A vocabulary of 262,144 tokens takes three seconds here, on a busy board many times that."""
PATIENCE_SECONDS = 0.05
"""So long is a follower waited for at first, and then as much as it has saved up."""
SAVED_SECONDS = 0.002
"""What each token adds to it: so much do the others wait for one grammar, on average and at most."""
LONGEST_WAIT = 0.05
LOST_SECONDS = 120.0
"""A follower that computes is ended by the kernel long before; this is for one that is not let to."""
MAX_FRAME = 8 * 1024 * 1024
TRY, TAKE, LIST = b"T", b"C", b"M"
"""Questions: may this token follow (then it does); this token follows; what may follow?"""
ANSWER, ERROR = b"A", b"E"
READY = b"+"
_LENGTH = struct.Struct("<I")
_TOKEN = struct.Struct("<i")

log = logging.getLogger(__name__)


def framed(payload: bytes) -> bytes:
    """With its length before it: what both sides send."""
    return _LENGTH.pack(len(payload)) + payload


def length_of(head: bytes) -> int:
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME:
        raise ValueError(f"a frame of {length:,} bytes")
    return int(length)


def with_token(kind: bytes, token: int) -> bytes:
    return kind + _TOKEN.pack(token)


def token_of(payload: bytes) -> int:
    return int(_TOKEN.unpack(payload[1:5])[0])


class Followers:
    """The process that followers are forked from; started when the first grammar comes. From any thread."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._was_started = False
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        """Over it go connections, each for a new follower. The process ends when it closes: when we are gone."""

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        return self._process

    def start(self) -> None:
        """Starts it unless it runs, and waits until it has the vocabulary. Raises TurnRejected."""
        with self._lock:
            self._was_started = True
            if self._process is not None and self._process.poll() is None:
                return
            self._end()
            started = time.perf_counter()
            control, theirs = socket.socketpair()
            with theirs:
                command = [sys.executable, "-m", "workers.llama.follower", str(self._model), str(theirs.fileno())]
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            control.settimeout(START_SECONDS)
            try:
                is_ready = control.recv(1) == READY
            except OSError:
                is_ready = False
            if not is_ready:
                control.close()
                self._end()
                raise TurnRejected("overloaded", "the process that follows grammars does not start", retryable=True)
            control.settimeout(1.0)
            self._control = control
            log.info("grammars pid=%d seconds=%.1f", self._process.pid, time.perf_counter() - started)

    def connect(self) -> socket.socket:
        """A connection to a new follower. Waits for no start but the very first. Raises TurnRejected."""
        if not self._was_started:
            self.start()
        ours, theirs = socket.socketpair()
        control = self._control
        try:
            with theirs:
                if control is None:
                    raise BrokenPipeError
                socket.send_fds(control, [b"+"], [theirs.fileno()])
        except OSError:
            ours.close()
            raise TurnRejected("overloaded", "no process to follow the grammar just now", retryable=True) from None
        return ours

    def close(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Following:
    """One grammar's follower, in the engine's thread. Each question has an answer; `poll` fetches it."""

    def __init__(self, followers: Followers, gbnf: str, field: str) -> None:
        self.field = field
        self._connection = followers.connect()
        self._connection.setblocking(False)
        self._outgoing = bytearray()
        self._buffer = bytearray()
        self._patience = PATIENCE_SECONDS
        self._asked_at: float | None = None
        self.waited_seconds = 0.0
        self.longest_wait = 0.0
        """Of the engine for this grammar, in all and at once."""
        self.is_accepting = False
        """Whether the text so far is whole."""
        self.is_done = False
        """Whether nothing may follow."""
        self.ask(json.dumps({"operation": "follow", "gbnf": gbnf}).encode())

    @property
    def is_asked(self) -> bool:
        """A question has no answer yet."""
        return self._asked_at is not None

    def ask(self, question: bytes) -> None:
        assert not self.is_asked
        self._asked_at = time.perf_counter()
        self._outgoing += framed(question)
        self._send()

    def _send(self) -> None:
        """What the other side has room for: a large grammar may have to wait until it is read."""
        try:
            while self._outgoing:
                del self._outgoing[: self._connection.send(self._outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            raise self._lost() from None

    def poll(self) -> bytes | None:
        """The answer, without its kind and flags: the mask of what is allowed, empty where it is yes. None: not yet.

        Raises TurnRejected where the grammar cannot be followed.
        """
        assert self._asked_at is not None
        started = time.perf_counter()
        answer = self._read(started + min(self._patience, LONGEST_WAIT))
        now = time.perf_counter()
        self._patience = min(PATIENCE_SECONDS, max(0.0, self._patience - (now - started)))
        self.waited_seconds += now - started
        self.longest_wait = max(self.longest_wait, now - started)
        if answer is None:
            if now - self._asked_at > LOST_SECONDS:
                raise self._lost()
            return None
        self._asked_at = None
        self._patience = min(PATIENCE_SECONDS, self._patience + SAVED_SECONDS)
        if answer[:1] == ERROR:
            raise TurnRejected("invalid_grammar", f"{self.field}: {answer[1:].decode('utf-8', 'replace')}")
        self.is_accepting, self.is_done = bool(answer[1] & 1), bool(answer[1] & 2)
        return answer[2:]

    def _read(self, until: float) -> bytes | None:
        wanted = 4
        while True:
            if len(self._buffer) >= 4:
                wanted = 4 + length_of(bytes(self._buffer[:4]))
                if len(self._buffer) >= wanted:
                    answer = bytes(self._buffer[4:wanted])
                    del self._buffer[:wanted]
                    return answer
            self._send()
            events = select.POLLIN | (select.POLLOUT if self._outgoing else 0)
            if not self._waits_for(events, until):
                return None
            try:
                more = self._connection.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                more = b""
            if not more:
                raise self._lost()
            self._buffer += more

    def _waits_for(self, events: int, until: float) -> bool:
        poll = select.poll()
        poll.register(self._connection, events)
        return bool(poll.poll(max(0.0, 1e3 * (until - time.perf_counter()))))

    def _lost(self) -> TurnRejected:
        return TurnRejected(
            "invalid_grammar", f"{self.field}: following it takes more time or memory than one turn may have"
        )

    def close(self) -> None:
        self._connection.close()
