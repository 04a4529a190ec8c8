"""`turnpike ask`, `chat`, `read` and `cancel`: turns, from a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from broker.declaring import Argument
from broker.errors import SettingsError
from broker.priorities import DEFAULT_PRIORITY, Priority
from broker.settings import CommonSettings, Count, ModelSettings
from producers.settings import AskSettings
from turnpike.cli.addresses import address, data_dir
from turnpike.cli.command import command

if TYPE_CHECKING:
    import asyncio

    from broker.connection import Address
    from producers.routing.policies import Routes

Model = Annotated[
    str,
    Argument(
        "the model: its name, or a GGUF file; auto, the one with the shortest expected wait; or a policy of --routes",
        is_positional=True,
    ),
]
System = Annotated[str | None, Argument("a system message")]
NumCtx = Annotated[
    Count | None, Argument("KV cells of a worker that is started for the while (default: as a worker's)")
]


class AskOptions(AskSettings, frozen=True, kw_only=True):
    """`turnpike ask`."""

    model: Model
    text: Annotated[
        str | None,
        Argument("the message (-, or without it and --file: standard input)", is_positional=True),
    ] = None
    system: System = None
    file: Annotated[
        tuple[str, ...],
        Argument(
            "a text file to stand behind the message, - for standard input; can be given several times", path="file"
        ),
    ] = ()
    schema: Annotated[
        str | None,
        Argument(
            "a JSON schema that the answer must match, or a file of one",
            metavar="FILE|JSON",
            path="file",
            flag="--json-schema",
        ),
    ] = None
    priority: Annotated[Priority, Argument("before or behind others' turns")] = DEFAULT_PRIORITY
    deadline: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Argument("fail where the answer has not ended by then, from now", metavar="SECONDS"),
    ] = None
    json: Annotated[bool, Argument("the end as JSON, without streaming")] = False
    raw: Annotated[bool, Argument("the text is the prompt itself, without the model's chat template")] = False
    num_ctx: NumCtx = None

    def check(self) -> None:
        """Raises SettingsError with every problem."""
        super().check()
        if self.raw and self.system:
            raise SettingsError(["--raw: the text is the prompt itself, and has no --system"])


class ChatOptions(AskSettings, frozen=True, kw_only=True):
    """`turnpike chat`."""

    model: Model
    system: System = None
    tools: Annotated[
        str | None,
        Argument("a Python file: each function in it is a tool that the model may call", metavar="FILE", path="file"),
    ] = None
    yes: Annotated[bool, Argument("run what the model calls without a question")] = False
    num_ctx: NumCtx = None


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
    import msgspec

    from broker import process
    from producers.commands.ask import ask
    from producers.routing.policies import read_routes
    from producers.terminal.question import question, schema_of

    sampling, routes = options.sampling(), read_routes(options.routes)
    if options.schema is not None:
        sampling = msgspec.structs.replace(sampling, json_schema=schema_of(options.schema))
    text = question(options.text, options.file)

    async def ask_there(stop: asyncio.Event) -> int:
        async with _served(options, options.model, options.num_ctx, routes, stop) as found:
            if found is None:
                return process.EXIT_INTERRUPTED
            there, model, _ = found
            return await ask(
                there,
                model,
                text,
                sampling,
                stop,
                system=options.system,
                priority=options.priority,
                deadline_seconds=options.deadline,
                routes=routes,
                as_json=options.json,
                is_seeded=options.seed is not None,
                is_plain=options.plain,
                raw=options.raw,
            )

    return process.run(ask_there, patience=process.PATIENCE_SECONDS)


def run_chat(options: ChatOptions) -> int:
    """A conversation, until its end of input."""
    from broker import process
    from producers.commands.chat import chat
    from producers.routing.policies import read_routes
    from producers.terminal.tool_file import functions_of

    functions = functions_of(Path(os.path.expanduser(options.tools))) if options.tools is not None else []
    routes = read_routes(options.routes)

    async def chat_there(stop: asyncio.Event) -> int:
        async with _served(options, options.model, options.num_ctx, routes, stop) as found:
            if found is None:
                return process.EXIT_INTERRUPTED
            there, model, serve = found
            return await chat(
                there,
                model,
                options.sampling(),
                stop,
                system=options.system,
                functions=functions,
                is_allowed=options.yes,
                is_plain=options.plain,
                routes=routes,
                is_seeded=options.seed is not None,
                history=data_dir(options) / "chat-history",
                serve=serve,
            )

    return process.run(chat_there, patience=process.PATIENCE_SECONDS)


@asynccontextmanager
async def _served(
    options: ModelSettings, name: str, num_ctx: int | None, routes: Routes, stop: asyncio.Event
) -> AsyncIterator[tuple[Address, str, Callable[[str], Awaitable[str]]] | None]:
    """Where the model is served, what it is called there, and who has others served; None where `stop` came before."""
    from broker.waiting import unless
    from producers.terminal.printing import folded
    from turnpike.cli.local_models import for_the_while

    async with for_the_while(options, num_ctx, lambda text: print(folded(text), file=sys.stderr)) as own:
        model = name

        async def serve() -> None:
            nonlocal model
            model = await own.serve(name)

        if routes.policy(name) is not None or await unless(stop, serve()):
            yield own.address, model, own.serve
        else:
            yield None


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
    "chat", "a conversation; ^C stops an answer, ^D the program", "turnpike chat tiny.gguf", ChatOptions, run_chat
)
READ = command(
    "read", "the answer of a turn, by its id", "turnpike read 3f2a… --wait-seconds 60", ReadOptions, run_read
)
CANCEL = command(
    "cancel", "stop turns, queued or running", "turnpike cancel --conversation c1", CancelOptions, run_cancel
)
