"""How a template takes tools, calls and results, found out by trial; and what becomes of them where it takes none.

A template that names neither tools nor calls gets a stated form instead, which small models know best of all (Hermes':
JSON in `<tool_call>` marks): the tools in the system message, calls in the text of the answers that made them, results
in messages of the user's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from broker.errors import TurnRejected
from broker.messages import Message, Tool, ToolCall

ToolsForm = Literal["object", "text", "content", "generic"]
"""Of a template: it takes a call's arguments as an object, or as JSON text; it takes tools and results, but calls only
as they stand in an answer's text (LFM2, Granite 3); or it takes no tools (`generic`)."""

_ARGUMENT, _VALUE, _RESULT = "trial_argument", "trial value", "trial result"
_TOOL = Tool(
    "trial_tool",
    "A trial",
    {"type": "object", "properties": {_ARGUMENT: {"type": "string", "description": "A text"}}, "required": [_ARGUMENT]},
)
_CALL = ToolCall("call00001", _TOOL.name, json.dumps({_ARGUMENT: _VALUE}))
"""Nine letters and digits: Mistral's templates want no others."""
_QUESTION = Message("user", "Question?")
_ROUND = (
    _QUESTION,
    Message("assistant", "", (_CALL,)),
    Message("tool", _RESULT, tool_call_id=_CALL.id),
    Message("assistant", "Answer."),
    Message("user", "Next?"),
)

log = logging.getLogger(__name__)

Text = Callable[[tuple[Message, ...], tuple[Tool, ...], ToolsForm], Awaitable[str]]
"""The prompt of a conversation with these tools, in that form; raises TurnRejected."""


async def tools_form(text: Text) -> ToolsForm:
    """Of the template that `text` renders with, by trial."""

    async def rendered(messages: tuple[Message, ...], form: ToolsForm) -> str:
        try:
            return await text(messages, (_TOOL,), form)
        except TurnRejected as error:
            log.debug("template with tools, arguments=%s: %s", form, error.detail)
            return ""

    for form in _NATIVE:
        if _TOOL.name not in await rendered((_QUESTION,), form):
            return "generic"
        told = await rendered(_ROUND, form)
        if _RESULT not in told:
            continue
        if _VALUE not in told:
            return "content"
        # An object that is printed as Python would print it: there the template wants text.
        if f"{{'{_ARGUMENT}': '{_VALUE}'" not in told:
            return form
    return "generic"


_NATIVE: tuple[ToolsForm, ...] = ("object", "text")

# --- Without tools in the template ---

_BEFORE = """\
# Tools

You may call functions to help the user. These are there, one in a line:
"""
_BEHIND = """
To call one, write its name and its arguments as JSON between two marks, and wait for the result:
<tool_call>
{"name": "the function's name", "arguments": {"an argument's name": "its value"}}
</tool_call>
Call none where you can answer without. Results come between <tool_response> and </tool_response>."""


def generic(messages: list[dict[str, Any]], tools: list[Any], to_json: Callable[[Any], str]) -> list[dict[str, Any]]:
    """The conversation for a template that knows neither tools nor calls. `to_json` keeps track of whose texts are
    in what it prints."""
    found: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool":
            result = "<tool_response>\n" + message["content"] + "\n</tool_response>"
            if found and found[-1].get("is_result"):
                found[-1]["content"] = found[-1]["content"] + "\n" + result
            else:
                found.append({"role": "user", "content": result, "is_result": True})
        elif calls := message.get("tool_calls"):
            texts = ["<tool_call>\n" + to_json(one["function"]) + "\n</tool_call>" for one in calls]
            content = message["content"]
            for text in texts:
                content = content + "\n" + text if content else text
            found.append({"role": "assistant", "content": content})
        else:
            found.append(message)
    if not tools:
        return found
    told = _BEFORE
    for tool in tools:
        told = told + to_json(tool["function"]) + "\n"
    told = told + _BEHIND
    if found[0]["role"] == "system":
        return [found[0] | {"content": found[0]["content"] + "\n\n" + told}, *found[1:]]
    return [{"role": "system", "content": told}, *found]
