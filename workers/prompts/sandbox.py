"""The parent's side of the sandbox: chat templates, grammars and JSON schemas are tried by children that may die of it.

Templates have a child of their own, asked one thing at a time. A grammar is tried in a child that is forked for it
(workers.grammars.following), one a client at once, so that a client's slow ones keep nobody else's waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import Popen
from typing import Any

from broker.errors import TurnpikeError, TurnRejected
from broker.messages import Message, Sampling
from broker.process import die_with_parent, terminate
from workers.grammars.following import MAX_FRAME, Followers, framed, length_of
from workers.prompts.history import Rendered

TEMPLATE_SECONDS = 5.0
"""Of computing, for a template; for grammars see workers.llama.follower. The kernel counts them: a machine that is busy
with something else makes nothing slow in itself."""
LATE_SECONDS = 60.0
"""By the clock, for both."""
START_SECONDS = 60.0
MAX_SCHEMA_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_CACHED = 64
MAX_WAITING = 64
"""Templates that wait to be rendered."""
MAX_WAITING_OF_CLIENT = 16
"""Grammars of one client that wait to be tried."""
MAX_TRIED_AT_ONCE = 4
REMEMBERED_SECONDS = 60.0
MAX_REMEMBERED = 512

log = logging.getLogger(__name__)


class Refusals:
    """What was refused lately: the same again costs nothing."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[float, TurnRejected]] = OrderedDict()

    def check(self, key: str) -> None:
        """Raises the TurnRejected of this key, if it is remembered."""
        until, error = self._known.get(key, (0.0, None))
        if error is not None and time.monotonic() < until:
            raise TurnRejected(error.code, error.detail)

    def note(self, key: str, error: TurnRejected) -> None:
        if error.retryable:
            return
        while len(self._known) >= MAX_REMEMBERED:
            self._known.popitem(last=False)
        self._known[key] = (time.monotonic() + REMEMBERED_SECONDS, error)


class TemplateChild:
    """Renders templates, one at a time; started again when it was killed."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._num_waiting = 0
        self._refusals = Refusals()

    async def start(self) -> None:
        """Starts it and waits until it answers, so that no turn has to. Raises TurnpikeError."""
        async with self._lock:
            found = b""
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(START_SECONDS):
                    found = await self._exchange(b'{"operation": "ready"}')
            if not found:
                await self._kill()
                raise TurnpikeError("the process that renders chat templates does not start")

    async def ask(self, request: dict[str, Any], code: str, what: str) -> dict[str, Any]:
        """Its answer. Raises TurnRejected."""
        line = json.dumps(request | {"seconds": TEMPLATE_SECONDS}).encode()
        key = _digest(line)
        self._refusals.check(key)
        if self._num_waiting >= MAX_WAITING:
            raise TurnRejected("overloaded", f"{what}: {MAX_WAITING} wait for it already", retryable=True)
        self._num_waiting += 1
        try:
            async with self._lock:
                self._refusals.check(key)
                answer = await self._answer(line, code, what)
        except TurnRejected as error:
            self._refusals.note(key, error)
            raise
        finally:
            self._num_waiting -= 1
        return answer

    async def _answer(self, line: bytes, code: str, what: str) -> dict[str, Any]:
        try:
            async with asyncio.timeout(LATE_SECONDS):
                found = await self._exchange(line)
        except TimeoutError:
            await self._kill()
            raise TurnRejected(code, f"{what}: not done after {LATE_SECONDS:g} s") from None
        except (ConnectionError, ValueError):
            found = b""
        except BaseException:
            await self._kill()
            raise
        if not found:
            has_used_up = await self._kill() == -signal.SIGPROF
            reason = f"not done after {TEMPLATE_SECONDS:g} s of computing" if has_used_up else "the process died of it"
            raise TurnRejected(code, f"{what}: {reason}")
        answer: dict[str, Any] = json.loads(found)
        if "error" in answer:
            raise TurnRejected(code, f"{what}: {answer['error']}")
        return answer

    async def _exchange(self, line: bytes) -> bytes:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "workers.llama.sandbox_child",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=64 * 1024 * 1024,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + b"\n")
        await self._process.stdin.drain()
        return await self._process.stdout.readline()

    async def _kill(self) -> int | None:
        if self._process is not None:
            log.warning("sandbox killed pid=%d", self._process.pid)
        return await self.close()

    async def close(self) -> int | None:
        """Ends it; the exit code tells what did, if it had ended by itself."""
        process, self._process = self._process, None
        return None if process is None else await terminate(process, grace=0)


class Sandbox:
    """Renders templates and checks grammars. Good grammars are remembered, and for a while those that were not."""

    def __init__(
        self,
        model: Path,
        *,
        template: str | None,
        bos_token: str,
        eos_token: str,
        followers: Followers | None = None,
    ) -> None:
        self._template = template
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._templates = TemplateChild()
        self._followers = followers or Followers(model)
        self._is_own = followers is None
        self._grammars: OrderedDict[str, str] = OrderedDict()
        self._refusals = Refusals()
        self._clients: dict[str, tuple[asyncio.Lock, list[None]]] = {}
        self._at_once = asyncio.Semaphore(MAX_TRIED_AT_ONCE)
        self._starting = asyncio.Lock()

    @property
    def _process(self) -> Popen[bytes] | None:
        """What grammars are forked from; None before the first one."""
        return self._followers.process

    async def start(self) -> None:
        """Starts the templates' child; the grammars' starts when the first one comes, as most workers see none."""
        if self._template is not None:
            await self._templates.start()

    async def render(self, messages: tuple[Message, ...], exact: int = -1) -> Rendered:
        """The prompt of a conversation; raises TurnRejected("invalid_template")."""
        if self._template is None:
            raise TurnRejected("invalid_template", "the model file has no chat template")
        plain = [{"role": message.role, "content": message.content} for message in messages]
        request = {"operation": "render", "template": self._template, "messages": plain, "exact": exact, **self._tokens}
        answer = await self._templates.ask(request, "invalid_template", "the model's chat template")
        return Rendered(answer["text"], [tuple(content) for content in answer["contents"]])

    async def gbnf(self, sampling: Sampling, client: str = "") -> str | None:
        """The checked grammar of a turn, None for a turn without; raises TurnRejected("invalid_grammar")."""
        if sampling.grammar is None and sampling.json_schema is None:
            return None
        field, request = _request(sampling)
        key = _digest(request)
        self._refusals.check(key)
        async with self._starting:  # one thread that waits for it, whoever else does; the engine must not have to
            await asyncio.to_thread(self._followers.start)
        if key not in self._grammars:
            async with self._place_of(client, field):
                await self._try(key, request, field)
        self._grammars.move_to_end(key)
        return self._grammars[key]

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
        self._grammars[key] = answer["gbnf"]

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
            async with asyncio.timeout(LATE_SECONDS):
                connection = await asyncio.to_thread(self._followers.connect)
                reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_FRAME)
                writer.write(framed(request))
                head = await reader.readexactly(4)
                answer: dict[str, Any] = json.loads(await reader.readexactly(length_of(head)))
                return answer
        except TimeoutError:
            raise TurnRejected("invalid_grammar", f"{field}: not done after {LATE_SECONDS:g} s") from None
        except (OSError, EOFError):
            raise TurnRejected("invalid_grammar", f"{field}: trying it takes too much time or memory") from None
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def close(self) -> None:
        await self._templates.close()
        if self._is_own:
            await asyncio.to_thread(self._followers.close)


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


def _digest(request: bytes) -> str:
    return hashlib.sha256(request).hexdigest()


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
