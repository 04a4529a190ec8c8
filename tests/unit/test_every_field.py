"""Whatever a request's own types take is done, named as ignored, or refused by its name, and nothing in silence."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import inspect

from broker.messages import Chunk, Done, Progress, Timings, TokenLogprob, ToolCall, Usage
from broker.messages.ends import Embeddings
from broker.messages.tools import CallDelta
from producers.gateway.bodies import Harmless
from producers.gateway.dialect import Finished, Turned
from producers.gateway.dialects import all_dialects
from producers.gateway.errors import ApiError
from producers.gateway.manners import Manners
from producers.gateway.native.completion import CompletionBody
from producers.gateway.native.infill import InfillBody
from producers.gateway.ollama.embeddings import EmbeddingsRequest, EmbedRequest
from producers.gateway.openai.responses import ResponsesRequest
from producers.gateway.posted import posted

Path = tuple[str, ...]
"""Of a field, from the body on."""

TURNED: dict[type, Turned] = {
    turned.kind: turned  # type: ignore[misc]
    for one in all_dialects()
    for turned in one.turns.values()
}
KINDS = [kind for kind in TURNED if not any(word in kind.__name__ for word in ("Count", "Template"))]
USER = {"role": "user", "content": "hello"}
OTHER = {"role": "user", "content": "other"}
LAMP = {"name": "lamp", "parameters": {"type": "object"}}
BASE: dict[str, Any] = {
    "model": "m",
    "messages": [USER],
    "input": "hello",
    "prompt": "hello",
    "input_prefix": "a",
    "input_suffix": "b",
    "content": "hello",
    "tokens": [5],
}
"""What a body has of it that has such fields."""
AROUND: tuple[dict[str, Any], ...] = (
    {},
    {"stream": True},
    {"stream": False},
    {"logprobs": True},
    {"include": ["message.output_text.logprobs"]},
    {"n_probs": 1},
    {"temperature": 0.5},
    {"raw": True},
    {"suffix": "x"},
    {"tools": [{"type": "function", "function": LAMP}]},
    {"tools": [{"type": "function", **LAMP}]},
    {"tools": [{"name": "lamp", "input_schema": {"type": "object"}}]},
    {"messages": [USER, {"role": "assistant", "content": "hi"}]},
)
"""What else a body has where a field comes into its own."""
TAKEN = {
    "cache_control": "all prompts are cached",
    "service_tier": "there is one tier",
    "strict": "calls and answers follow their schemas anyway",
    "eager_input_streaming": "arguments are streamed anyway",
    "signature": "thoughts are read without one",
    "source.type": "what is no text is refused as a source",
    "source.media_type": "a text is told as it is",
    "data": "thoughts that only their writer reads are named as redacted_thinking",
    "content.type": "a text is one by any of its names",
    "tool_calls.index": "calls come in their order",
    "json_schema.name": "a label",
}
"""Fields, by the ends of their paths, that ask for what is done in any case, and why."""
TAKEN_OF: dict[type, tuple[str, str]] = {
    EmbedRequest: ("options", "vectors are not sampled"),
    EmbeddingsRequest: ("options", "vectors are not sampled"),
    ResponsesRequest: ("stream_options.include_usage", "each end tells the tokens"),
    CompletionBody: ("stream_options.include_usage", "each end tells the tokens"),
    InfillBody: ("stream_options.include_usage", "each end tells the tokens"),
}
"""And of one request, by the beginnings of their paths."""


# --- Every field, and values that it may have ------------------------------------------------------------------------


def structs_in(kind: inspect.Type) -> Iterator[tuple[inspect.StructType, Any]]:
    """The structs that a value of this type is made of, each with what makes the value of one of it."""
    match kind:
        case inspect.StructType():
            yield kind, lambda value: value
        case inspect.UnionType():
            for one in kind.types:
                yield from structs_in(one)
        case inspect.ListType() | inspect.VarTupleType():
            for struct, wrapped in structs_in(kind.item_type):
                yield struct, lambda value, wrapped=wrapped: [wrapped(value)]
        case inspect.DictType():
            for struct, wrapped in structs_in(kind.value_type):
                yield struct, lambda value, wrapped=wrapped: {"a": wrapped(value)}


def samples(kind: inspect.Type) -> list[Any]:
    """Values that it takes, and that ask for something."""
    match kind:
        case inspect.StructType():
            return leasts(kind)
        case inspect.UnionType():
            return [value for one in kind.types for value in samples(one)]
        case inspect.LiteralType():
            return list(kind.values)
        case inspect.NoneType():
            return []
        case inspect.BoolType():
            return [True, False]
        case inspect.IntType():
            return [
                one for one in (0, 1, 2, 7, 300) if (kind.ge or 0) <= one <= (kind.le if kind.le is not None else one)
            ]
        case inspect.FloatType():
            return [one for one in (0.25, 1.5) if one <= (kind.le if kind.le is not None else one)]
        case inspect.StrType():
            return ["abc", "content", "10m", "low", ""][: 4 if kind.min_length or kind.pattern else 5]
        case inspect.ListType() | inspect.VarTupleType():
            return [[value] for value in samples(kind.item_type)]
        case inspect.TupleType():
            return [list(one) for one in itertools.product(*(samples(one)[:2] for one in kind.item_types))]
        case inspect.DictType():
            keys = ["5"] if isinstance(kind.value_type, inspect.FloatType | inspect.UnionType) else ["type"]
            return [{key: value} for key in keys for value in samples(kind.value_type)]
        case inspect.AnyType():
            return ["object", {"type": "object"}, 5]
    return []


EXAMPLES: dict[str, tuple[dict[str, Any], ...]] = {
    "ChatMessage": (OTHER, {"role": "assistant"}, {"role": "tool", "content": "x"}),
    "InputMessage": (OTHER, {"role": "assistant", "content": "x"}),
    "FunctionTool": ({"type": "function", "function": LAMP},),
    "OfferedTool": ({"type": "function", "function": LAMP},),
    "ClientTool": ({"name": "lamp", "input_schema": {"type": "object"}},),
    "ResponseFormat": ({"type": "json_schema"}, {"type": "json_object"}),
    "TextFormat": ({"type": "json_schema", "schema": {"type": "object"}},),
    "JsonSchema": ({"schema": {"type": "object"}},),
    "ThinkingConfig": ({"type": "enabled"},),
    "Choice": ({"type": "tool"}, {"type": "auto"}),
    "Document": ({"source": {"type": "text", "media_type": "text/plain", "data": "x"}},),
    "Source": ({"type": "content"}, {"type": "text"}),
}
"""Of structs that mean nothing by what they must have alone, by their names."""


def leasts(kind: inspect.StructType) -> list[dict[str, Any]]:
    """Values with what must be there, and nothing more."""
    found: dict[str, Any] = {str(kind.tag_field): kind.tag} if kind.tag_field else {}
    for field in kind.fields:
        if field.required:
            found[field.encode_name] = samples(field.type)[0]
    return [found | one for one in EXAMPLES.get(kind.cls.__name__, ({},))]


def fields_of(kind: inspect.StructType, seen: Path = ()) -> Iterator[tuple[Path, list[Any], Any]]:
    """Of each that has more than one value: its path, values of it, and what makes a body's values of one of it, or of
    none."""
    for field, base in itertools.product(kind.fields, leasts(kind)):
        name = field.encode_name

        def placed(value: Any, *, name: str = name, base: dict[str, Any] = base) -> dict[str, Any]:
            return {one: base[one] for one in base if one != name} | ({} if value is ABSENT else {name: value})

        if len(values := samples(field.type)) > 1 or not [*structs_in(field.type)]:
            yield (*seen, name), values, placed
        for struct, wrapped in structs_in(field.type):
            for path, inner_values, inner in fields_of(struct, (*seen, name)):

                def deeper(value: Any, *, inner: Any = inner, wrapped: Any = wrapped, placed: Any = placed) -> Any:
                    return placed(wrapped(inner(value)))

                yield path, inner_values, deeper


class _Absent:
    pass


ABSENT = _Absent()

# --- What comes of a body --------------------------------------------------------------------------------------------

LOGPROBS = (TokenLogprob(65, -0.5, ((65, -0.5), (66, -1.5)), b"A", (b"A", b"B")),)
DONE = Done(
    "stop",
    "Hello.",
    (65, 66),
    Usage(5, 2, 1),
    Timings(0.1, 0.2, 0.3),
    "w1",
    tool_calls=(ToolCall("1", "lamp", '{"on":true}'),),
    reasoning="Hm.",
    embeddings=Embeddings(2, np.array([[0.6, 0.8]], "<f4").tobytes()),
    pieces=(b"A", b"B"),
)
CHUNKS = (
    Chunk(1, 0, "", (), progress=(Progress(5, 2, 5, 0.1),)),
    Chunk(2, 0, "Hello.", (65,), LOGPROBS, reasoning="Hm."),
    Chunk(3, 0, "", (66,), calls=(CallDelta(0, "1", "lamp", '{"on":true}'),)),
)


def outcome(kind: type, body: Any, harmless: dict[str, Harmless]) -> tuple[Any, list[str], str | None]:
    """What is asked for and told, which fields are named, and which one is refused."""
    try:
        request, ignored = posted(msgspec.json.encode(body), kind, harmless)
        if hasattr(request, "going_on_from"):
            request = request.going_on_from(())
        asked, _ = Manners().kept(request.asked())
        writer = request.writer("t", "m")
        finished = [Finished(DONE, LOGPROBS)] * len(asked)
        told: Any = [writer.whole(finished)]
        if request.is_streamed:
            told += [writer.begin(0), *(writer.piece(0, one) for one in CHUNKS), writer.end(0, DONE)]
            told += [writer.finish([DONE] * len(asked))]
        return repr((request.model, request.is_streamed, request.conversation, asked, told)), ignored, None
    except ApiError as error:
        return None, [], error.param or ""


def plain(path: str) -> str:
    return path.replace("[0]", "").replace(".a.", ".")


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither clocks nor chance make a difference."""
    monkeypatch.setattr(time, "time", lambda: 1.0)
    monkeypatch.setattr(time, "perf_counter", lambda: 1.0)
    monkeypatch.setattr(secrets, "randbits", lambda _: 7)


def silent(kind: type) -> set[str]:
    """The fields of a request that make no difference, and are neither named nor refused."""
    harmless = dict(TURNED[kind].harmless)
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    names = {field.encode_name for field in info.fields}
    # One of several names for the same thing, of which a body has one.
    others = {"prompt"} & names if "input" in names else set()
    others |= {"input"} & names if "content" in names else set()
    base = {name: value for name, value in BASE.items() if name in names - others}
    around = [base | one for one in AROUND if set(one) <= names]
    known: dict[str, tuple[Any, list[str], str | None]] = {}

    def comes_of(body: Any) -> tuple[Any, list[str], str | None]:
        key = repr(body)
        if key not in known:
            known[key] = outcome(kind, body, harmless)
        return known[key]

    heard: dict[str, bool] = {}
    for path, values, placed in fields_of(info):
        name = ".".join(path)
        if len(values) > 1 and not heard.get(name):
            heard[name] = any(_matters(name, comes_of, one, values, placed) for one in around)
    return {name for name, is_heard in heard.items() if not is_heard}


def _matters(name: str, comes_of: Any, around: dict[str, Any], values: list[Any], placed: Any) -> bool:
    top = name.partition(".")[0]
    body = {one: around[one] for one in around if one != top}
    results = set()
    for value, behind in itertools.product((ABSENT, *values), ([], [USER]) if top == "messages" else ([],)):
        whole = {one: of for one, of in placed(value).items() if one == top}
        if behind and whole:
            whole[top] = [*whole[top], *behind]
        result, ignored, refused = comes_of(body | whole)
        if value is not ABSENT:
            is_refused = refused is not None and (plain(refused) + ".").startswith(name + ".")
            if is_refused or any((plain(one) + ".").startswith(name + ".") for one in ignored):
                return True
        if result is not None:
            results.add((bool(behind), result))
    return len(results) - len({is_behind for is_behind, _ in results}) > 0


def taken(kind: type, name: str) -> bool:
    """Whether it is said above why it asks for nothing more."""
    beginning = TAKEN_OF[kind][0] if kind in TAKEN_OF else None
    return any(f".{name}".endswith(f".{end}") for end in TAKEN) or (
        beginning is not None and name.startswith(beginning)
    )


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__.split('.')[-2]}-{kind.__name__}")
def test_no_field_is_taken_in_silence(kind: type) -> None:
    assert {name for name in silent(kind) if not taken(kind, name)} == set()


@pytest.mark.usefixtures("still")
def test_what_is_said_to_ask_for_nothing_more_is_a_field_that_makes_no_difference() -> None:
    """The lists above only shrink."""
    found = [(kind, name) for kind in KINDS for name in silent(kind)]
    unheard = {*TAKEN} - {end for _, name in found for end in TAKEN if f".{name}".endswith(f".{end}")}
    assert unheard == set()
    for kind, (beginning, _) in TAKEN_OF.items():
        assert any(one is kind and name.startswith(beginning) for one, name in found), kind


def test_counts_take_the_fields_of_the_turn_itself() -> None:
    """What of them makes a difference to a prompt is the turn's to know."""
    for kind in set(TURNED) - set(KINDS):
        own = {field.encode_name for field in inspect.type_info(kind).fields}  # type: ignore[attr-defined]
        assert any(own <= {field.encode_name for field in inspect.type_info(one).fields} for one in KINDS), kind  # type: ignore[attr-defined]
