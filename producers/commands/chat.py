"""`turnpike chat`: a conversation at the terminal. ^C stops an answer, or clears the line; twice at the prompt it ends.

What the model calls of the user's tools is shown, and run once the user says so. Lines that begin with `/` are
commands, where somebody types them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path

import nats.errors

from broker.availability import choices
from broker.client import Client
from broker.connection import Address
from broker.errors import TurnpikeError
from broker.messages import Message, Sampling
from broker.process import EXIT_ERROR, EXIT_INTERRUPTED, interrupts_go_to
from broker.waiting import unless
from producers.chat import orders
from producers.chat.conversation import Conversation
from producers.chat.exchange import Exchange
from producers.chat.saved import load, save
from producers.routing.asking import CHATS, NO_ROUTES, resolve
from producers.routing.policies import Routes
from producers.routing.waiting import choosable, ready
from producers.terminal.calls import Permission
from producers.terminal.keyboard import Keyboard, Left, Typist
from producers.terminal.printing import Printer, counted, folded, is_dumb, shown
from producers.terminal.tables import print_columns

Serve = Callable[[str], Awaitable[str]]
"""Has a model served, if it can be, and says what it is called. Raises TurnpikeError."""


async def _as_it_is(name: str) -> str:
    return name


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
    is_plain: bool = False,
    history: Path | None = None,
    serve: Serve = _as_it_is,
) -> int:
    """Reads a message, streams the answer, keeps the history; until the input ends, or `stop`.

    The model may call the functions; whether one is run is asked each time, unless all is allowed. `is_plain`: Markdown
    is written as it stands. What was typed is kept in the file `history`; another model is served by `serve`.

    What goes wrong with one message is said, and the conversation goes on. Raises NotServed at the start, where nobody
    serves the model and none comes for as long as the address says.
    """
    async with Client(address) as client:
        if not await unless(stop, choosable(client, routes, model, CHATS, address.wait, Printer().note)):
            return EXIT_INTERRUPTED
        model = await resolve(client, model, routes)
        if not await unless(stop, ready(client, model, address.wait, Printer().note)):
            return EXIT_INTERRUPTED
    models: list[str] = []
    typist = _typist(history, lambda: models)
    how = "/help lists commands, ^C stops an answer, ^D ends" if typist.is_a_terminal else "^C stops an answer"
    sys.stderr.write(folded(f"talking to {model}; {how}") + "\n")
    talk = Conversation(model, sampling, system)
    chat = Chat(address, talk, typist, stop, is_seeded, functions, is_allowed, is_plain, routes, serve, models)
    return await chat.run()


def _typist(history: Path | None, models: Callable[[], Sequence[str]]) -> Typist:
    """A line that can be edited, where there is a terminal for it."""
    if sys.stdin is None or not sys.stdin.isatty() or not sys.stderr.isatty() or is_dumb():
        return Keyboard()
    from producers.terminal.editor import Editor

    return Editor(history, orders.words(models))


class Chat:
    """A terminal, and the conversation that is held there."""

    def __init__(
        self,
        address: Address,
        talk: Conversation,
        typist: Typist,
        stop: asyncio.Event,
        is_seeded: bool = True,
        functions: Sequence[Callable[..., object]] = (),
        is_allowed: bool = False,
        is_plain: bool = False,
        routes: Routes = NO_ROUTES,
        serve: Serve = _as_it_is,
        models: list[str] | None = None,
    ) -> None:
        """`models` are kept as those that can be talked to."""
        self._address, self._talk, self._typist, self._stop = address, talk, typist, stop
        self._is_seeded, self._functions, self._is_plain = is_seeded, functions, is_plain
        self._permission = Permission(typist, is_allowed)
        self._routes, self._serve = routes, serve
        self._models = models if models is not None else []
        self._client: Client | None = None
        self._connections = AsyncExitStack()
        self._num_failed = 0
        self._is_left = self._is_pressed = False

    async def run(self) -> int:
        """The exit code: for a script also whether every message was answered."""
        # Between an answer and the prompt a ^C is the prompt's; a script's ends it.
        takes = interrupts_go_to(self._press) if self._typist.is_a_terminal else nullcontext()
        try:
            async with self._connections:
                with takes:
                    await self._until_left()
        except Left:
            return EXIT_INTERRUPTED
        if self._stop.is_set():
            return EXIT_INTERRUPTED
        return EXIT_ERROR if self._num_failed and not self._typist.is_a_terminal else 0

    async def _until_left(self) -> None:
        """Raises Left."""
        while not self._has_ended and (text := await self._prompted()) is not None:
            await self._heard(text)

    def _press(self) -> None:
        if self._is_pressed:
            self._stop.set()
        self._is_pressed = True

    @property
    def _has_ended(self) -> bool:
        """Whether there is no more input, and nobody else hears of it."""
        return self._is_left or self._permission.is_left

    async def _prompted(self) -> str | None:
        """The next message; None when there is none, or at a signal. Raises Left."""
        looking = asyncio.ensure_future(self._look_for_models())
        typed = asyncio.ensure_future(self._typist.message(self._is_pressed))
        self._is_pressed = False
        stopped = asyncio.ensure_future(self._stop.wait())
        tasks = (looking, typed, stopped)
        text: str | None = None
        try:
            await asyncio.wait({typed, stopped}, return_when=asyncio.FIRST_COMPLETED)
            text = typed.result() if typed.done() else None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if text is None:
                sys.stderr.write("\n")
        return None if self._stop.is_set() else text

    async def _look_for_models(self) -> None:
        """Those that complete /model."""
        try:
            client = await self._connected()
            self._models[:] = await choices(client.nc, await client.boards())
        except (TurnpikeError, nats.errors.Error):
            return  # said where something is asked

    async def _connected(self) -> Client:
        """A connection that was closed for good takes nothing of the conversation along."""
        if self._client is None or self._client.nc.is_closed:
            self._client = await self._connections.enter_async_context(Client(self._address))
        return self._client

    async def _heard(self, text: str) -> None:
        """A command where somebody has typed one, else a message."""
        if not text.strip():
            return
        try:
            order = orders.parsed(text) if self._typist.is_a_terminal else None
            if order is None:
                await self._message(text)
            else:
                await self._obey(*order)
        except (TurnpikeError, nats.errors.Error, OSError) as error:
            _note(str(error) or type(error).__name__)

    async def _message(self, text: str) -> None:
        exchange = Exchange(
            self._talk,
            self._typist,
            self._permission,
            Printer(self._is_plain),
            self._stop,
            functions=self._functions,
            is_seeded=self._is_seeded,
            wait_seconds=self._address.wait,
        )
        interrupted = asyncio.Event()
        try:
            with interrupts_go_to(interrupted.set):
                is_connected = await unless(interrupted, self._connected())
        except (TurnpikeError, nats.errors.Error) as error:
            exchange.tell(error, has_answers=False)
        else:
            if is_connected:
                await exchange.run(await self._connected(), text)
        self._num_failed += exchange.has_failed
        self._is_left |= exchange.is_left
        self._is_pressed |= exchange.was_pressed_late
        if self._is_pressed and not self._typist.is_a_terminal:
            self._stop.set()

    async def _obey(self, order: orders.Order, argument: str) -> None:
        """Raises TurnpikeError."""
        match order.name:
            case "help":
                print_columns(orders.help_rows(has_editor=not is_dumb()))
            case "exit":
                self._is_left = True
            case "new":
                self._talk.begin_anew()
                _note("a new conversation" + ("; the system message stays" if self._talk.system else ""))
            case "system":
                self._tell_system(argument)
            case "model":
                await self._change_model(argument)
            case "save" | "load" if not argument:
                _note(f"which file? {order.usage}")
            case "save":
                path = Path(os.path.expanduser(argument))
                save(self._talk, path)
                _note(f"saved {counted(self._talk.num_questions, 'question')} and what was answered in {path}")
            case "load":
                self._load(Path(os.path.expanduser(argument)))

    def _tell_system(self, text: str) -> None:
        if text:
            self._talk.tell(None if text == "-" else text)
        _note(f"system: {self._talk.system}" if self._talk.system else "no system message: /system TEXT gives one")

    def _load(self, path: Path) -> None:
        """Raises NotSaved."""
        found = load(path)
        self._talk.begin_anew(found.said)
        self._talk.tell(found.system)
        for one in found.said[-2:]:
            if one.content and one.role in ("user", "assistant"):
                self._show(one)
        other = found.model if found.model and found.model != self._talk.model else None
        told = f"{counted(found.num_questions, 'question')} from {path}"
        _note(told + (f"; it was with {other}: /model {other} changes over" if other else ""))

    def _show(self, message: Message) -> None:
        """What was said before."""
        if message.role == "user":
            sys.stderr.write(f"> {shown(message.content)}\n")
        else:
            printer = Printer(self._is_plain)
            printer.write(message.content)
            printer.end_line()

    async def _change_model(self, name: str) -> None:
        """To one that is served, or can be. Raises TurnpikeError."""
        if not name:
            others = [one for one in self._models if one != self._talk.model]
            _note(f"{self._talk.model}; others: {', '.join(others) or 'none'}")
            return
        interrupted = asyncio.Event()
        with self._typist.listening(), interrupts_go_to(interrupted.set):
            if not await unless(interrupted, self._change_to(name)):
                _note(f"stopped: still {self._talk.model}")

    async def _change_to(self, name: str) -> None:
        client = await self._connected()
        if self._routes.policy(name) is not None:
            model = await resolve(client, name, self._routes)
        else:
            model = await self._serve(name)
        await ready(client, model, self._address.wait, _note)
        self._talk.change_to(model)
        _note(f"talking to {model}")


def _note(text: str) -> None:
    Printer(is_plain=True).note(text)
