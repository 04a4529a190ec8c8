"""Requests beside tools: does the model call the right one, with the right arguments, and none where none is wanted?

A file is JSON lines: `{"system": …, "tools": [{name, description, parameters}, …]}` holds for the requests below it,
`{"request": "Light the hall", "calls": [{"name": "lamp", "arguments": {"room": ["hall"], "percent": [100, null]}}]}` is
one. Of each argument all values that are right are listed; null, where it may be left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from broker.answer import Answer
from broker.client import Client
from broker.errors import InvalidMessage
from broker.messages import Message, Sampling, Tool, ToolCall
from broker.messages.tools import check_tools
from broker.priorities import BATCH
from producers.data.rows import clean, read_rows, summary
from producers.evaluate.items import EvalError
from producers.evaluate.methods import Accuracy

SHIPPED = Path(__file__).parent / "tool_requests.jsonl"
"""Forty requests over six tools, of our own making: lamps, sensors, radio sites, their handbook. Twelve want none."""
SAMPLING = Sampling(max_tokens=512)


class Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    """A call that is right: of each argument, the values that are."""

    name: str
    arguments: dict[str, list[Any]] = {}

    def is_met_by(self, call: ToolCall) -> bool:
        """Whether the call is this one, by name and arguments: none is missing, wrong, or one too many."""
        given = call.parsed
        if call.name != self.name or given is None or given.keys() - self.arguments.keys():
            return False
        return all(any(_is_same(given.get(name), one) for one in right) for name, right in self.arguments.items())


class ToolItem(Struct, frozen=True):
    """A request, what is offered beside it, and the calls that are right: none, where silence is."""

    number: int
    request: str
    tools: tuple[Tool, ...]
    calls: tuple[Wanted, ...]
    system: str = ""


class Called(Struct, frozen=True):
    """An item's outcome."""

    number: int
    wants_calls: bool
    is_right_call: bool
    """The tools that were called are those that are right, each as often; where none is wanted, none was."""
    are_right_arguments: bool
    """And so are their arguments."""
    calls: tuple[ToolCall, ...]
    text: str = ""
    """What was said beside them."""


class _Offer(Struct, frozen=True, forbid_unknown_fields=True):
    tools: tuple[Tool, ...]
    system: str = ""


class _Request(Struct, frozen=True, forbid_unknown_fields=True):
    request: str
    calls: tuple[Wanted, ...] = ()


def read_tool_items(path: Path, left_out: list[EvalError] | None = None) -> list[ToolItem]:
    """The requests of a file. A row that is none is added to `left_out`; raises EvalError where all are such."""
    left_out = [] if left_out is None else left_out
    offer: _Offer | None = None
    found = []
    for number, row in read_rows(path, left_out, EvalError):
        try:
            if isinstance(row, dict) and "tools" in row:
                offer = None  # requests below a bad row have no tools, and not those of another
                new = msgspec.convert(row, _Offer)
                check_tools(new.tools, "required")
                offer = new
                continue
            one = msgspec.convert(row, _Request)
            if offer is None:
                raise ValueError("no row with tools stands above it")
            if unknown := {call.name for call in one.calls} - {tool.name for tool in offer.tools}:
                raise ValueError(f"no tool is called {min(unknown)!r}")
        except (ValueError, InvalidMessage) as error:
            left_out.append(EvalError(path, number, f"is no request: {error}"))
        else:
            found.append(ToolItem(number, clean(one.request), offer.tools, one.calls, clean(offer.system)))
    if not found:
        raise EvalError(path, None, f"no requests: {summary(left_out)}" if left_out else "holds no requests")
    return found


def messages(item: ToolItem) -> list[Message]:
    """What is asked."""
    system = [Message("system", item.system)] if item.system else []
    return [*system, Message("user", item.request)]


def ask(client: Client, model: str, item: ToolItem) -> Answer:
    """The item's turn: greedy, a batch turn."""
    return client.ask(model, messages(item), tools=item.tools, sampling=SAMPLING, priority=BATCH)


def judge(item: ToolItem, calls: tuple[ToolCall, ...], text: str = "") -> Called:
    """What an answer's calls are worth. In which order they come says nothing."""
    is_right_call = sorted(call.name for call in calls) == sorted(one.name for one in item.calls)
    left = list(calls)
    for wanted in item.calls:
        met = next((call for call in left if wanted.is_met_by(call)), None)
        if met is not None:
            left.remove(met)
    are_right = is_right_call and not left
    return Called(item.number, bool(item.calls), is_right_call, are_right, calls, text)


def figures(answers: Sequence[Called]) -> list[Accuracy]:
    """Of the requests that want calls, the shares with the right call and with the right arguments too; of the others,
    that with none."""
    wanting = [one for one in answers if one.wants_calls]
    silent = [one for one in answers if not one.wants_calls]
    return [
        *_share("right call", [one.is_right_call for one in wanting]),
        *_share("right arguments", [one.are_right_arguments for one in wanting]),
        *_share("right silence", [one.is_right_call for one in silent]),
    ]


def _share(name: str, right: Sequence[bool]) -> list[Accuracy]:
    if not right:
        return []
    count = len(right)
    share = sum(right) / count
    return [Accuracy(name, count, share, math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else None)]


def _is_same(given: object, right: object) -> bool:
    """Texts in any case and with blanks around; true is not 1, and 1.0 is."""
    if isinstance(given, str) and isinstance(right, str):
        return given.strip().casefold() == right.strip().casefold()
    return isinstance(given, bool) == isinstance(right, bool) and given == right
