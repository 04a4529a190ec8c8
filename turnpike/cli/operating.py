"""`turnpike top` and `turnpike dead`: what an operator looks at."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

from broker.declaring import Argument
from broker.settings import CommonSettings
from turnpike.cli.addresses import address
from turnpike.cli.command import Command, command

if TYPE_CHECKING:
    import asyncio


class TopOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike top`."""

    once: Annotated[bool, Argument("one picture, not refreshed in place")] = False
    json: Annotated[bool, Argument("one picture for programs")] = False


class ListOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike dead list`."""

    model: Annotated[str | None, Argument("only this model's")] = None
    json: Annotated[bool, Argument("for programs")] = False


class ShowOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike dead show`."""

    number: Annotated[int, Argument("which, as `turnpike dead list` numbers them", is_positional=True)]


class ReplayOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike dead replay`."""

    numbers: Annotated[
        tuple[int, ...],
        Argument("which, as `turnpike dead list` numbers them", metavar="NUMBER", is_positional=True),
    ]


class PurgeOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike dead purge`."""

    numbers: Annotated[tuple[int, ...], Argument("which (default: all)", metavar="NUMBER", is_positional=True)] = ()


def run_top(options: TopOptions) -> int:
    """Who serves what, and what waits."""
    from broker import process
    from producers.commands.top import top

    there = address(options, "local")
    return process.run(
        lambda stop: top(there, stop, once=options.once, as_json=options.json), patience=process.PATIENCE_SECONDS
    )


def run_list(options: ListOptions) -> int:
    """The turns that were given up on."""
    from broker.accounts import OPERATOR
    from producers.commands.dead import list_letters

    return _done(list_letters(address(options, OPERATOR), options.model, as_json=options.json))


def run_show(options: ShowOptions) -> int:
    """All of one."""
    from broker.accounts import OPERATOR
    from producers.commands.dead import show_letter

    return _done(show_letter(address(options, OPERATOR), options.number))


def run_replay(options: ReplayOptions) -> int:
    """Some, once more."""
    from broker.accounts import OPERATOR
    from producers.commands.dead import replay_letters

    return _done(replay_letters(address(options, OPERATOR), list(options.numbers)))


def run_purge(options: PurgeOptions) -> int:
    """Some, or all, forgotten."""
    from broker.accounts import OPERATOR
    from producers.commands.dead import purge_letters

    return _done(purge_letters(address(options, OPERATOR), list(options.numbers)))


def _done(work: Coroutine[Any, Any, int]) -> int:
    from broker import process

    async def run(stop: asyncio.Event) -> int:
        return await work

    return process.run(run, patience=process.PATIENCE_SECONDS)


TOP = command("top", "who serves what, and what waits", "turnpike top --once --json", TopOptions, run_top)
DEAD = Command(
    "dead",
    "turns that were given up on",
    "turnpike dead list --model tiny",
    commands=(
        command("list", "which there are, and why", "turnpike dead list --model tiny", ListOptions, run_list),
        command("show", "all of one, as JSON", "turnpike dead show 3", ShowOptions, run_show),
        command("replay", "queue them again, as new turns", "turnpike dead replay 3 4", ReplayOptions, run_replay),
        command("purge", "forget them; without numbers all", "turnpike dead purge 3", PurgeOptions, run_purge),
    ),
)
