"""What llama.cpp's templates write of an answer with a call, rendered as Hugging Face does."""

from __future__ import annotations

import json
import os
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from workers.calls import Tool

FOLDER = Path(os.environ.get("TP_TEMPLATES", ".cache/llama-templates"))
"""Where the set-up leaves them."""
_QUESTION = {"role": "user", "content": "Switch the lamp, please."}


class _Generation(Extension):
    """Marks what is trained on."""

    tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """What it marks."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    """As Hugging Face's apply_chat_template has it."""

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    def refuse(message: str) -> str:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.SandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda _: "26 Nov 2026"
    return environment


def _taken(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": "What it is for.", "parameters": tool.parameters}
    tools = [{"type": "function", "function": function}]
    return {"tools": tools, "functions": json.dumps(tools), "datetime": "now", "bos_token": "", "eos_token": ""}


@cache
def _source(template: str) -> jinja2.Template:
    return _environment().from_string((FOLDER / f"{template}.jinja").read_text())


def conversation(template: str, tool: Tool, answer: dict[str, Any] | None = None) -> str:
    """A question and this answer, or without one the prompt. Raises what Jinja and Python raise in it."""
    messages = [_QUESTION, {"role": "assistant", **answer}] if answer else [_QUESTION]
    return _source(template).render(messages=messages, add_generation_prompt=not answer, **_taken(tool))


def _parted(prompt: str, text: str) -> tuple[str, str]:
    """Where they part, but not within a tag."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, text, strict=False)))
    tag = text.rfind("<", 0, same)
    same = tag if tag >= 0 and ">" not in text[tag:same] else same
    return text[:same], text[same:]


def written(
    template: str, tool: Tool, arguments: dict[str, Any], contents: tuple[str | None, ...] = ("Here.", "", None)
) -> tuple[str, str]:
    """A prompt, and what the template writes behind it of an answer with a call. Templates differ in what they take:
    arguments as an object or as text, an answer with a text or without one."""
    prompt = conversation(template, tool)
    for said in (arguments, json.dumps(arguments)):
        call = {"id": "abcdefghi", "type": "function", "function": {"name": tool.name, "arguments": said}}
        for content in contents:
            thought = {"reasoning_content": "I must."} if content else {}
            try:
                text = conversation(template, tool, {"content": content, "tool_calls": [call], **thought})
            except (jinja2.TemplateError, TypeError):
                continue
            begun, answer = _parted(prompt, text)
            if tool.name in answer:
                return begun, answer
    raise AssertionError(template)
