"""`turnpike chat`: a conversation at the terminal. ^C stops an answer, ^D or ^C at the prompt the program.

What the model calls of the user's tools is shown, and run once the user says so.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import nats.errors

from broker.answer import Answer, TurnFailed
from broker.client import Client
from broker.connection import Address
from broker.errors import TurnpikeError
from broker.messages import Done, Message, Sampling, ToolCall, new_id
from broker.process import EXIT_ERROR, EXIT_INTERRUPTED, interrupts_go_to
from broker.rounds import Rounds
from broker.waiting import unless
from producers.routing.asking import CHATS, NO_ROUTES, resolve
from producers.routing.policies import Routes
from producers.routing.waiting import choosable, ready
from producers.terminal.calls import Permission, results
from producers.terminal.following import Following, with_seed
from producers.terminal.keyboard import Keyboard
from producers.terminal.printing import Printer, summary

LEAVE_SECONDS = 0.5
"""Behind a ^D: a turn that no worker has begun by then is stopped."""


async def chat(
    address: Address,
    model: str,
    sampling: Sampling,
    stop: asyncio.Event,
    *,
    system: str | None = None,
    routes: Routes = NO_ROUTES,
    is_seeded: bool = True,
    functions: Sequence[Callable[..., object]] = (),
    is_allowed: bool = False,
) -> int:
    """Reads a message, streams the answer, keeps the history; until the input ends, or `stop`.

    The model may call the functions; whether one is run is asked each time, unless all is allowed.

    What goes wrong with one message is said, and the conversation goes on. Raises NotServed at the start, where nobody
    serves the model and none comes for as long as the address says.
    """
    async with Client(address) as client:
        if not await unless(stop, choosable(client, routes, model, CHATS, address.wait, Printer().note)):
            return EXIT_INTERRUPTED
        model = await resolve(client, model, routes)
        if not await unless(stop, ready(client, model, address.wait, Printer().note)):
            return EXIT_INTERRUPTED
    sys.stderr.write(f"talking to {model}; ^C stops an answer, ^D ends\n")
    talk = Conversation(address, model, sampling, Keyboard(), stop, is_seeded, functions, is_allowed)
    if system:
        talk.messages.append(Message("system", system))
    return await talk.run()


class Conversation:
    """One conversation and its history."""

    def __init__(
        self,
        address: Address,
        model: str,
        sampling: Sampling,
        keyboard: Keyboard,
        stop: asyncio.Event,
        is_seeded: bool,
        functions: Sequence[Callable[..., object]] = (),
        is_allowed: bool = False,
    ) -> None:
        self.messages: list[Message] = []
        self._address, self._model, self._sampling, self._is_seeded = address, model, sampling, is_seeded
        self._functions = functions
        self._permission = Permission(keyboard, is_allowed)
        self._keyboard = keyboard
        self._stop = stop
        self._conversation = new_id()
        self._client: Client | None = None
        self._num_failed = 0
        self._is_left = False

    async def run(self) -> int:
        """The exit code: for a script also whether every message was answered."""
        async with AsyncExitStack() as connections:
            while not self._has_ended and (text := await self._prompted()) is not None:
                if text.strip():
                    await self._turn(connections, Message("user", text))
        if self._stop.is_set():
            return EXIT_INTERRUPTED
        return EXIT_ERROR if self._num_failed and not self._keyboard.is_a_terminal else 0

    async def _prompted(self) -> str | None:
        """The next line; None when there is none, or at a ^C."""
        sys.stderr.write("> ")
        sys.stderr.flush()
        typed = asyncio.ensure_future(self._keyboard.lines.get())
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({typed, stopped}, return_when=asyncio.FIRST_COMPLETED)
            text = typed.result() if typed.done() else None
        finally:
            typed.cancel()
            stopped.cancel()
        if text is None:
            sys.stderr.write("\n")
        return None if self._stop.is_set() else text

    @property
    def _has_ended(self) -> bool:
        """Whether there is no more input, and nobody else hears of it."""
        return self._is_left or self._permission.is_left

    async def _turn(self, connections: AsyncExitStack, message: Message) -> None:
        """Streams the answers to one message, and keeps what was said where there is an answer."""
        printer, before, cut = Printer(), [*self.messages, message], ""
        try:
            if self._client is None or self._client.nc.is_closed:
                # A connection that was closed for good takes nothing of the conversation along.
                self._client = await connections.enter_async_context(Client(self._address))
            rounds = self._rounds(self._client, before, printer)
        except (TurnpikeError, nats.errors.Error) as error:
            self._tell(error, printer, has_answers=False)
            return
        try:
            async with self._stopping(rounds, printer) as interrupted:
                stopped = await self._follow(self._client, rounds, printer, interrupted)
                if interrupted.is_set() and stopped is None and self._has_answered(rounds):
                    self._stop.set()  # behind the answer's end, a ^C is the prompt's
        except TurnFailed:
            printer.end_line()
            printer.note(summary(rounds.answer))
            self._num_failed += 1
        except (TurnpikeError, nats.errors.Error) as error:
            self._tell(error, printer, has_answers=len(rounds.messages) > len(before))
        else:
            cut = stopped.text if stopped is not None else ""
        # A stopped answer stays in the history as far as it went.
        said = [*rounds.messages, *([Message("assistant", cut)] if cut else [])]
        if len(said) > len(before):
            self.messages = said

    def _has_answered(self, rounds: Rounds) -> bool:
        """Whether the last answer came to its end by itself, calls nothing, and the chat goes on."""
        return isinstance(rounds.answer.end, Done) and not rounds.done.tool_calls and not self._has_ended

    def _tell(self, error: Exception, printer: Printer, *, has_answers: bool) -> None:
        """Says what went wrong, and what becomes of the message."""
        printer.end_line()
        kept = "as far as it came" if has_answers else "without this message"
        printer.note(f"{error or type(error).__name__}; the conversation is kept {kept}")
        self._num_failed += 1

    async def _follow(
        self, client: Client, rounds: Rounds, printer: Printer, interrupted: asyncio.Event
    ) -> Answer | None:
        """Shows each round's answer and what its calls gave; the answer that was stopped, None where none was."""
        tells_place = sys.stderr.isatty()
        answers = rounds.answers()
        num_shown = len(rounds.messages)

        async def run_calls() -> None:
            await anext(answers, None)

        async with aclosing(answers):
            while await unless(interrupted, run_calls()) and rounds.answer.end is None:
                for text in results(rounds.messages[num_shown:]):
                    printer.note(text)
                num_shown = len(rounds.messages)
                answer = rounds.answer
                following = Following(client, answer, printer.show, printer.note, self._address.wait, tells_place)
                await following.until(interrupted)
                printer.end_line()
                printer.note(summary(answer))
                if following.was_stopped:
                    return answer
        for text in results(rounds.messages[num_shown:]):
            printer.note(text)
        return None

    def _rounds(self, client: Client, messages: list[Message], printer: Printer) -> Rounds:
        async def on_tool_call(call: ToolCall) -> str | None:
            return await self._permission.refusal(call, printer)

        return client.converse(
            self._model,
            messages,
            tools=self._functions,
            on_tool_call=on_tool_call,
            conversation=self._conversation,
            sampling=with_seed(self._sampling, self._is_seeded),
        )

    @asynccontextmanager
    async def _stopping(self, rounds: Rounds, printer: Printer) -> AsyncIterator[asyncio.Event]:
        """An event that a ^C sets, or a ^D while the turn waits, or the end of the program."""
        interrupted = asyncio.Event()

        async def on_stop() -> None:
            await self._stop.wait()
            interrupted.set()

        async def on_end_of_input() -> None:
            await self._keyboard.ended.wait()
            if not self._keyboard.is_a_terminal:
                return  # piped in: what was read is answered
            await asyncio.sleep(LEAVE_SECONDS)
            if rounds.answer.started is None:
                self._is_left = True
                interrupted.set()
            else:
                printer.note("ends after this answer; ^C stops it")

        tasks = [asyncio.ensure_future(work()) for work in (on_stop, on_end_of_input)]
        try:
            with interrupts_go_to(interrupted.set):
                yield interrupted
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
