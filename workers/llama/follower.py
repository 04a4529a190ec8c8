"""The process of grammars: it has the vocabulary, and forks a child for each grammar that is tried or followed.

llguidance bounds its work for each token, but one row of its parser may grow with the square of a grammar before that
is counted: so a child has an allowance of computing time, which the kernel holds it to, and a limit of memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import random
import resource
import signal
import socket
import struct
import sys
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from workers.grammars.following import ANSWER, ERROR, LIST, READY, TAKE, TRY, framed, length_of, token_of
from workers.grammars.gbnf import GrammarRefused, lark_of_gbnf
from workers.grammars.schemas import SchemaRefused, gbnf_of_schema
from workers.llama.sandbox_child import _grammar, be_first_to_go, tables_of

if TYPE_CHECKING:
    from workers.llama.vocabulary import LlamaVocabulary

TRIAL_TOKENS = 4
TRIAL_SECONDS = 4.0
"""Of computing, for making a grammar, compiling it and following it for some tokens."""
MAX_SECONDS = 2.0
"""Of computing, at once: compiling, or a single token."""
TOKEN_SECONDS = 0.05
"""What each token adds to the allowance."""
MEMORY_BYTES = 256 * 1024 * 1024
"""That a child may take besides what it was forked with."""
NICENESS = 5
MAX_STATES = 50_000
MAX_ITEMS = 500_000
MAX_GRAMMAR_BYTES = 1024 * 1024
"""Of one that a schema becomes."""
_LIMITS = LLParserLimits(
    max_items_in_row=4_000,
    step_max_items=MAX_ITEMS,
    max_lexer_states=MAX_STATES,
    verbose_errors=False,
    precompute_large_lexemes=False,
)


class FollowFailed(Exception):
    """The grammar does not compile, or cannot be followed further."""


class Tables:
    """The vocabulary as llguidance wants it. Control tokens have no text: no grammar allows them."""

    def __init__(self, vocabulary: LlamaVocabulary) -> None:
        self._vocabulary = vocabulary
        self.num_tokens = vocabulary.num_tokens

    @cached_property
    def tokenizer(self) -> LLTokenizer:
        ends = sorted(self._vocabulary.end_tokens) or [0]
        return LLTokenizer(_Words(self._vocabulary, ends[0]), n_vocab=self.num_tokens, eos_token=ends[:1])  # type: ignore[arg-type]


class _Words:
    """What LLTokenizer asks of a tokenizer. That it cannot tokenise does not matter: nothing is ever forced."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: LlamaVocabulary, end: int) -> None:
        self.eos_token_id = end
        self.special_token_ids: list[int] = []
        is_end = vocabulary.is_end
        self.tokens = [b"" if is_end(token) else vocabulary.piece(token) for token in range(vocabulary.num_tokens)]
        self.tokens[end] = b"\xff<end>"

    def __call__(self, text: bytes | str) -> list[int]:
        return []


class Follower:
    """A compiled grammar and the tokens so far."""

    def __init__(self, tables: Tables, gbnf: str) -> None:
        self._num_bytes = (tables.num_tokens + 31) // 32 * 4
        self._matcher = LLMatcher(tables.tokenizer, lark_of_gbnf(gbnf), log_level=0, limits=_LIMITS)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise FollowFailed(_short(self._matcher.get_error()))

    @property
    def flags(self) -> int:
        """1: the text is whole; 2: nothing may follow."""
        is_accepting, is_stopped = self._matcher.is_accepting(), self._matcher.is_stopped()
        self._check()
        return (1 if is_accepting else 0) | (2 if is_stopped else 0)

    def take(self, token: int) -> bool:
        """Adds a token if it may follow."""
        if self._matcher.is_stopped() or self._matcher.validate_tokens([token]) != 1:
            self._check()
            return False
        self._matcher.consume_token(token)
        self._check()
        return True

    def mask(self) -> bytes:
        """A bit for each token that may follow, the first the lowest."""
        if self._matcher.is_stopped():
            self._check()
            return bytes(self._num_bytes)
        found = bytearray(self._num_bytes)
        address = ctypes.addressof((ctypes.c_char * len(found)).from_buffer(found))
        self._matcher.unsafe_compute_mask_ptr(address, len(found))
        self._check()
        return bytes(found)

    def wander(self, num_tokens: int) -> None:
        """Follows the grammar along tokens chosen by chance. Raises FollowFailed."""
        chance = random.Random(0)
        for _ in range(num_tokens):
            mask = self.mask()
            places = [at for at, byte in enumerate(mask) if byte]
            if not places or self.flags & 2:
                return
            at = chance.choice(places)
            bits = [bit for bit in range(8) if mask[at] >> bit & 1]
            if not self.take(8 * at + chance.choice(bits)) and self.flags & 1:
                return


def _short(error: str) -> str:
    """llguidance's first line, which tells of the grammar; what follows tells of its insides."""
    line = error.partition("\n")[0].partition("<state>")[0].strip()
    if "too many" in line.lower() or "Current row has" in line:
        return f"it is too ambiguous to be followed ({line.partition(';')[0]})"
    return line or "it cannot be followed"


def tried(tables: Tables, request: dict[str, Any]) -> dict[str, Any]:
    """Makes a schema a grammar, compiles it and follows it for a while: what comes of it, or `error`."""
    try:
        gbnf = request["grammar"]
        if gbnf is None:
            gbnf = gbnf_of_schema(json.loads(request["schema"]))
            if len(gbnf) > MAX_GRAMMAR_BYTES:
                return {"error": f"it makes a grammar of {len(gbnf):,} bytes, over {MAX_GRAMMAR_BYTES:,}"}
        Follower(tables, gbnf).wander(TRIAL_TOKENS)
    except (SchemaRefused, GrammarRefused, FollowFailed) as error:
        return {"error": str(error)}
    except RecursionError:
        return {"error": "it is nested too deep"}
    except MemoryError:
        return {"error": "it takes too much memory"}
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        # A fault of ours: if the child died of it, that would be called too much time or memory.
        return {"error": f"it cannot be made a grammar here ({type(error).__name__})"}
    return {"gbnf": gbnf}


class _Allowance:
    """Computing time: the kernel ends the process that has used its up."""

    def __init__(self, seconds: float) -> None:
        self._most = self._seconds = seconds
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, max(self._seconds, TOKEN_SECONDS))

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        used = time.process_time() - self._began
        self._seconds = min(self._most, self._seconds - used + TOKEN_SECONDS)


def _attend(model: str, connection: socket.socket) -> None:
    """A child's life: one grammar, tried or followed until the other side is done."""
    os.nice(NICENESS)
    vm_bytes = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_AS, (vm_bytes + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads(_received(connection) or b"{}")
    if request.get("operation") == "try":
        with _Allowance(TRIAL_SECONDS):
            answer = _grammar(request | {"model": model})
        connection.sendall(framed(json.dumps(answer).encode()))
    elif request.get("operation") == "follow":
        _follow(tables_of(model), request["gbnf"], connection)


def _follow(tables: Tables, gbnf: str, connection: socket.socket) -> None:
    allowance = _Allowance(MAX_SECONDS)
    try:
        with allowance:
            follower = Follower(tables, gbnf)
            answer = ANSWER + bytes([follower.flags])
        while True:
            connection.sendall(framed(answer))
            if (question := _received(connection)) is None:
                return
            with allowance:
                answer = _answer(follower, question)
    except (GrammarRefused, FollowFailed, MemoryError) as error:
        connection.sendall(framed(ERROR + (str(error) or "it takes too much memory").encode()))


def _answer(follower: Follower, question: bytes) -> bytes:
    match question[:1]:
        case kind if kind in (TRY, TAKE):
            if follower.take(token_of(question)):
                return ANSWER + bytes([follower.flags])
            if kind == TAKE:
                raise FollowFailed("a token that it allowed is not taken")
        case kind:
            assert kind == LIST
    mask = follower.mask()
    return ANSWER + bytes([follower.flags]) + mask


def _received(connection: socket.socket) -> bytes | None:
    head = _exactly(connection, struct.calcsize("<I"))
    return None if head is None else _exactly(connection, length_of(head))


def _exactly(connection: socket.socket, length: int) -> bytes | None:
    found = bytearray()
    while len(found) < length:
        more = connection.recv(length - len(found))
        if not more:
            return None
        found += more
    return bytes(found)


def serve(model: str, control: socket.socket) -> None:
    """Forks a child for each connection that comes over `control`, until that closes."""
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
                        _attend(model, connection)
                    except (OSError, ValueError):
                        pass  # the other side is gone, or sends nonsense: nobody to tell
                    finally:
                        os._exit(0)


def main() -> None:
    model, control = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    be_first_to_go()
    _ = tables_of(model).tokenizer
    gc.freeze()  # or each child would copy what it only counts references to
    control.sendall(READY)
    serve(model, control)


if __name__ == "__main__":
    main()
