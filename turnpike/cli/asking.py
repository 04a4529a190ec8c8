"""`turnpike ask`, `chat`, `read` and `cancel`: turns, from a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from broker.declaring import Argument
from broker.errors import SettingsError
from broker.settings import CommonSettings
from producers.settings import AskSettings
from turnpike.cli.addresses import address, broker_or_own
from turnpike.cli.command import command

if TYPE_CHECKING:
    import asyncio

Model = Annotated[
    str,
    Argument("the model; auto, the one with the shortest expected wait; or a policy of --routes", is_positional=True),
]


class AskOptions(AskSettings, frozen=True, kw_only=True):
    """`turnpike ask`."""

    model: Model
    text: Annotated[str, Argument("the message; - reads it from standard input", is_positional=True)]
    json: Annotated[bool, Argument("the end as JSON, without streaming")] = False
    raw: Annotated[bool, Argument("the text is the prompt itself, without the model's chat template")] = False


class ChatOptions(AskSettings, frozen=True, kw_only=True):
    """`turnpike chat`."""

    model: Model
    system: Annotated[str | None, Argument("a system message")] = None
    tools: Annotated[
        str | None,
        Argument("a Python file: each function in it is a tool that the model may call", metavar="FILE", path="file"),
    ] = None
    yes: Annotated[bool, Argument("run what the model calls without a question")] = False


class ReadOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike read`."""

    turn: Annotated[
        str, Argument("its id, as `turnpike dead replay` and the gateway tell it", metavar="ID", is_positional=True)
    ]
    json: Annotated[bool, Argument("its end as JSON")] = False


class CancelOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike cancel`."""

    turn: Annotated[str | None, Argument("the turn of this id", metavar="ID")] = None
    conversation: Annotated[str | None, Argument("all turns of this conversation", metavar="NAME")] = None
    all: Annotated[bool, Argument("all of this account's turns")] = False

    def check(self) -> None:
        """Raises SettingsError unless it is said which turns, and only once."""
        if sum((self.turn is not None, self.conversation is not None, self.all)) != 1:
            raise SettingsError(["--turn, --conversation and --all: which turns? one of the three is wanted"])


def run_ask(options: AskOptions) -> int:
    """One turn, streamed to the terminal."""
    from broker import process
    from producers.commands.ask import ask
    from producers.routing.policies import read_routes

    text = options.text if options.text != "-" else sys.stdin.read()

    async def ask_there(stop: asyncio.Event) -> int:
        async with broker_or_own(options, options.model) as there:
            return await ask(
                there,
                options.model,
                text,
                options.sampling(),
                stop,
                routes=read_routes(options.routes),
                as_json=options.json,
                is_seeded=options.seed is not None,
                raw=options.raw,
            )

    return process.run(ask_there, patience=process.PATIENCE_SECONDS)


def run_chat(options: ChatOptions) -> int:
    """A conversation, until its end of input."""
    from broker import process
    from producers.commands.chat import chat
    from producers.routing.policies import read_routes
    from producers.terminal.tool_file import functions_of

    functions = functions_of(Path(options.tools).expanduser()) if options.tools is not None else []

    async def chat_there(stop: asyncio.Event) -> int:
        async with broker_or_own(options, options.model) as there:
            return await chat(
                there,
                options.model,
                options.sampling(),
                stop,
                system=options.system,
                functions=functions,
                is_allowed=options.yes,
                routes=read_routes(options.routes),
                is_seeded=options.seed is not None,
            )

    return process.run(chat_there, patience=process.PATIENCE_SECONDS)


def run_read(options: ReadOptions) -> int:
    """The answer of a turn that was asked elsewhere."""
    from broker import process
    from producers.commands.read import read_answer

    where = address(options, "local")
    return process.run(
        lambda stop: read_answer(where, options.turn, stop, as_json=options.json), patience=process.PATIENCE_SECONDS
    )


def run_cancel(options: CancelOptions) -> int:
    """Stops turns."""
    from broker import process
    from producers.commands.cancel import cancel

    where = address(options, "local")
    return process.run(
        lambda stop: cancel(where, turn=options.turn, conversation=options.conversation),
        patience=process.PATIENCE_SECONDS,
    )


ASK = command("ask", "one turn, streamed to the terminal", 'turnpike ask tiny "How are you?"', AskOptions, run_ask)
CHAT = command(
    "chat", "a conversation; ^C stops an answer, ^D the program", "turnpike chat tiny", ChatOptions, run_chat
)
READ = command(
    "read", "the answer of a turn, by its id", "turnpike read 3f2a… --wait-seconds 60", ReadOptions, run_read
)
CANCEL = command(
    "cancel", "stop turns, queued or running", "turnpike cancel --conversation c1", CancelOptions, run_cancel
)
