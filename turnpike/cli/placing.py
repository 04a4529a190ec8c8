"""`turnpike models load|unload|pin`: orders to the boards."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Literal

from broker.declaring import Argument
from broker.settings import CommonSettings
from turnpike.cli.addresses import address
from turnpike.cli.command import command

if TYPE_CHECKING:
    import asyncio


class OrderOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike models load` and `unload`."""

    name: Annotated[str, Argument("the model", is_positional=True)]
    board: Annotated[str | None, Argument("on this board")] = None


class PinOptions(OrderOptions, frozen=True, kw_only=True):
    """`turnpike models pin`."""

    pin: Annotated[
        Literal["always", "never", "none"],
        Argument("always loaded, never loaded, or as the queue wants it", is_positional=True),
    ] = "always"


def run_load(options: OrderOptions) -> int:
    """On a board, or where it is quickest."""
    from broker.accounts import OPERATOR
    from producers.models.orders import load

    return _done(load(address(options, OPERATOR), options.name, options.board))


def run_unload(options: OrderOptions) -> int:
    """From a board, or from all."""
    from broker.accounts import OPERATOR
    from producers.models.orders import unload

    return _done(unload(address(options, OPERATOR), options.name, options.board))


def run_pin(options: PinOptions) -> int:
    """To a board, or to all that have it."""
    from broker.accounts import OPERATOR
    from producers.models.orders import pin

    how = None if options.pin == "none" else options.pin
    return _done(pin(address(options, OPERATOR), options.name, how, options.board))


def _done(work: Coroutine[Any, Any, int]) -> int:
    from broker import process

    async def run(stop: asyncio.Event) -> int:
        return await work

    return process.run(run, patience=process.PATIENCE_SECONDS)


ORDERS = (
    command(
        "load",
        "have a board load a model now; without --board the one that is quickest",
        "turnpike models load llama-3-2-1b --board pi-1",
        OrderOptions,
        run_load,
    ),
    command(
        "unload",
        "have a model drained and unloaded; without --board wherever it is",
        "turnpike models unload llama-3-2-1b",
        OrderOptions,
        run_unload,
    ),
    command(
        "pin",
        "keep a model loaded, or keep it from being loaded; without --board on all that have it",
        "turnpike models pin llama-3-2-1b never --board pi-1",
        PinOptions,
        run_pin,
    ),
)
