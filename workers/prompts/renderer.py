"""Renders conversations with a model's chat template: in a child process, where it may loop for ever."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import logging
import signal
import sys
from collections.abc import Collection
from typing import Any

from broker.errors import TurnpikeError, TurnRejected
from broker.messages import Message, Tool
from broker.process import die_with_parent, terminate
from workers.calls.writing import in_tags
from workers.prompts.given import Write, messages_for, tools_for
from workers.prompts.off_loop import MAX_READ, characters_of, off_loop
from workers.prompts.rendered import Rendered
from workers.prompts.switches import switched
from workers.prompts.system_role import SystemRole, system_role
from workers.prompts.tools_form import ToolsForm, tools_form
from workers.sandbox import LATE_SECONDS, Refusals, digest

COMPUTING_SECONDS = 5.0
"""For one rendering. The kernel counts them: a machine that is busy with something else makes no template slow."""
START_SECONDS = 60.0
MAX_WAITING = 64
"""Conversations that wait to be rendered."""
MAX_LINE_BYTES = 64 * 1024 * 1024

TAKEN: dict[SystemRole, str] = {
    "anywhere": "as they stand",
    "first": "one, at the beginning; further ones are put before the user's next message",
    "nowhere": "put before the user's next message, as the template has no such role",
}
"""What the log says of system messages."""
TOOLS_TAKEN: dict[ToolsForm, str] = {
    "object": "as they stand",
    "text": "as they stand, a call's arguments as text",
    "content": "as they stand, calls in the text of their answers",
    "generic": "told in the system message, as the template has none",
}
"""What the log says of tools."""

log = logging.getLogger(__name__)


def dated(said: str) -> str:
    """The date that `none`, `today` or a date itself stands for, as YYYY-MM-DD by this machine's clock and time zone;
    empty for none. Raises ValueError."""
    if said in ("none", ""):
        return ""
    today = datetime.datetime.now().astimezone().date()
    return (today if said == "today" else datetime.date.fromisoformat(said)).isoformat()


class TemplateRenderer:
    """The template of one model. Its child is asked one thing at a time, and started again when it died."""

    def __init__(
        self,
        template: str | None,
        *,
        bos_token: str,
        eos_token: str,
        date: str = "today",
        write: Write = in_tags,
        computing_seconds: float = COMPUTING_SECONDS,
        late_seconds: float = LATE_SECONDS,
        child: TemplateProcess | None = None,
    ) -> None:
        """`template` is Jinja, None for a model file without one: then nothing can be rendered. `date` is what it hears
        of the date: `none`, `today`, or YYYY-MM-DD. `write` spells calls where they stand in an answer's text. `child`
        is one that was started ahead."""
        self._template = template
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._date = date
        self._write = write
        self._child = child or TemplateProcess(computing_seconds, late_seconds)
        self._lock = asyncio.Lock()
        """Held by who asks the child."""
        self._num_waiting = 0
        self._refusals = Refusals()
        self._system_role: SystemRole = "anywhere"
        self._tools_form: ToolsForm = "object"

    @property
    def tools_form(self) -> ToolsForm:
        """How the template takes tools; found out by `start`."""
        return self._tools_form

    @property
    def system_role(self) -> SystemRole:
        """Where the template takes system messages; found out by `start`."""
        return self._system_role

    @property
    def pid(self) -> int | None:
        """The child's; None while there is none."""
        return self._child.pid

    async def start(self) -> None:
        """Starts the child and waits until it answers, so that no turn has to, and tries the template. Raises
        TurnpikeError."""
        if self._template is None:
            await self._child.close()
            return
        async with self._lock:
            await self._child.start()
        self._system_role = await system_role(self._told)
        log.info("template system_messages=%s", TAKEN[self._system_role])
        self._tools_form = await tools_form(self._with_tools)
        log.info("template tools=%s", TOOLS_TAKEN[self._tools_form])

    async def _told(self, messages: tuple[Message, ...]) -> set[int]:
        return {index for index, start, end in (await self.render(messages)).contents if start < end}

    async def _with_tools(self, messages: tuple[Message, ...], tools: tuple[Tool, ...], form: ToolsForm) -> str:
        return (await self._rendered(messages, (), None, tools, form)).text

    async def render(
        self,
        messages: tuple[Message, ...],
        exact: Collection[int] = (),
        kwargs: dict[str, Any] | None = None,
        tools: tuple[Tool, ...] = (),
    ) -> Rendered:
        """The prompt of a conversation, with the texts of the messages `exact` as they were said; the template is given
        `kwargs` and `tools` besides, whose texts are contents. Raises TurnRejected:
        "invalid_template", or "overloaded" where MAX_WAITING wait already."""
        return await self._rendered(messages, exact, kwargs, tools, self._tools_form)

    async def _rendered(
        self,
        messages: tuple[Message, ...],
        exact: Collection[int],
        kwargs: dict[str, Any] | None,
        tools: tuple[Tool, ...],
        form: ToolsForm,
    ) -> Rendered:
        if self._template is None:
            raise TurnRejected("invalid_template", "the model file has no chat template")
        template = self._template

        def request() -> tuple[bytes, str]:
            line = json.dumps(
                {
                    "operation": "render",
                    "template": template,
                    "messages": messages_for(messages, form, self._write),
                    "exact": list(exact),
                    **self._tokens,
                    "system_role": self._system_role,
                    "date": dated(self._date),
                    "kwargs": switched(template, kwargs or {}),
                    "tools": tools_for(tools),
                    "takes_tools": form != "generic",
                }
            ).encode()
            return line, digest(line)

        line, key = await off_loop(characters_of(messages), request, at_most=MAX_READ)
        self._refusals.check(key)
        if self._num_waiting >= MAX_WAITING:
            reason = f"the model's chat template: {MAX_WAITING} wait for it already"
            raise TurnRejected("overloaded", reason, retryable=True)
        self._num_waiting += 1
        try:
            async with self._lock:
                self._refusals.check(key)
                answer = await self._child.ask(line)
        except TurnRejected as error:
            self._refusals.note(key, error)
            raise
        finally:
            self._num_waiting -= 1
        return Rendered(answer["text"], [tuple(content) for content in answer["contents"]])

    async def close(self) -> None:
        """Ends the child."""
        await self._child.close()


class TemplateProcess:
    """The parent's side of workers.prompts.template_process, asked one thing at a time."""

    def __init__(self, computing_seconds: float = COMPUTING_SECONDS, late_seconds: float = LATE_SECONDS) -> None:
        self._computing_seconds = computing_seconds
        self._late_seconds = late_seconds
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """None while there is no process."""
        return None if self._process is None else self._process.pid

    async def begin(self) -> None:
        """Starts it, and does not wait: `start` does, later. Raises OSError."""
        await self._running()

    async def start(self) -> None:
        """Starts it and waits until it answers. Raises TurnpikeError."""
        found = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(START_SECONDS):
                found = await self._exchange(b'{"operation": "ready"}')
        if not found:
            await self._kill()
            raise TurnpikeError("the process that renders chat templates does not start")

    async def ask(self, request: bytes) -> dict[str, Any]:
        """Its answer to a line of JSON. Raises TurnRejected("invalid_template")."""
        try:
            async with asyncio.timeout(self._late_seconds):
                found = await self._exchange(request)
        except TimeoutError:
            await self._kill()
            raise _invalid(f"not done after {self._late_seconds:g} s") from None
        except (ConnectionError, ValueError):
            found = b""
        except BaseException:
            await self._kill()
            raise
        if not found:
            has_used_up = await self._kill() == -signal.SIGPROF
            spent = f"not done after {self._computing_seconds:g} s of computing"
            raise _invalid(spent if has_used_up else "the process died of it")
        answer: dict[str, Any] = await off_loop(len(found), lambda: json.loads(found), at_most=MAX_READ)
        if "error" in answer:
            raise _invalid(answer["error"])
        return answer

    async def _exchange(self, line: bytes) -> bytes:
        process = await self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line + b"\n")
        await process.stdin.drain()
        return await process.stdout.readline()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "workers.prompts.template_process",
                str(self._computing_seconds),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=MAX_LINE_BYTES,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        return self._process

    async def _kill(self) -> int | None:
        if self._process is not None:
            log.warning("sandbox killed pid=%d", self._process.pid)
        return await self.close()

    async def close(self) -> int | None:
        """Ends it; the exit code tells what did, if it had ended by itself."""
        process, self._process = self._process, None
        return None if process is None else await terminate(process, grace=0)


def _invalid(reason: str) -> TurnRejected:
    return TurnRejected("invalid_template", f"the model's chat template: {reason}")
