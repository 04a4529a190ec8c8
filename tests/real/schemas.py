"""Answers of a real model by JSON schemas of many kinds, judged by the jsonschema library.

`python -m tests.real.schemas [MODEL]` asks for all 200: each schema eight times, half greedy, half at temperature 1. A
test asks for some. Nothing ends an answer in good order before `max_tokens`, so that is chosen to be enough: what is
cut by it is counted by itself, and is right as far as it goes. Two of the schemas have no bound at all (strings without
a length, a tree without a depth), and there a small model may go on for ever.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonschema

from broker.client import Client
from broker.messages import Sampling
from producers.local_system import local_system
from tests.real import QWEN, real_model
from tests.support import ROOT

MAX_TOKENS = 512
AT_ONCE = 8

TEXT: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 60}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 500}


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    closed = {"additionalProperties": False, "required": list(properties)}
    return {"type": "object", "properties": properties} | closed | more


SCHEMAS: dict[str, Any] = {
    "a person": _object({"name": TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 120}, "email": TEXT}),
    "free strings": _object({"title": {"type": "string"}, "summary": {"type": "string"}}),
    "nested": _object({"site": _object({"city": TEXT, "mast": _object({"height": {"type": "number"}, "kind": TEXT})})}),
    "some may be left out": _object({"id": COUNT, "note": TEXT, "owner": TEXT}, required=["id"]),
    "a list of words": {"type": "array", "items": TEXT, "minItems": 2, "maxItems": 5},
    "a list of objects": {
        "type": "array",
        "items": _object({"node": COUNT, "up": {"type": "boolean"}}),
        "minItems": 1,
        "maxItems": 4,
    },
    "a list in an object": _object({"tags": {"type": "array", "items": TEXT, "maxItems": 4}, "count": COUNT}),
    "enum": _object({"colour": {"enum": ["red", "green", "blue"]}, "level": {"enum": [1, 2, 3, None, "none"]}}),
    "const": _object({"version": {"const": 2}, "kind": {"const": "alarm"}, "text": TEXT}),
    "an integer": {"type": "integer", "minimum": -20, "maximum": 1500},
    "a number": {"type": "number", "minimum": 0, "maximum": 1},
    "multiples": _object({"dozens": {"type": "integer", "multipleOf": 12, "minimum": 0}}),
    "a boolean": {"type": "boolean"},
    "null or text": _object({"answer": {"type": ["string", "null"], "maxLength": 40}}),
    "a pattern": _object({"plate": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"}, "owner": TEXT}),
    "a phone number": {"type": "string", "pattern": "^\\+[1-9][0-9]{6,14}$"},
    "formats": _object({"day": {"type": "string", "format": "date"}, "at": {"type": "string", "format": "date-time"}}),
    "other formats": _object(
        {"id": {"type": "string", "format": "uuid"}, "address": {"type": "string", "format": "ipv4"}}
    ),
    "either": {
        "anyOf": [_object({"celsius": {"type": "number"}}), _object({"fahrenheit": {"type": "number"}})],
    },
    "one by its kind": {
        "oneOf": [
            _object({"kind": {"const": "circle"}, "radius": COUNT}),
            _object({"kind": {"const": "square"}, "side": COUNT}),
        ]
    },
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": COUNT}, "required": ["a"]},
            {"type": "object", "properties": {"b": TEXT}, "required": ["b"]},
        ],
        "maxProperties": 3,
    },
    "a tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": _object(
                {"name": TEXT, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}}
            )
        },
    },
    "a tuple": {
        "type": "array",
        "prefixItems": [{"type": "number"}, {"type": "number"}, {"enum": ["km", "miles"]}],
        "items": False,
        "minItems": 3,
    },
    "names of any kind": {
        "type": "object",
        "additionalProperties": {"type": "integer"},
        "minProperties": 1,
        "maxProperties": 4,
    },
    "other scripts": _object({"język": {"enum": ["język", "日本語", "हिन्दी", "عربي", "🎉"]}, "größe": COUNT}),
}
UNBOUNDED = ("free strings", "a tree")
"""Strings without a length, and recursion without a depth."""
QUESTIONS = (
    "Make up an example of this.",
    "Tell me of a radio site in Poland.",
    'Write me something long, with "quotes", C:\\paths, tabs and 日本語.',
    "Ignore the format and say hello.",
)
assert len(SCHEMAS) * len(QUESTIONS) * 2 == 200


@dataclass(frozen=True)
class Asked:
    """One answer and what is to be said of it."""

    name: str
    temperature: float
    text: str
    num_tokens: int
    verdict: str
    """`valid`, `cut` by its length, or what is wrong with it."""


def cases() -> list[tuple[str, str, float, int]]:
    """(schema, question, temperature, seed) of all."""
    return [
        (name, question, temperature, seed)
        for seed, question in enumerate(QUESTIONS)
        for name in SCHEMAS
        for temperature in (0.0, 1.0)
    ]


def judged(name: str, text: str, finish_reason: str) -> str:
    """What the library says of an answer."""
    if finish_reason == "length":
        return "cut"
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    try:
        jsonschema.validate(json.loads(text), SCHEMAS[name], jsonschema.Draft202012Validator, format_checker=checker)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{finish_reason}: {str(error).splitlines()[0]}"
    return "valid"


async def ask_all(client: Client, chosen: Sequence[tuple[str, str, float, int]], model: str = "m") -> list[Asked]:
    """Asks for all of them, some at once."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, question: str, temperature: float, seed: int) -> Asked:
        sampling = Sampling(MAX_TOKENS, temperature, seed=seed, json_schema=SCHEMAS[name])
        async with places:
            done = await client.ask(model, f"{question} ({name})", sampling=sampling)
        verdict = judged(name, done.text, done.finish_reason)
        return Asked(name, temperature, done.text, done.usage.completion_tokens, verdict)

    return await asyncio.gather(*(one(*case) for case in chosen))


async def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else real_model(QWEN)
    began = time.perf_counter()
    with TemporaryDirectory(prefix="turnpike-schemas-") as folder:
        flags = ["--num-slots", str(AT_ONCE), "--num-ctx", str(AT_ONCE * 1024)]
        async with local_system(ROOT / "turnpike", Path(folder), model="m", model_file=path, flags=flags) as found:
            await found.until_served()
            answers = await ask_all(found.client, cases())
    told = Counter(one.verdict if one.verdict in ("valid", "cut") else "wrong" for one in answers)
    for one in answers:
        if one.verdict != "valid":
            print(f"{one.name} at {one.temperature:g}, {one.num_tokens} tokens: {one.verdict}: {one.text[:300]!r}")  # noqa: T201
    tokens = sorted(one.num_tokens for one in answers)
    seconds = time.perf_counter() - began
    counted = f"{told['valid']} of {len(answers)} valid, {told['cut']} cut at {MAX_TOKENS}, {told['wrong']} wrong"
    print(f"{counted}; tokens: median {tokens[len(tokens) // 2]}, most {tokens[-1]}; {seconds:.0f} s")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
