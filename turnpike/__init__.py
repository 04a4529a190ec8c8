"""A message queue for conversations with small language models: what a program needs of it.

::

    from turnpike import Client, read_credentials

    async with Client(read_credentials(path)) as client:
        done = await client.ask("demo", "How do I drain a node?")

Nothing is imported before it is asked for: `turnpike --help` wants none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.accounts import read_credentials as read_credentials
    from broker.answer import Answer as Answer
    from broker.answer import TurnFailed as TurnFailed
    from broker.client import Client as Client
    from broker.connection import Address as Address
    from broker.discovery import WorkerInfo as WorkerInfo
    from broker.embedding import Vectors as Vectors
    from broker.errors import ConnectionLost as ConnectionLost
    from broker.errors import DuplicateTurn as DuplicateTurn
    from broker.errors import InvalidMessage as InvalidMessage
    from broker.errors import NotServed as NotServed
    from broker.errors import PublishError as PublishError
    from broker.errors import QueueFull as QueueFull
    from broker.errors import ServerError as ServerError
    from broker.errors import ServerUnavailable as ServerUnavailable
    from broker.errors import TurnpikeError as TurnpikeError
    from broker.errors import UnservedModel as UnservedModel
    from broker.functions import NoTool as NoTool
    from broker.functions import tool_of as tool_of
    from broker.messages import Chunk as Chunk
    from broker.messages import Done as Done
    from broker.messages import Failed as Failed
    from broker.messages import Message as Message
    from broker.messages import NamedTool as NamedTool
    from broker.messages import Sampling as Sampling
    from broker.messages import Tool as Tool
    from broker.messages import ToolCall as ToolCall
    from broker.messages import Turn as Turn
    from broker.messages import Usage as Usage
    from broker.place_in_line import PlaceInLine as PlaceInLine
    from broker.rounds import Rounds as Rounds
    from broker.rounds import TooManyRounds as TooManyRounds

    __version__: str

DISTRIBUTION = "turnpike-mq"
"""As package indexes call it: `turnpike` is another project there."""

_MODULES = {
    "broker.accounts": ("read_credentials",),
    "broker.answer": ("Answer", "TurnFailed"),
    "broker.client": ("Client",),
    "broker.connection": ("Address",),
    "broker.discovery": ("WorkerInfo",),
    "broker.embedding": ("Vectors",),
    "broker.errors": (
        "ConnectionLost",
        "DuplicateTurn",
        "InvalidMessage",
        "NotServed",
        "PublishError",
        "QueueFull",
        "ServerError",
        "ServerUnavailable",
        "TurnpikeError",
        "UnservedModel",
    ),
    "broker.functions": ("NoTool", "tool_of"),
    "broker.place_in_line": ("PlaceInLine",),
    "broker.rounds": ("Rounds", "TooManyRounds"),
    "broker.messages": (
        *("Chunk", "Done", "Failed", "Message", "NamedTool", "Sampling", "Tool", "ToolCall", "Turn", "Usage"),
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*_HOME, "DISTRIBUTION", "__version__"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """What is asked for by name, from the package that it is in (PEP 562)."""
        if name == "__version__":
            from importlib.metadata import version

            found: object = version(DISTRIBUTION)
        elif name in _HOME:
            found = getattr(importlib.import_module(_HOME[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
