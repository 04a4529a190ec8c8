"""JSON schemas as grammars: what is made is valid, what is valid and in order is taken, what is refused is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.follow import accepts, made
from workers.grammars.schemas import SchemaRefused, gbnf_of_schema

S: dict[str, Any] = {"type": "string"}
N: dict[str, Any] = {"type": "number"}
I: dict[str, Any] = {"type": "integer"}  # noqa: E741


def obj(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), **more}


NODE = {
    "$ref": "#/$defs/node",
    "$defs": {"node": obj({"v": I, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}})},
}
COLLIDE = obj({"color": {"enum": ["red"]}, "bg": {"$ref": "#/$defs/color"}}, **{"$defs": {"color": obj({"r": I})}})
TAGGED = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": "cat", "default": "cat"}, "lives": I},
            "required": ["lives"],
        },
        {"type": "object", "properties": {"kind": {"const": "dog"}, "name": S}, "required": ["name"]},
    ]
}
TAKEN: list[tuple[Any, list[str], list[str]]] = [
    # (schema, texts that are taken, texts that are not)
    (
        obj({"s": S}),
        ['{"s": "ok"}', '{"s": "line\\nbreak"}', '{"s":"ü"}'],
        ['{"s": "raw\nbreak"}', '{"s": "tab\t"}', '{"s": "\\ud800"}', "{}"],
    ),
    (
        obj({"age": I | {"minimum": 0, "maximum": 120}}),
        ['{"age": 0}', '{"age": 120}'],
        ['{"age": 121}', '{"age": -1}', '{"age": 4000}', '{"age": -0}'],
    ),
    (I | {"minimum": 1, "maximum": 10}, ["1", "9", "10"], ["0", "11", "701", "01", "1.0"]),
    (I | {"exclusiveMinimum": -3, "exclusiveMaximum": 3}, ["-2", "0", "2"], ["-3", "3"]),
    (I | {"minimum": -123, "maximum": 42}, ["-123", "-99", "-1", "0", "42"], ["-124", "43", "-200"]),
    (N | {"minimum": 0, "maximum": 1}, ["0", "0.5", "1", "1.0", "0.999999"], ["1.1", "-0.1", "100", "2", "1.01"]),
    (N | {"exclusiveMinimum": 0, "maximum": 2.75}, ["0.001", "2.75", "2.7", "1.9"], ["0", "0.0", "2.76", "3", "-1"]),
    (N | {"minimum": -1.5, "maximum": -0.25}, ["-1.5", "-1", "-0.25", "-0.3"], ["-1.51", "-0.2", "0", "1"]),
    (I | {"multipleOf": 7}, ["0", "7", "-14", "7007", "7000000000000007"], ["1", "8", "70001", "70000000000000000"]),
    (I | {"multipleOf": 20, "minimum": 0}, ["0", "100", "1220"], ["10", "1", "-100", "12030"]),
    (I | {"multipleOf": 5, "minimum": 3, "maximum": 22}, ["5", "20"], ["0", "25", "6"]),
    (
        obj({"s": {"type": ["string", "null"], "enum": ["red", "green", None]}}),
        ['{"s": "red"}', '{"s": null}'],
        ['{"s": "blue"}', '{"s": 1}'],
    ),
    (
        obj({"p": obj({"x": I}, additionalProperties=False) | {"type": ["object", "null"]}}),
        ['{"p": null}', '{"p": {"x": 1}}'],
        ['{"p": {"y": "q"}}', '{"p": {}}'],
    ),
    (NODE, ['{"v": 1, "next": null}', '{"v": 1, "next": {"v": 2, "next": null}}'], ['{"v": 1}']),
    (COLLIDE, ['{"color": "red", "bg": {"r": 1}}'], ['{"color": "red", "bg": "red"}']),
    (S | {"pattern": "^\\d{4}-\\d{2}$"}, ['"2026-11"'], ['"2026-1"', '"2026-11x"']),
    (S | {"pattern": "^[0-9]+\\.[0-9]+$"}, ['"1.2"'], ['"1x2"']),
    (S | {"pattern": "^A|B|C|D$"}, ['"A"', '"Axy"', '"xBy"', '"yD"'], ['"A', '"xA"', '"Dx"', '""']),
    (S | {"pattern": "[0-9]+"}, ['"a1b"', '"7"'], ['"ab"']),
    (S | {"pattern": '^"\\\\$'}, ['"\\"\\\\"'], ['"x"']),
    (S | {"pattern": "^[a-z]+$", "minLength": 2, "maxLength": 3}, ['"ab"', '"abc"'], ['"a"', '"abcd"']),
    (
        S | {"minLength": 2, "maxLength": 3},
        ['"ab"', '"\\n\\n"', '"日本語"', '"\\ud83d\\ude00a"'],
        ['"a"', '"abcd"', '"\\ud83d\\ude00"'],
    ),
    (S | {"format": "date"}, ['"2026-02-28"'], ['"2026-13-01"', '"2026-02-30"', '"x"']),
    (obj({"k": {"const": 'über "x"'}}), ['{"k": "über \\"x\\""}'], ['{"k": "x"}']),
    (obj({"a": {"description": "anything"}}), ['{"a": 1}', '{"a": "s"}', '{"a": [{"b": null}]}'], ["{}"]),
    (
        {"type": "object", "properties": {"a": I, "b": I}},
        ["{}", '{"a": 1}', '{"b": 2}', '{"a": 1, "b": 2}'],
        ['{"c": 1}', '{"a": 1,}'],
    ),
    (
        {"properties": {"a": I, "aa": I}, "additionalProperties": S},
        ['{"a": 1, "b": "x"}', '{"ab": "x"}', '{"": "x"}'],
        ['{"a": "x"}', '{"b": 1}', '{"b": "x", "aa": "y"}', '{"\\u0061": "x"}'],
    ),
    (
        {"type": "object", "additionalProperties": I, "minProperties": 1, "maxProperties": 2},
        ['{"a": 1}', '{"a": 1, "b": 2}'],
        ["{}", '{"a": 1, "b": 2, "c": 3}'],
    ),
    (
        {"type": "object", "properties": {"a": I, "b": I, "c": I}, "minProperties": 1, "maxProperties": 2},
        ['{"a": 1}', '{"b": 1, "c": 2}'],
        ["{}", '{"a": 1, "b": 2, "c": 3}'],
    ),
    (
        {"type": "object", "patternProperties": {"^x-[a-z]+$": I}, "additionalProperties": False},
        ["{}", '{"x-a": 1}'],
        ['{"y": 1}', '{"x-a": "s"}'],
    ),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": I}, ['{"a": 1}'], ['{"c": 1}']),
    ({"type": "array", "items": I, "minItems": 1, "maxItems": 2}, ["[1]", "[1, 2]"], ["[]", "[1,2,3]", '["a"]']),
    (
        {"type": "array", "prefixItems": [S, I], "minItems": 2, "maxItems": 2},
        ['["a", 1]'],
        ['["a"]', '["a", 1, 2]', "[1, 1]"],
    ),
    ({"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b", "c"]}}, ["[]", '["a", "c"]'], ['["a", "a"]']),
    (
        TAGGED,
        ['{"kind": "cat", "lives": 9}', '{"kind": "dog", "name": "x"}'],
        ['{"lives": 9}', '{"kind": "dog", "lives": 9}'],
    ),
    ({"allOf": [{"enum": ["a", "b", "c"]}, {"enum": ["b", "c", "d"]}]}, ['"b"', '"c"'], ['"a"', '"d"']),
    ({"$ref": "#/$defs/n", "minimum": 5, "$defs": {"n": I | {"maximum": 9}}}, ["5", "9"], ["4", "10"]),
    ({"enum": [1, "a", None, {"x": [1.5, True]}]}, ["1", '"a"', "null", '{"x": [1.5, true]}'], ["2", '{"x": []}']),
    ({"enum": [1, 20, "a"], "type": "integer", "maximum": 9}, ["1"], ["20", '"a"']),
    (
        {"allOf": [{"properties": {"a": I}, "required": ["a"]}], "type": "object", "unevaluatedProperties": False},
        ['{"a": 1}'],
        ['{"a": 1, "b": 2}', "{}"],
    ),
    (S | {"pattern": "^(foo|bar)?$", "minLength": 1}, ['"foo"'], ['""']),
    (True, ["1", "[]", '"x"'], ["", "tru"]),
    ({"type": "array", "items": [S, I], "additionalItems": False}, ['["a", 1]'], ['["a", 1, 2]']),
]


@pytest.mark.parametrize(("schema", "valid", "invalid"), TAKEN, ids=[json.dumps(one[0])[:60] for one in TAKEN])
def test_a_schema_is_held_to_in_every_part(schema: Any, valid: list[str], invalid: list[str]) -> None:
    gbnf = gbnf_of_schema(schema)
    assert [text for text in valid if not accepts(gbnf, text)] == []
    assert [text for text in invalid if accepts(gbnf, text)] == []


@pytest.mark.parametrize("schema", [one[0] for one in TAKEN], ids=[json.dumps(one[0])[:60] for one in TAKEN])
def test_what_is_made_is_json_that_is_valid(schema: Any) -> None:
    judge(schema, num_texts=12)


def judge(schema: Any, num_texts: int) -> None:
    """Texts that the schema's grammar makes, judged by jsonschema, in the draft that the schema is written for."""
    is_old = isinstance(schema, dict) and (
        isinstance(schema.get("items"), list) or isinstance(schema.get("prefixItems"), dict)
    )
    kind = jsonschema.Draft7Validator if is_old else jsonschema.Draft202012Validator
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
    gbnf = gbnf_of_schema(schema)
    for seed in range(num_texts):
        validator.validate(json.loads(made(gbnf, seed)))


LLAMA_CPP = [json.loads(line) for line in (Path(__file__).parent / "llama_cpp_schemas.jsonl").read_text().splitlines()]
"""The schemas of llama.cpp's tests/test-json-schema-to-grammar.cpp (MIT licence), and whether they have to work."""
NO_GRAMMAR_CAN = {"unsupported regexp in a property"}  # looks ahead: llama.cpp leaves the pattern out there


@pytest.mark.parametrize("case", LLAMA_CPP, ids=[case["name"] for case in LLAMA_CPP])
def test_the_schemas_of_llama_cpp_work_or_are_refused(case: dict[str, Any]) -> None:
    if case["works"] and case["name"] not in NO_GRAMMAR_CAN:
        judge(case["schema"], num_texts=3)
        return
    with pytest.raises(SchemaRefused):
        gbnf_of_schema(case["schema"])


CLOSED = {"properties": {"a": I}, "unevaluatedProperties": False}
REFUSED: list[tuple[Any, str]] = [
    (CLOSED | {"type": "object", "required": ["z"]}, r"at /: no value is valid"),
    ({"enum": ["today"], "type": "string", "format": "date"}, r"at /: no value is valid"),
    (CLOSED | {"enum": [{"a": 1, "b": 2}]}, r"at /: no value is valid"),
    ({"properties": {"a": {"minimum": float("nan"), "maximum": 3}}}, r"at /properties/a: minimum: a number is wanted"),
    ({"type": "kaboom"}, 'at /: type: there is no "kaboom"'),
    ({"type": 123}, "at /: type: there is no 123"),
    (obj({"a": S | {"pattern": "^(a$"}}), "at /properties/a: pattern: unbalanced"),
    (obj({"a": S | {"pattern": "^a)$"}}), "at /properties/a: pattern: unbalanced"),
    (obj({"a": S | {"pattern": "^(?=a)a$"}}), r"at /properties/a: pattern: .*looks around"),
    (obj({"a": S | {"pattern": "(a)\\1"}}), r"at /properties/a: pattern: \\1 is not supported"),
    (obj({"a": S | {"format": "regex"}}), "at /properties/a: format: 'regex'"),
    (obj({"a": {"not": S}}), "at /properties/a: not: cannot be held to"),
    (obj({"a": I | {"minimum": "x"}}), "at /properties/a: minimum: a number is wanted"),
    (obj({"a": S | {"minLength": 10**40}}), "at /properties/a: minLength: more than 1,000,000"),
    ({"if": {}, "then": {}}, "at /: if: cannot be held to"),
    ({"type": "array", "uniqueItems": True, "items": S}, "at /: uniqueItems: can be held to for the values"),
    ({"type": "array", "contains": S}, "at /: contains: cannot be held to"),
    ({"oneOf": [S, S | {"maxLength": 3}]}, "at /: oneOf: a value could fit more than one"),
    ({"$ref": "#/nowhere"}, r"at /: \$ref: there is no #/nowhere"),
    ({"$ref": "https://example.org/x"}, r"at /: \$ref: .* is not within the schema"),
    ({"$ref": "#"}, r"at /: \$ref: it refers to itself"),
    (obj({"a": False}), "at /: no value is valid"),
    (I | {"minimum": 3, "maximum": 2}, "at /: no value is valid"),
    ({"type": "object", "patternProperties": {"^(": S}}, "at /: patternProperties: "),
    (N | {"multipleOf": 0.1}, "at /: multipleOf: only whole numbers"),
    (obj({"a/b": {"allOf": [{}, {"items": 3}]}}), "at /properties/a~1b/allOf/1/items: a schema is an object"),
]


@pytest.mark.parametrize(("schema", "reason"), REFUSED)
def test_what_cannot_be_held_to_is_refused_by_name(schema: Any, reason: str) -> None:
    with pytest.raises(SchemaRefused, match=reason):
        gbnf_of_schema(schema)


@pytest.mark.parametrize("name", ["entity_id", "RGB", "RFC 5646", "jinja2", "ISO 3166-1 alpha-2", "password", "date"])
def test_a_format_that_is_none_of_texts_here_is_an_annotation(name: str) -> None:
    """Home Assistant's fields have formats of their own; of a list or a number no format of texts says anything."""
    assert accepts(gbnf_of_schema({"type": "array", "format": name, "items": N | {"format": name}}), "[1, 2.5]")
    assert accepts(gbnf_of_schema(S | {"format": name}), '"light.kitchen"') is (name != "date")


def test_white_space_is_bounded() -> None:
    gbnf = gbnf_of_schema(obj({"a": I}))
    assert accepts(gbnf, '{"a":1}')
    assert accepts(gbnf, '{\n  "a": 1\n}')
    assert not accepts(gbnf, '{  "a": 1}')
    assert not accepts(gbnf, '{\n\n"a": 1}')
    assert not accepts(gbnf, "{\n" + " " * 30 + '"a": 1}')
    assert not accepts(gbnf, '{"a": 1} ')
