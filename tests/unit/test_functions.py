"""Python functions as tools: what a model is told, and what its calls become."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from broker.functions import NoTool, arguments_of, result_text, run, tool_of
from broker.messages import ToolCall
from turnpike import tool_of as exported


class Room(enum.Enum):
    KITCHEN = "kitchen"
    ATTIC = "attic"


@dataclass
class Colour:
    red: int
    green: int = 0


class Node(msgspec.Struct):
    name: str
    inner: list[Node] = []


def lamp(room: Room, on: bool, percent: Annotated[int, Meta(ge=0, le=100)] = 100) -> str:
    """Switches the lamp of a room.

    It dims where it can.

    Args:
        room: where it hangs
        on (bool): whether it is to be lit,
            or not
        percent: how bright

    Returns:
        what it did
    """
    return f"{room.name} {on} {percent}"


def call(arguments: str) -> ToolCall:
    return ToolCall("1", "lamp", arguments)


def test_a_function_is_told_by_its_name_docstring_and_hints() -> None:
    tool = tool_of(lamp)
    assert exported is tool_of
    assert (tool.name, tool.description) == ("lamp", "Switches the lamp of a room.\n\nIt dims where it can.")
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "room": {"description": "where it hangs", "title": "Room", "enum": ["attic", "kitchen"]},
            "on": {"description": "whether it is to be lit, or not", "type": "boolean"},
            "percent": {"description": "how bright", "type": "integer", "minimum": 0, "maximum": 100},
        },
        "required": ["room", "on"],
        "additionalProperties": False,
    }


def test_any_hint_that_json_has_makes_a_schema() -> None:
    def f(a, b: list[str] | None, c: Literal["x", "y"], d: Colour, *, e: float = 1.0):  # type: ignore[no-untyped-def]
        """:param a: anything
        :param str c: one of two"""

    parameters = tool_of(f).parameters
    assert parameters is not None
    properties = parameters["properties"]
    assert parameters["required"] == ["a", "b", "c", "d"]
    assert properties["a"] == {"description": "anything"}
    assert properties["b"]["anyOf"] == [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]
    assert properties["c"] == {"description": "one of two", "enum": ["x", "y"]}
    assert properties["d"]["properties"]["red"] == {"type": "integer"}
    assert "$ref" not in str(properties)
    assert "$defs" not in parameters


def test_a_type_that_contains_itself_is_told_by_reference() -> None:
    def f(node: Node) -> None: ...

    parameters = tool_of(f).parameters
    assert parameters is not None
    assert parameters["properties"]["node"]["properties"]["inner"]["items"] == {"$ref": "#/$defs/Node"}
    assert list(parameters["$defs"]) == ["Node"]


def test_a_function_without_parameters_and_docstring_is_a_tool() -> None:
    def f() -> None: ...

    tool = tool_of(f)
    assert (tool.description, tool.parameters and tool.parameters["properties"]) == ("", {})


def test_what_cannot_be_called_by_names_is_refused_by_name() -> None:
    def some(*all: int) -> None: ...
    def placed(one: int, /) -> None: ...
    def named(**all: int) -> None: ...
    def odd(one: Unheard) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def strange(one: type) -> None: ...
    def naïve() -> None: ...

    for function in (some, placed, named, odd, strange, naïve):
        with pytest.raises(NoTool, match=function.__name__):
            tool_of(function)
    with pytest.raises(NoTool, match="has no name"):
        tool_of(functools.partial(lamp, Room.ATTIC))


async def test_a_call_has_the_types_that_the_function_declares() -> None:
    assert await run(lamp, call('{"room": "attic", "on": true}')) == "ATTIC True 100"
    assert await run(lamp, call('{"room": "attic", "on": "false", "percent": "7"}')) == "ATTIC False 7"

    def paint(colour: Colour, names: list[str]) -> object:
        return colour, names

    found = await run(paint, call('{"colour": {"red": 3}, "names": ["ä", "\\"}"]}'))
    assert found == (Colour(3), ["ä", '"}'])


async def test_a_function_may_be_async_or_a_method() -> None:
    class House:
        def __init__(self) -> None:
            self.lit = 0

        async def light(self, number: int) -> int:
            """Lights lamps."""
            self.lit += number
            return self.lit

    house = House()
    assert tool_of(house.light).description == "Lights lamps."
    assert await run(house.light, call('{"number": 2}')) == house.lit == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ('{"room": "attic"}', "'on' is missing"),
        ('{"room": "cellar", "on": true}', "'room' is wrong.*cellar"),
        ('{"room": "attic", "on": true, "percent": 101}', "'percent' is wrong.*100"),
        ('{"room": "attic", "on": true, "colour": 1}', "no argument 'colour', only room, on, percent"),
        ('{"room": "at', "are no JSON:"),
        ("[1]", "no JSON object"),
        ("[" * 100_000, "are no JSON"),
    ],
)
def test_arguments_that_do_not_fit_are_told_in_words(arguments: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        arguments_of(lamp, call(arguments))


def test_results_become_text() -> None:
    assert result_text("21 °C") == "21 °C"
    assert result_text(None) == "done"
    assert result_text({"celsius": 21.5, "room": Room.ATTIC}) == '{"celsius":21.5,"room":"attic"}'
    assert result_text("half \udcff").encode() == b"half ?"
    for odd in (object(), float):
        with pytest.raises(ValueError, match="no JSON"):
            result_text(odd)
