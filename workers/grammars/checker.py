"""Checks the grammar or JSON schema of a turn before the engine sees it: in a child that may die of it.

One grammar a client is tried at once, so that a client's slow ones keep nobody else's waiting. Good ones are
remembered, and for a while those that were refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from broker.errors import TurnRejected
from broker.messages import Sampling
from workers.grammars.call_rules import CallRules, CallsWanted
from workers.grammars.frames import HEAD_BYTES, MAX_FRAME, framed, length_of
from workers.grammars.remote_matcher import MatcherProcess
from workers.sandbox import LATE_SECONDS, Refusals, digest

log = logging.getLogger(__name__)

MAX_SCHEMA_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_CACHED = 64
MAX_WAITING_OF_CLIENT = 16
"""Grammars of one client that wait to be tried."""
MAX_TRIED_AT_ONCE = 4


class GrammarChecker:
    """The grammars of one worker's turns. Implements workers.turns.jobs.GrammarCompiler."""

    def __init__(self, process: MatcherProcess, *, late_seconds: float = LATE_SECONDS) -> None:
        """`process` is started when the first grammar comes, as most workers see none; whoever made it closes it."""
        self._process = process
        self._late_seconds = late_seconds
        self._grammars: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._refusals = Refusals()
        self._clients: dict[str, tuple[asyncio.Lock, list[None]]] = {}
        self._at_once = asyncio.Semaphore(MAX_TRIED_AT_ONCE)
        self._starting = asyncio.Lock()

    async def gbnf(self, sampling: Sampling, client: str = "") -> str | None:
        """The checked grammar of a turn, None for a turn without. Raises TurnRejected: "invalid_grammar", or
        "overloaded" where too many of the client's wait."""
        if sampling.grammar is None and sampling.json_schema is None:
            return None
        field, request = _request(sampling)
        return str((await self._tried(request, field, client))["gbnf"])

    async def calls(self, wanted: CallsWanted, client: str = "") -> CallRules:
        """The checked grammar of a turn's calls. Raises TurnRejected, as `gbnf` does."""
        request = msgspec.json.encode({"operation": "try", "calls": wanted})
        rules = msgspec.convert((await self._tried(request, "tools", client))["rules"], CallRules)
        if rules.loose:
            log.info("tools held by their form alone: %s", ", ".join(rules.loose))
        return rules

    async def _tried(self, request: bytes, field: str, client: str) -> dict[str, Any]:
        key = digest(request)
        self._refusals.check(key)
        if known := self._grammars.get(key):
            self._grammars.move_to_end(key)
            await self._start()
            return known
        async with self._place_of(client, field):  # those that wait for the child to start are counted too
            await self._start()
            await self._try(key, request, field)
        self._grammars.move_to_end(key)
        return self._grammars[key]

    async def _start(self) -> None:
        """Sees to it that the child runs, also for a grammar that is known: the engine must not wait for it."""
        async with self._starting:  # one thread that waits for it, whoever else does
            await asyncio.to_thread(self._process.start)

    async def _try(self, key: str, request: bytes, field: str) -> None:
        if key in self._grammars:
            return  # another turn's trial was waited for
        self._refusals.check(key)
        try:
            answer = await self._answer(request, field)
            if "error" in answer:
                raise TurnRejected("invalid_grammar", f"{field}: {answer['error']}")
        except TurnRejected as error:
            self._refusals.note(key, error)
            raise
        while len(self._grammars) >= MAX_CACHED:
            self._grammars.popitem(last=False)
        self._grammars[key] = answer

    @contextlib.asynccontextmanager
    async def _place_of(self, client: str, field: str) -> AsyncIterator[None]:
        """One grammar a client is tried at once, and of all clients' a few."""
        lock, waiting = self._clients.setdefault(client, (asyncio.Lock(), []))
        if len(waiting) >= MAX_WAITING_OF_CLIENT:
            raise TurnRejected(
                "overloaded", f"{field}: {MAX_WAITING_OF_CLIENT} of this client wait to be tried", retryable=True
            )
        waiting.append(None)
        try:
            async with lock, self._at_once:
                yield
        finally:
            waiting.pop()
            if not waiting:
                self._clients.pop(client, None)

    async def _answer(self, request: bytes, field: str) -> dict[str, Any]:
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self._late_seconds):
                connection = await asyncio.to_thread(self._process.connect)
                reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_FRAME)
                writer.write(framed(request))
                head = await reader.readexactly(HEAD_BYTES)
                answer: dict[str, Any] = json.loads(await reader.readexactly(length_of(head)))
                return answer
        except TimeoutError:
            raise TurnRejected("invalid_grammar", f"{field}: not done after {self._late_seconds:g} s") from None
        except (OSError, EOFError):
            raise TurnRejected("invalid_grammar", f"{field}: trying it takes too much time or memory") from None
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


def _request(sampling: Sampling) -> tuple[str, bytes]:
    """The client's field, and what the trial is asked. Raises TurnRejected."""
    if sampling.json_schema is None:
        field = "sampling.grammar"
        if _nesting(sampling.grammar or "") > MAX_DEPTH:
            raise TurnRejected("invalid_grammar", f"{field}: is nested deeper than {MAX_DEPTH}")
        return field, json.dumps({"operation": "try", "grammar": sampling.grammar, "schema": None}).encode()
    field = "sampling.json_schema"
    schema = json.dumps(sampling.json_schema)
    if len(schema) > MAX_SCHEMA_BYTES:
        raise TurnRejected("invalid_grammar", f"{field}: has {len(schema):,} bytes, over {MAX_SCHEMA_BYTES:,}")
    if _depth(sampling.json_schema) > MAX_DEPTH:
        raise TurnRejected("invalid_grammar", f"{field}: is nested deeper than {MAX_DEPTH}")
    return field, json.dumps({"operation": "try", "grammar": None, "schema": schema}).encode()


def _depth(value: object) -> int:
    level, values = 0, [value]
    while values:
        level += 1
        inner = [v.values() if isinstance(v, dict) else v for v in values if isinstance(v, dict | list)]
        values = [item for items in inner for item in items]
    return level


def _nesting(grammar: str) -> int:
    """The deepest nesting of parentheses, whatever stands in quotes: an upper bound."""
    depth = deepest = 0
    for character in grammar:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest
