"""The parent's side of the jail: renders templates and compiles grammars in a child that may die of it."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from broker.errors import TurnRejected
from broker.messages import Message, Sampling
from broker.process import die_with_parent, terminate
from workers.history import Rendered

TIMEOUT_SECONDS = 5.0
START_SECONDS = 60.0
MAX_SCHEMA_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_CACHED = 64

log = logging.getLogger(__name__)


class Jail:
    """One child, asked one thing at a time; started again when it was killed."""

    def __init__(self, model: Path, *, template: str | None, bos_token: str, eos_token: str) -> None:
        self._model = model
        self._template = template
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._grammars: dict[str, str] = {}

    async def start(self) -> None:
        """Starts the child and waits until it answers, so that no turn has to."""
        async with self._lock:
            process = await self._child()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b'{"operation": "ready"}\n')
            async with asyncio.timeout(START_SECONDS):
                await process.stdout.readline()

    async def render(self, messages: tuple[Message, ...], exact: int = -1) -> Rendered:
        """The prompt of a conversation; raises TurnRejected("invalid_template")."""
        if self._template is None:
            raise TurnRejected("invalid_template", "the model file has no chat template")
        plain = [{"role": message.role, "content": message.content} for message in messages]
        request = {"operation": "render", "template": self._template, "messages": plain, "exact": exact, **self._tokens}
        answer = await self._ask(request, "invalid_template", "the model's chat template")
        return Rendered(answer["text"], [tuple(content) for content in answer["contents"]])

    async def gbnf(self, sampling: Sampling) -> str | None:
        """The checked grammar of a turn, None for a turn without; raises TurnRejected("invalid_grammar")."""
        if sampling.grammar is None and sampling.json_schema is None:
            return None
        field, schema = "sampling.grammar", None
        if sampling.json_schema is not None:
            field, schema = "sampling.json_schema", json.dumps(sampling.json_schema)
            if len(schema) > MAX_SCHEMA_BYTES:
                raise TurnRejected("invalid_grammar", f"{field}: has {len(schema):,} bytes, over {MAX_SCHEMA_BYTES:,}")
            if _depth(sampling.json_schema) > MAX_DEPTH:
                raise TurnRejected("invalid_grammar", f"{field}: is nested deeper than {MAX_DEPTH}")
        elif _nesting(sampling.grammar or "") > MAX_DEPTH:
            raise TurnRejected("invalid_grammar", f"{field}: is nested deeper than {MAX_DEPTH}")
        key = f"{field}:{schema or sampling.grammar}"
        if key not in self._grammars:
            request = {"operation": "grammar", "grammar": sampling.grammar, "schema": schema, "model": str(self._model)}
            answer = await self._ask(request, "invalid_grammar", field)
            while len(self._grammars) >= MAX_CACHED:
                del self._grammars[next(iter(self._grammars))]
            self._grammars[key] = answer["gbnf"]
        return self._grammars[key]

    async def _ask(self, request: dict[str, Any], code: str, what: str) -> dict[str, Any]:
        async with self._lock:
            process = await self._child()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await process.stdin.drain()
                    line = await process.stdout.readline()
            except TimeoutError:
                await self._kill()
                raise TurnRejected(code, f"{what}: not done after {TIMEOUT_SECONDS:g} s") from None
            except (ConnectionError, ValueError):
                line = b""
            except BaseException:
                await self._kill()
                raise
            if not line:
                await self._kill()
                raise TurnRejected(code, f"{what}: the process that tried it died")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise TurnRejected(code, f"{what}: {answer['error']}")
        return answer

    async def _child(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "workers.llama.jail",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=64 * 1024 * 1024,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        return self._process

    async def _kill(self) -> None:
        if self._process is not None:
            log.warning("jail killed pid=%d", self._process.pid)
            await terminate(self._process, grace=0)
            self._process = None

    async def close(self) -> None:
        if self._process is not None:
            await terminate(self._process, grace=0)
            self._process = None


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
