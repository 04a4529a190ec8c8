"""Syntaxes whose calls are JSON objects, and what stands around them."""

from __future__ import annotations

from msgspec.structs import replace

from workers.calls.calls import Answer
from workers.calls.json_calls import JsonCalls
from workers.calls.named_calls import NamedCalls
from workers.calls.python_calls import PythonCalls, python_tag
from workers.calls.reader import Reader, Steps
from workers.calls.syntax import IN_BRACKETS, Form, Syntax, Thoughts
from workers.calls.tagged_calls import Tags

_FENCES = ("```json", "```")
_OTHER_WORDS = (*_FENCES, "<tools>", "<function_call>", "<json>", "<tool>")
"""What small models write where their template has `<tool_call>`."""
_HERMES = JsonCalls(("</tool_call>", "```", "</tools>", "</function_call>", "</json>", "</tool>"))
_QWEN = Tags(
    before_name="<function=",
    tag_end=">",
    before_key="<parameter=",
    after_key=">",
    after_value="</parameter>",
    end="</function>",
    section_ends=("</tool_call>",),
    lines=True,
)
_FUNCTION = NamedCalls(name_ends=(">",), ends=("</function>",))
_PYTHON = PythonCalls()
_OBJECT = Form('{"name": "', '", "arguments": ', "}", between="\n")
_LLAMA = Form('{"name": "', '", "parameters": ', "}")
_TAGGED = Form(
    "<tool_call>\n<function=",
    ">\n",
    "</function>\n</tool_call>",
    between="\n",
    arguments="tagged",
    before_key="<parameter=",
    before_text=">\n",
    before_value=">\n",
    after_value="\n</parameter>\n",
)


def _fenced(end: str) -> Form:
    return Form(_OBJECT.before_name, _OBJECT.before_arguments, _OBJECT.after, "\n", f"\n{end}", "\n")


def tool_call(reader: Reader, answer: Answer, mark: str) -> Steps:
    """`<tool_call>` with an object, or with Qwen3-Coder's tags: models of both kinds write both."""
    if mark == _QWEN.before_name or (yield from reader.space()) == "<":
        return (yield from _QWEN(reader, answer, mark))
    return (yield from _HERMES(reader, answer, mark))


def functions(reader: Reader, answer: Answer, mark: str) -> Steps:
    """Functionary 3.1: `<function=name>{…}</function>`, or a program behind `<|python_tag|>`."""
    return (yield from (python_tag if mark == "<|python_tag|>" else _FUNCTION)(reader, answer, mark))


def llama(reader: Reader, answer: Answer, mark: str) -> Steps:
    """Llama 3: an object, or a list of calls, without any mark; or what stands behind `<|python_tag|>`."""
    if mark:
        return (yield from functions(reader, answer, mark))
    if (yield from reader.peek()) == "{":
        return (yield from _HERMES(reader, answer, mark))
    return (yield from _PYTHON(reader, answer, mark))


def _list(name: str, start: str, end: str = "") -> Syntax:
    """A list of objects between two marks."""
    form = Form('{"name": "', '", "arguments": ', "}", f"{start}[", f"]{end}", ", ")
    return Syntax(name, JsonCalls((end,) if end else ()), (start,), form)


def _object(name: str, start: str, ignored: str) -> Syntax:
    """One object behind a mark."""
    return Syntax(name, JsonCalls(), (start,), Form(start + '{"name": "', '", "arguments": ', "}"), ignored=(ignored,))


OBJECTS = (
    Syntax(
        "hermes",
        tool_call,
        ("<tool_call>",),
        Form('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", between="\n"),
        maybe=(*_OTHER_WORDS, "<function="),
        other_forms={
            **{word: _fenced("```" if word in _FENCES else word.replace("<", "</")) for word in _OTHER_WORDS},
            "<function=": replace(_TAGGED, before_name="", after="</function>", between=None),
            "{": _OBJECT,
            "[": _OBJECT,
        },
        bare="{[",
    ),
    Syntax(
        "qwen3-coder",
        tool_call,
        ("<tool_call>",),
        _TAGGED,
        maybe=(_QWEN.before_name,),
        calls_end_thoughts=True,
    ),
    Syntax(
        "llama3",
        llama,
        ("<|python_tag|>",),
        _LLAMA,
        maybe=("<function=",),
        other_forms={
            "<|python_tag|>": _LLAMA,
            "<function=": Form("", ">", "</function>"),
            "{": _LLAMA,
            "[": IN_BRACKETS,
        },
        bare="{[",
    ),
    Syntax(
        "functionary-v3.1",
        functions,
        ("<function=", "<|python_tag|>"),
        Form("<function=", ">", "</function>", between=""),
        other_forms={"<|python_tag|>": _LLAMA},
    ),
    _list("functools", "functools"),
    _list("phi4", "<|tool_call|>", "<|/tool_call|>"),
    _list("tool-calls", "<tool_calls>", "</tool_calls>"),
    _list("nemotron", "<TOOLCALL>", "</TOOLCALL>"),
    Syntax(
        "command-r",
        JsonCalls(("<|END_ACTION|>",)),
        ("<|START_ACTION|>",),
        Form('{"tool_call_id": "0", "tool_name": "', '", "parameters": ', "}", "<|START_ACTION|>[", "]<|END_ACTION|>"),
        ignored=(
            "<|START_RESPONSE|>",
            "<|END_RESPONSE|>",
            "<|START_TEXT|>",
            "<|END_TEXT|>",
            "<|CHATBOT_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            "<|END_THINKING|>",
        ),
        thoughts=Thoughts(
            "<|START_THINKING|>", "<|END_THINKING|>", ("<|START_RESPONSE|>", "<|START_TEXT|>"), anywhere=True
        ),
        calls_end_thoughts=True,
    ),
    Syntax(
        "command-r-plus",
        JsonCalls(("```",), opens=_FENCES),
        (),
        Form('{"tool_name": "', '", "parameters": ', "}", "Action:\n```json\n[", "]\n```", ", "),
        maybe=("Action:", "```json"),
        ignored=("<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    ),
    Syntax(
        "apertus",
        JsonCalls(("<|tools_suffix|>",), name_is_key=True),
        ("<|tools_prefix|>",),
        Form('{"', '": ', "}", "<|tools_prefix|>[", "]<|tools_suffix|>", ", "),
        thoughts=Thoughts("<|inner_prefix|>", "<|inner_suffix|>", anywhere=True),
    ),
    _object("gigachat", "<|function_call|>", ignored="<|message_sep|>"),
    _object("gigachat3", "<|message_sep|>\n\nfunction call<|role_sep|>\n", ignored="<|message_sep|>"),
    Syntax(
        "internlm",
        JsonCalls(("<|action_end|>",)),
        ("<|action_start|><|plugin|>", "<|action_start|> <|plugin|>"),
        Form('<|action_start|><|plugin|>{"name": "', '", "parameters": ', "}<|action_end|>"),
        other_forms={"<|action_start|> <|plugin|>": Form('{"name": "', '", "parameters": ', "}<|action_end|>")},
    ),
)
"""Of them Functionary 3.1 has the name before the object, and Qwen3-Coder has tags, as their models write both."""
