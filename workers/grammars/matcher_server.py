"""The process that matchers are forked from, and the life of each: one grammar, with limits of memory and time.

It is started by workers.grammars.remote_matcher, as `workers.llama.matcher_process`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

from workers.grammars.frames import (
    ANSWER,
    ERROR,
    FORETOLD,
    GUESS,
    HEAD_BYTES,
    LIST,
    READY,
    TAKE,
    TRY,
    framed,
    guess_of,
    length_of,
    token_of,
)
from workers.grammars.gbnf import GrammarRefused
from workers.grammars.matcher import Matcher, MatchFailed, TokenTable, TokenTexts, try_grammar
from workers.sandbox import be_first_to_go

TRIAL_SECONDS = 4.0
"""Of computing, for making a grammar, compiling it and matching some tokens."""
MAX_SECONDS = 2.0
"""Of computing, at once: compiling, or a single token."""
TOKEN_SECONDS = 0.05
"""What each token adds to the allowance."""
MEMORY_BYTES = 256 * 1024 * 1024
"""That a child may take besides what it was forked with."""
NICENESS = 5


def serve(vocabulary: TokenTexts, control: socket.socket, max_seconds: float = MAX_SECONDS) -> None:
    """Says that it is ready, then forks a child for each connection that comes over `control`, until that closes.

    `max_seconds` of computing may a matcher take at once: compiling, or a single token.
    """
    be_first_to_go()
    table = TokenTable(vocabulary)
    _ = table.tokenizer
    gc.freeze()  # or each child would copy what it only counts references to
    control.sendall(READY)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        for descriptor in descriptors:
            with socket.socket(fileno=descriptor) as connection, contextlib.suppress(OSError):
                if os.fork() == 0:
                    try:
                        control.close()
                        _attend(table, connection, max_seconds)
                    except (OSError, ValueError):
                        pass  # the other side is gone, or sends nonsense: nobody to tell
                    finally:
                        os._exit(0)


class _Allowance:
    """Computing time: the kernel ends the process that has used its up."""

    def __init__(self, seconds: float) -> None:
        self._most = self._seconds = seconds

    @contextlib.contextmanager
    def spent(self, earned: float = TOKEN_SECONDS) -> Iterator[None]:
        """What is computed within is taken from it, and `earned` is added."""
        began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, max(self._seconds, TOKEN_SECONDS))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            used = time.process_time() - began
            self._seconds = min(self._most, self._seconds - used + earned)


def _attend(table: TokenTable, connection: socket.socket, max_seconds: float) -> None:
    """A child's life: one grammar, tried or matched until the other side is done."""
    os.nice(NICENESS)
    vm_bytes = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_AS, (vm_bytes + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads(_received(connection) or b"{}")
    if request.get("operation") == "try":
        with _Allowance(TRIAL_SECONDS).spent():
            answer = try_grammar(table, request)
        connection.sendall(framed(json.dumps(answer).encode()))
    elif request.get("operation") == "match":
        _match(table, request, connection, max_seconds)


def _match(table: TokenTable, request: dict[str, Any], connection: socket.socket, max_seconds: float) -> None:
    allowance = _Allowance(max_seconds)
    try:
        with allowance.spent():
            matcher = Matcher(table, request["gbnf"], has_tokens=request.get("has_tokens", False))
            answer = ANSWER + bytes([matcher.flags])
        connection.sendall(framed(answer))
        while (question := _received(connection)) is not None:
            if question[:1] != GUESS:
                with allowance.spent():
                    answer, is_taken = _answer(matcher, question)
                connection.sendall(framed(answer))
                if not is_taken:
                    continue
            if guess := guess_of(question):
                _foretell(matcher, guess, connection, allowance)
    except (GrammarRefused, MatchFailed, MemoryError) as error:
        connection.sendall(framed(ERROR + (str(error) or "it takes too much memory").encode()))


def _foretell(matcher: Matcher, guess: list[int], connection: socket.socket, allowance: _Allowance) -> None:
    """Behind the answer, so that nobody waits for it. Where it goes wrong, the next question finds nobody."""
    try:
        with allowance.spent(earned=0.0):
            num_allowed = matcher.num_allowed(guess)
    except (MatchFailed, MemoryError) as error:
        raise OSError from error
    connection.sendall(framed(FORETOLD + bytes([num_allowed])))


def _answer(matcher: Matcher, question: bytes) -> tuple[bytes, bool]:
    """And whether a token was taken."""
    match question[:1]:
        case kind if kind in (TRY, TAKE):
            if matcher.take(token_of(question)):
                return ANSWER + bytes([matcher.flags]), True
            if kind == TAKE:
                raise MatchFailed("a token that it allowed is not taken")
        case kind:
            assert kind == LIST
    mask = matcher.mask()
    return ANSWER + bytes([matcher.flags]) + mask, False


def _received(connection: socket.socket) -> bytes | None:
    head = _exactly(connection, HEAD_BYTES)
    return None if head is None else _exactly(connection, length_of(head))


def _exactly(connection: socket.socket, length: int) -> bytes | None:
    found = bytearray()
    while len(found) < length:
        more = connection.recv(length - len(found))
        if not more:
            return None
        found += more
    return bytes(found)
