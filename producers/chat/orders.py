"""The commands of `turnpike chat`: lines that begin with `/`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from msgspec import Struct

from broker.errors import TurnpikeError
from broker.settings import suggestion

_WORD = re.compile(r"/([A-Za-z]*|\?)(?:\s+(.*))?", re.DOTALL)


class Order(Struct, frozen=True):
    """A command."""

    name: str
    argument: str
    """What stands behind it: FILE, NAME, TEXT, or nothing. In brackets where it may be left out."""
    help: str

    @property
    def usage(self) -> str:
        """`/save FILE`."""
        return f"/{self.name} {self.argument}".rstrip()


ORDERS = (
    Order("help", "", "this list"),
    Order("new", "", "begins anew; the system message stays"),
    Order("system", "[TEXT]", "what the model is told before all else; alone shows it, - takes it away"),
    Order("save", "FILE", "the conversation as JSON, as OpenAI's API takes it"),
    Order("load", "FILE", "goes on with one that was saved"),
    Order("model", "[NAME]", "goes on with another model; alone lists them"),
    Order("exit", "", "ends, as ^D does"),
)
KEYS = (
    ("Enter", "sends"),
    ("Alt-Enter", "a new line, as \\ at a line's end makes one; what is pasted is one message"),
    ("Up, ^R", "what was typed before"),
    ("Tab", "completes a command, a file, a model"),
    ("^C", "stops an answer; at the prompt clears the line, twice ends"),
    ("^D", "ends"),
)
PLAIN_KEYS = (("Enter", "sends; behind \\ it begins a new line"), *KEYS[-2:])
"""Where a terminal can do no more than write lines."""
_ALSO = {"": "help", "quit": "exit", "bye": "exit", "?": "help", "clear": "new"}


class UnknownOrder(TurnpikeError):
    """A line that begins like a command, and is none."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"there is no /{name}{suggestion(name, [one.name for one in ORDERS])}: /help lists what there is; with a "
            "space before the / it is a message"
        )


def parsed(text: str) -> tuple[Order, str] | None:
    """The command of a line and what stands behind it; None for a message. Raises UnknownOrder.

    Paths are messages, and of several lines only /system's are a command.
    """
    found = _WORD.fullmatch(text)
    if found is None or ("\n" in text.rstrip() and found[1] != "system"):
        return None
    name = _ALSO.get(found[1], found[1])
    order = next((one for one in ORDERS if one.name == name), None)
    if order is None:
        raise UnknownOrder(found[1])
    return order, (found[2] or "").strip()


def help_rows(*, has_editor: bool) -> list[tuple[str, str]]:
    """All commands and keys, with what they do; without an editor those that any line has."""
    keys = KEYS if has_editor else PLAIN_KEYS
    return [*((one.usage, one.help) for one in ORDERS), ("", ""), *keys]


def words(models: Callable[[], Sequence[str]]) -> Callable[[str], Sequence[str]]:
    """What completes a line, by what stands before the word that is being typed; ["FILE"] for a path."""

    def known(before: str) -> Sequence[str]:
        if not before:
            return [f"/{one.name}" for one in ORDERS]
        wanted = next((one.argument for one in ORDERS if before == f"/{one.name} "), "")
        return ["FILE"] if wanted == "FILE" else models() if wanted == "[NAME]" else []

    return known
