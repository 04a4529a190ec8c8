"""`turnpike chat`: a conversation at the terminal. ^C stops an answer, ^D or ^C at the prompt the program."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import nats.errors

from broker.answer import Answer, TurnFailed
from broker.client import Client
from broker.connection import Address
from broker.errors import TurnpikeError
from broker.messages import Message, Sampling, new_id
from broker.process import EXIT_ERROR, EXIT_INTERRUPTED, interrupts_go_to
from producers.routing.asking import CHATS, NO_ROUTES, resolve
from producers.routing.policies import Routes
from producers.routing.waiting import choosable, ready, unless
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
) -> int:
    """Reads a message, streams the answer, keeps the history; until the input ends, or `stop`.

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
    talk = Conversation(address, model, sampling, Keyboard(), stop, is_seeded)
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
    ) -> None:
        self.messages: list[Message] = []
        self._address, self._model, self._sampling, self._is_seeded = address, model, sampling, is_seeded
        self._keyboard = keyboard
        self._stop = stop
        self._conversation = new_id()
        self._client: Client | None = None
        self._num_failed = 0
        self._is_left = False

    async def run(self) -> int:
        """The exit code: for a script also whether every message was answered."""
        async with AsyncExitStack() as connections:
            while not self._is_left and (text := await self._prompted()) is not None:
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

    async def _turn(self, connections: AsyncExitStack, message: Message) -> None:
        """Streams one answer, and keeps message and answer where there is one."""
        printer = Printer()
        try:
            if self._client is None or self._client.nc.is_closed:
                # A connection that was closed for good takes nothing of the conversation along.
                self._client = await connections.enter_async_context(Client(self._address))
            following = self._following(self._client, message, printer)
            async with self._stopping(following.answer, printer) as interrupted:
                await following.until(interrupted)
        except TurnFailed:
            printer.end_line()
            printer.note(summary(following.answer))
            self._num_failed += 1
        except (TurnpikeError, nats.errors.Error) as error:
            printer.end_line()
            printer.note(f"{error or type(error).__name__}; the conversation is kept without this message")
            self._num_failed += 1
        else:
            answer = following.answer
            printer.end_line()
            printer.note(summary(answer))
            if answer.text or not following.was_stopped:
                # A stopped answer stays in the history as far as it went.
                self.messages += [message, Message("assistant", answer.text)]

    def _following(self, client: Client, message: Message, printer: Printer) -> Following:
        sampling = with_seed(self._sampling, self._is_seeded)
        messages = [*self.messages, message]
        answer = client.ask(self._model, messages, sampling=sampling, conversation=self._conversation)
        tells_place = sys.stderr.isatty()
        return Following(client, answer, printer.show, printer.note, self._address.wait, tells_place)

    @asynccontextmanager
    async def _stopping(self, answer: Answer, printer: Printer) -> AsyncIterator[asyncio.Event]:
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
            if answer.started is None:
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
