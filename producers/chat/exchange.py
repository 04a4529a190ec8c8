"""One message of a conversation at a terminal: its answers as they come, what they call, and how it is stopped."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

import nats.errors

from broker.answer import Answer, TurnFailed
from broker.client import Client
from broker.conversations import answered
from broker.errors import TurnpikeError
from broker.messages import Done, Message, ToolCall
from broker.process import interrupts_go_to
from broker.rounds import Rounds
from broker.waiting import unless
from producers.chat.conversation import Conversation
from producers.terminal.calls import Permission, results
from producers.terminal.following import Following, with_seed
from producers.terminal.keyboard import Typist
from producers.terminal.printing import Printer, advice, summary

LEAVE_SECONDS = 0.5
"""Behind a ^D: a turn that no worker has begun by then is stopped."""
TO_DO = "/new begins anew (/save FILE keeps this one), or start its worker with a larger --num-ctx"


class Exchange:
    """The user's message, until it is answered, stopped or failed. `run` keeps what was said in the conversation."""

    def __init__(
        self,
        talk: Conversation,
        typist: Typist,
        permission: Permission,
        printer: Printer,
        stop: asyncio.Event,
        *,
        functions: Sequence[Callable[..., object]] = (),
        is_seeded: bool = True,
        wait_seconds: float = 0.0,
    ) -> None:
        """`stop` is the end of the program."""
        self._talk, self._typist, self._permission, self._printer = talk, typist, permission, printer
        self._stop, self._functions = stop, functions
        self._is_seeded, self._wait_seconds = is_seeded, wait_seconds
        self.has_failed = False
        self.is_left = False
        """Whether the turn was stopped as nobody is there any more."""
        self.was_pressed_late = False
        """Whether a ^C came behind the answer's end, where it is the prompt's."""

    async def run(self, client: Client, text: str) -> None:
        """Streams the answers, and keeps what was said where there is one."""
        before, cut = self._talk.asking(text), ""
        rounds = self._rounds(client, before)
        try:
            with self._typist.listening():
                async with self._stopping(rounds) as interrupted:
                    stopped = await self._follow(client, rounds, interrupted)
                    is_over = isinstance(rounds.answer.end, Done) and not rounds.done.tool_calls
                    self.was_pressed_late = interrupted.is_set() and stopped is None and is_over and not self.is_left
            cut = stopped.text if stopped is not None else ""
        except TurnFailed:
            self._printer.end_line()
            self._printer.note(summary(rounds.answer))
            if (told := advice(rounds.answer, TO_DO)) is not None:
                self._printer.note(told)
            self.has_failed = True
        except (TurnpikeError, nats.errors.Error) as error:
            self.tell(error, has_answers=len(rounds.messages) > len(before))
        # A stopped answer stays in the history as far as it went.
        said = answered(rounds.messages, cut) if cut else rounds.messages
        if len(said) > len(before):
            self._talk.keep(said)

    def tell(self, error: Exception, *, has_answers: bool) -> None:
        """Says what went wrong, and what becomes of the message."""
        self._printer.end_line()
        kept = "as far as it came" if has_answers else "without this message"
        self._printer.note(f"{error or type(error).__name__}; the conversation is kept {kept}")
        self.has_failed = True

    def _rounds(self, client: Client, messages: Sequence[Message]) -> Rounds:
        async def on_tool_call(call: ToolCall) -> str | None:
            return await self._permission.refusal(call, self._printer)

        return client.converse(
            self._talk.model,
            messages,
            tools=self._functions,
            on_tool_call=on_tool_call,
            conversation=self._talk.id,
            sampling=with_seed(self._talk.sampling, self._is_seeded),
        )

    async def _follow(self, client: Client, rounds: Rounds, interrupted: asyncio.Event) -> Answer | None:
        """Shows each round's answer and what its calls gave; the answer that was stopped, None where none was."""
        tells_place = sys.stderr.isatty()
        answers, printer = rounds.answers(), self._printer
        num_shown = len(rounds.messages)

        async def run_calls() -> None:
            await anext(answers, None)

        async with aclosing(answers):
            while await unless(interrupted, run_calls()) and rounds.answer.end is None:
                for text in results(rounds.messages[num_shown:]):
                    printer.note(text)
                num_shown = len(rounds.messages)
                answer = rounds.answer
                following = Following(client, answer, printer.show, printer.note, self._wait_seconds, tells_place)
                await following.until(interrupted)
                printer.end_line()
                printer.note(summary(answer))
                if (told := advice(answer, TO_DO)) is not None:
                    printer.note(told)
                if following.was_stopped:
                    return answer
        for text in results(rounds.messages[num_shown:]):
            printer.note(text)
        return None

    @asynccontextmanager
    async def _stopping(self, rounds: Rounds) -> AsyncIterator[asyncio.Event]:
        """An event that a ^C sets, or a ^D while the turn waits, or the end of the program."""
        interrupted = asyncio.Event()

        async def on_stop() -> None:
            await self._stop.wait()
            interrupted.set()

        async def on_end_of_input() -> None:
            await self._typist.ended.wait()
            if not self._typist.is_a_terminal:
                return  # piped in: what was read is answered
            await asyncio.sleep(LEAVE_SECONDS)
            if rounds.answer.started is None:
                self.is_left = True
                interrupted.set()
            elif not isinstance(rounds.answer.end, Done):
                self._printer.note("ends after this answer; ^C stops it")

        tasks = [asyncio.ensure_future(work()) for work in (on_stop, on_end_of_input)]
        try:
            with interrupts_go_to(interrupted.set):
                yield interrupted
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
