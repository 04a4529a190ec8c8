"""What a parser of calls said of an answer, joined, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable

from workers.calls import (
    SYNTAXES,
    Arguments,
    Broken,
    CallBegun,
    CallEnded,
    Delta,
    Parser,
    Reasoning,
    Syntax,
    Text,
    Thoughts,
    Tool,
)


class Said:
    """All deltas of an answer, joined."""

    def __init__(self, deltas: Iterable[Delta]) -> None:
        """In the order in which they came; asserts that the order is one that a reader can follow."""
        self.text = ""
        self.reasoning = ""
        self.names: dict[int, str] = {}
        self.ids: dict[int, str | None] = {}
        self.arguments: dict[int, str] = {}
        self.ended: list[int] = []
        self.broken: list[tuple[str, int | None, str | None]] = []
        for delta in deltas:
            match delta:
                case Text():
                    self.text += delta.text
                case Reasoning():
                    self.reasoning += delta.text
                case CallBegun():
                    assert delta.index == len(self.names)
                    self.names[delta.index], self.ids[delta.index] = delta.name, delta.id
                    self.arguments[delta.index] = ""
                case Arguments():
                    assert delta.index not in self.ended
                    self.arguments[delta.index] += delta.text
                case CallEnded():
                    assert delta.index not in self.ended
                    self.ended.append(delta.index)
                    self.ids[delta.index] = delta.id or self.ids[delta.index]
                case Broken():
                    self.text += delta.text
                    self.broken.append((delta.reason, delta.index, delta.name))

    @property
    def calls(self) -> list[tuple[str, str]]:
        """Names and arguments of the calls that are whole."""
        return [(self.names[index], self.arguments[index]) for index in self.ended]

    def __eq__(self, other: object) -> bool:
        """Whether the same was said."""
        return isinstance(other, Said) and vars(self) == vars(other)

    def __hash__(self) -> int:
        """By what it says."""
        return hash((self.text, self.reasoning))

    def __repr__(self) -> str:
        """All of it."""
        return f"Said({vars(self)!r})"


def said(
    syntax: Syntax, pieces: Iterable[str], tools: Iterable[Tool] = (), *, thinking: bool = False, is_held: bool = False
) -> Said:
    """Of an answer in these pieces, to its end."""
    parser = Parser(syntax, tools, thinking=thinking, is_held=is_held)
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    return Said([*deltas, *parser.finish()])


LAMP = Tool(
    "set_lamp",
    {
        "type": "object",
        "properties": {
            "room": {"type": "string"},
            "on": {"type": "boolean"},
            "level": {"type": ["integer", "null"]},
            "scene": {"$ref": "#/$defs/scene"},
            "colours": {"type": "array", "items": {"type": "string"}},
        },
        "$defs": {"scene": {"enum": ["day", "night"]}},
        "required": ["room"],
    },
)
TIME = Tool("clock.now", {"type": "object", "properties": {}})
PYTHON = Tool("python", {"type": "object", "properties": {"code": {"type": "string"}}})
TOOLS = (LAMP, TIME, PYTHON)
ARGUMENTS = {"room": "kitchen", "on": True}
OBJECT = json.dumps(ARGUMENTS)
THINK = Thoughts("<think>", "</think>")

WRITTEN = {
    "hermes": f'<tool_call>\n{{"name": "set_lamp", "arguments": {OBJECT}}}\n</tool_call>',
    "hermes: arguments first": f'<tool_call>{{"arguments": {OBJECT}, "name": "set_lamp"}}</tool_call>',
    "hermes: OpenAI's wrapper": '<tool_call>{"type": "function", '
    f'"function": {{"name": "set_lamp", "arguments": {OBJECT}}}}}</tool_call>',
    "hermes: as a string": f'<tool_call>{{"name": "set_lamp", "arguments": {json.dumps(OBJECT)}}}</tool_call>',
    "hermes: without the last brace": f'<tool_call>\n{{"name": "set_lamp", "arguments": {OBJECT}\n</tool_call>',
    "hermes: a brace too many": f'<tool_call>\n{{"name": "set_lamp", "arguments": {OBJECT}}}}}\n</tool_call>',
    "hermes: in a fence": f'```json\n{{"name": "set_lamp", "arguments": {OBJECT}}}\n```',
    "hermes: without a mark": f'{{"name": "set_lamp", "arguments": {OBJECT}}}',
    "hermes: a list without a mark": f'[{{"name": "set_lamp", "arguments": {OBJECT}}}]',
    "hermes: in two braces": f'{{{{"name": "set_lamp", "arguments": {OBJECT}}}}}',
    "hermes: in two braces behind its mark": "<tool_call>\n"
    f'{{{{"name": "set_lamp", "arguments": {OBJECT}}}}}\n</tool_call>',
    "hermes: Python's words": '<tool_call>{"name": "set_lamp", "arguments": {"room": "kitchen", "on": True}}',
    "hermes: tags of Qwen3-Coder": "<tool_call>\n<function=set_lamp>\n<parameter=room>\nkitchen\n</parameter>\n"
    "<parameter=on>\ntrue\n</parameter>\n</function>\n</tool_call>",
    "qwen3-coder: without new lines": "<tool_call><function=set_lamp><parameter=room>kitchen</parameter>"
    "<parameter=on>True</parameter></function></tool_call>",
    "llama3": f'{{"name": "set_lamp", "parameters": {OBJECT}}}',
    "llama3: with its type": f'\n{{"type": "function", "name": "set_lamp", "parameters": {OBJECT}}}',
    "llama3: behind the tag": f'<|python_tag|>{{"name": "set_lamp", "parameters": {OBJECT}}}',
    "llama3: a method": '<|python_tag|>set_lamp.call(room="kitchen", on=True)',
    "llama3: Pythonic": "[set_lamp(room='kitchen', on=True)]",
    "llama3: a function": f"<function=set_lamp>{OBJECT}</function>",
    "mistral": f"[TOOL_CALLS]set_lamp[ARGS]{OBJECT}",
    "mistral: without ARGS": f"[TOOL_CALLS]set_lamp{OBJECT}",
    "mistral: a list": f'[TOOL_CALLS] [{{"name": "set_lamp", "arguments": {OBJECT}, "id": "abcdefghi"}}]',
    "functionary-v3.1": f"<function=set_lamp>{OBJECT}</function>",
    "functionary-v3.2": f"set_lamp\n{OBJECT}",
    "functools": f'functools[{{"name": "set_lamp", "arguments": {OBJECT}}}]',
    "command-r": f'<|START_ACTION|>[\n{{"tool_call_id": "0", "tool_name": "set_lamp", "parameters": {OBJECT}}}\n]'
    "<|END_ACTION|>",
    "command-r-plus": f'Action:\n```json\n[\n{{"tool_name": "set_lamp", "parameters": {OBJECT}}}\n]\n```',
    "phi4": f'<|tool_call|>[{{"name": "set_lamp", "arguments": {OBJECT}}}]<|/tool_call|>',
    "phi4: Granite": f'<|tool_call|> [{{"name": "set_lamp", "arguments": {OBJECT}}}]',
    "internlm": f'<|action_start|><|plugin|>{{"name": "set_lamp", "parameters": {OBJECT}}}<|action_end|>',
    "tool-calls": f'<tool_calls>\n{{"name": "set_lamp", "arguments": {OBJECT}}}\n</tool_calls>',
    "deepseek": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>set_lamp\n```json\n{OBJECT}\n```"
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek: other words": "<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜>set_lamp\n"
    f"```json\n{OBJECT}\n```<｜tool_call_end｜><｜tool_calls_end｜>",
    "solar": f"<|tool_calls|><|tool_call:begin|>c1<|tool_call:name|>set_lamp<|tool_call:args|>{OBJECT}<|tool_call:end|>"
    "<|calls|>",
    "hunyuan3": "<tool_calls:opensource>\n<tool_call:opensource>set_lamp<tool_sep:opensource>\n"
    "<arg_key:opensource>room</arg_key:opensource>\n<arg_value:opensource>kitchen</arg_value:opensource>\n"
    "<arg_key:opensource>on</arg_key:opensource>\n<arg_value:opensource>true</arg_value:opensource>\n"
    "</tool_call:opensource>\n</tool_calls:opensource>",
    "lfm2": '<|tool_call_start|>[set_lamp(room="kitchen", on=True)]<|tool_call_end|>',
    "lfm2: by place": "<|tool_call_start|>[set_lamp('kitchen', true)]<|tool_call_end|>",
    "olmo3": '<function_calls>\nset_lamp(room="kitchen", on=true)\n</function_calls>',
    "tool-code": '```tool_code\nprint(set_lamp(room="kitchen", on=True))\n```',
    "gemma4": '<|tool_call>call:set_lamp{room:<|"|>kitchen<|"|>,on:true}<tool_call|>',
    "gpt-oss": f"<|channel|>commentary to=functions.set_lamp <|constrain|>json<|message|>{OBJECT}<|call|>",
}
"""Syntax, and what is special about it: one call of the lamp."""


def said_in(name: str, *pieces: str, thinking: bool = False) -> Said:
    """Of an answer in that syntax, with <think> where it has no marks of its own, and with all of TOOLS."""
    return said(SYNTAXES[name].with_thoughts(SYNTAXES[name].thoughts or THINK), pieces, TOOLS, thinking=thinking)
