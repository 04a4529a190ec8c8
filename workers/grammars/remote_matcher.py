"""The engine's side of grammars: each is matched by a process of its own, whose time is counted, and which may die.

`MatcherProcess` is the process that all of them are forked from: it has the vocabulary, once. `RemoteMatcher` is one
grammar's: asked about a token, it answers yes, or with all that are allowed. It is never waited for longer than a few
milliseconds: who has no answer yet asks again after the next step. With a token goes what is guessed to follow it, if
anything is: how much of that is allowed is said behind the answer, and not waited for at all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import select
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence

from broker.errors import TurnRejected
from workers.grammars.frames import (
    ERROR,
    FORETOLD,
    GUESS,
    HEAD_BYTES,
    IS_ACCEPTING,
    IS_DONE,
    READY,
    framed,
    length_of,
    with_guess,
)

START_SECONDS = 120.0
"""A vocabulary of 262,144 tokens takes three seconds here, on a busy board many times that."""
PATIENCE_SECONDS = 0.05
"""So long is a matcher waited for at first, and then as much as it has saved up."""
SAVED_SECONDS = 0.002
"""What each token adds to it: so much do the others wait for one grammar, on average and at most."""
LONGEST_WAIT = 0.05
LOST_SECONDS = 120.0
"""A matcher that computes is ended by the kernel long before; this is for one that is not let to."""

log = logging.getLogger(__name__)


class MatcherProcess:
    """The process that matchers are forked from; started when the first grammar comes. From any thread."""

    def __init__(self, command: Sequence[str]) -> None:
        """`command` is what to run, without its last argument: the descriptor that connections come over."""
        self._command = command
        self._lock = threading.Lock()
        self._was_started = False
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        """Over it go connections, each for a new matcher. The process ends when it closes: when we are gone."""

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """None before the first grammar, and once it was closed."""
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
                self._process = subprocess.Popen(
                    [*self._command, str(theirs.fileno())],
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
        """A connection to a new matcher. Waits for no start but the very first. Raises TurnRejected."""
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
        """Ends it; the next grammar starts it again."""
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


class RemoteMatcher:
    """One grammar's matcher, as the engine's thread sees it. Each question has an answer; `poll` fetches it."""

    def __init__(self, process: MatcherProcess, gbnf: str, field: str, *, has_tokens: bool = False) -> None:
        """`field` is the client's, for what is told of the grammar; `has_tokens`: see workers.grammars.gbnf. Raises
        TurnRejected."""
        self.field = field
        self._connection = process.connect()
        self._connection.setblocking(False)
        self._outgoing = bytearray()
        self._buffer = bytearray()
        self._patience = PATIENCE_SECONDS
        self._asked_at: float | None = None
        self._asked_of: Sequence[int] = ()
        """The guess that went with the question."""
        self._awaited: deque[Sequence[int]] = deque()
        """Guesses that will be told of, in order."""
        self._foretold: tuple[Sequence[int], int] = (), 0
        """The guess that was told of last, from where the text stands, and how many of it are allowed."""
        self.waited_seconds = 0.0
        self.longest_wait = 0.0
        """Of the engine for this grammar, in all and at once."""
        self.is_accepting = False
        """Whether the text so far is whole."""
        self.is_done = False
        """Whether nothing may come next."""
        try:
            self.ask(json.dumps({"operation": "match", "gbnf": gbnf, "has_tokens": has_tokens}).encode())
        except TurnRejected:
            self.close()
            raise

    @property
    def is_asked(self) -> bool:
        """A question has no answer yet."""
        return self._asked_at is not None

    def ask(self, question: bytes, guess: Sequence[int] = ()) -> None:
        """Sends a question of workers.grammars.frames; the one before it must have been answered. `guess` is what will
        be guessed to follow the token that the question is about."""
        assert not self.is_asked
        self._asked_at = time.perf_counter()
        self._asked_of = guess
        self._outgoing += framed(with_guess(question, guess))
        self._send()

    def foretell(self, guess: Sequence[int]) -> None:
        """Asks how many of these tokens would be allowed next, where nothing else is asked."""
        if self.is_asked:
            return
        self._outgoing += framed(with_guess(GUESS, guess))
        self._awaited.append(guess)
        with contextlib.suppress(TurnRejected):
            self._send()

    def num_allowed(self, guess: Sequence[int]) -> int:
        """How many of the tokens may come next, as far as was told by now: all of them, where it was not."""
        if self._awaited and not self.is_asked:
            with contextlib.suppress(TurnRejected):  # the next question will tell
                frame = self._read(0.0)
                assert frame is None, "an answer without a question"
        told, num = self._foretold
        is_forbidden = num < len(told) and tuple(guess[: num + 1]) == tuple(told[: num + 1])
        return num if is_forbidden else len(guess)

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

        Raises TurnRejected where the grammar cannot be matched.
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
        self.is_accepting, self.is_done = bool(answer[1] & IS_ACCEPTING), bool(answer[1] & IS_DONE)
        mask = answer[2:]
        if not mask:
            self._foretold = (), 0
            if self._asked_of:
                self._awaited.append(self._asked_of)
        return mask

    def _read(self, until: float) -> bytes | None:
        """The next answer; what is told of guesses before it is noted."""
        while (frame := self._frame(until)) is not None and frame[:1] == FORETOLD:
            self._foretold = self._awaited.popleft(), frame[1]
        return frame

    def _frame(self, until: float) -> bytes | None:
        wanted = HEAD_BYTES
        while True:
            if len(self._buffer) >= HEAD_BYTES:
                wanted = HEAD_BYTES + length_of(bytes(self._buffer[:HEAD_BYTES]))
                if len(self._buffer) >= wanted:
                    answer = bytes(self._buffer[HEAD_BYTES:wanted])
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
        """Lets go of the matcher, whose process then ends."""
        self._connection.close()
