"""Syntaxes whose calls are a name, a mark, and JSON; and those that look like Python."""

from __future__ import annotations

from workers.calls.gemma_calls import gemma
from workers.calls.named_calls import NamedCalls, functionary, mistral
from workers.calls.python_calls import PythonCalls
from workers.calls.syntax import IN_BRACKETS, Form, Syntax, Thoughts

_THINK = Thoughts("<think>", "</think>")
_BETWEEN_WORDS = ("▁", "_", " ", "\\_")
"""What stands between the words of DeepSeek's marks: distilled models write others than the template."""


def _words(*said: str) -> tuple[str, ...]:
    return tuple(f"<｜{between.join(said)}｜>" for between in _BETWEEN_WORDS)


def _deepseek() -> Syntax:
    begin, end = _words("tool", "calls", "begin"), _words("tool", "calls", "end")
    call, call_end, separator = _words("tool", "call", "begin"), _words("tool", "call", "end"), _words("tool", "sep")
    return Syntax(
        "deepseek",
        NamedCalls(name_ends=separator, begins=call, has_kind=True, ends=call_end, section_ends=end),
        (*begin, "<｜tool▁calls｜>", *call),
        Form(call[0], separator[0], call_end[0], begin[0], end[0], ""),
        other_forms={
            **dict.fromkeys((*begin[1:], "<｜tool▁calls｜>"), Form(call[0], separator[0], call_end[0], "", end[0], "")),
            **dict.fromkeys(call[1:], Form("", separator[0], call_end[0], "", end[0], call[0])),
        },
        thoughts=_THINK,
    )


NAMED = (
    Syntax("mistral", mistral, ("[TOOL_CALLS]",), Form("[TOOL_CALLS]", "[ARGS]", "", between="")),
    Syntax(
        "mistral-list",
        mistral,
        ("[TOOL_CALLS]",),
        Form('{"name": "', '", "arguments": ', "}", "[TOOL_CALLS][", "]", ", "),
    ),
    Syntax("functionary-v3.2", functionary, (">>>",), Form(">>>", "\n", "", between=""), whole=functionary),
    _deepseek(),
    Syntax(
        "kimi-k2",
        NamedCalls(
            name_ends=("<|tool_call_argument_begin|>",),
            begins=("<|tool_call_begin|>",),
            name_is_id=True,
            ends=("<|tool_call_end|>",),
            section_ends=("<|tool_calls_section_end|>",),
        ),
        ("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        Form(
            "<|tool_call_begin|>functions.",
            ":0<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
            "<|tool_calls_section_begin|>",
            "<|tool_calls_section_end|>",
        ),
        thoughts=_THINK,
        calls_end_thoughts=True,
    ),
    Syntax(
        "solar",
        NamedCalls(
            name_ends=("<|tool_call:args|>",),
            begins=("<|tool_call:begin|>",),
            id_end="<|tool_call:name|>",
            ends=("<|tool_call:end|>",),
            section_ends=("<|calls|>",),
        ),
        ("<|tool_calls|>", "<|tool_call:begin|>"),
        Form(
            "<|tool_call:begin|>0<|tool_call:name|>",
            "<|tool_call:args|>",
            "<|tool_call:end|>",
            "<|tool_calls|>",
        ),
        ignored=("<|begin|>assistant", "<|content|>", "<|end|>", "<|calls|>"),
        thoughts=Thoughts("<|think|>", "<|end|>", anywhere=True),
        calls_end_thoughts=True,
    ),
    Syntax(
        "lfm2",
        PythonCalls(("<|tool_call_end|>",)),
        ("<|tool_call_start|>",),
        Form(
            "",
            "(",
            ")",
            "<|tool_call_start|>[",
            "]<|tool_call_end|>",
            ", ",
            arguments="pythonic",
        ),
    ),
    Syntax(
        "olmo3",
        PythonCalls(("</function_calls>",)),
        ("<function_calls>",),
        Form(
            "",
            "(",
            ")",
            "<function_calls>",
            "</function_calls>",
            "\n",
            arguments="pythonic",
        ),
    ),
    Syntax(
        "tool-code",
        PythonCalls(("```",)),
        (),
        Form(
            "",
            "(",
            ")",
            "```tool_code\n",
            "\n```",
            "\n",
            arguments="pythonic",
        ),
        maybe=("```tool_code", "```python"),
        other_forms={"```python": Form("", "(", ")", "", "\n```", "\n", "pythonic"), "[": IN_BRACKETS},
        bare="[",
    ),
    Syntax(
        "gemma4",
        gemma,
        ("<|tool_call>",),
        Form("<|tool_call>call:", "", "<tool_call|>", between="", arguments="gemma"),
        ignored=("<channel|>", "<|channel>", "<|turn>model\n"),
        thoughts=Thoughts("<|channel>thought", "<channel|>", anywhere=True),
    ),
)
"""Gemma 4 is among them: its values are neither JSON nor Python, but its calls look like those."""
