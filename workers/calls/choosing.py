"""Which syntax a model's answers have: what its chat template writes around calls and thoughts says it."""

from __future__ import annotations

from collections.abc import Iterable

from workers.calls.deriving import Written, derived
from workers.calls.syntax import Syntax, Thoughts
from workers.calls.syntaxes import SYNTAXES

DEFAULT = "hermes"
"""Of a template that says nothing of calls: what most models were taught."""

_SAID: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|channel|>", "<|message|>"), "gpt-oss"),
    (("<atem:",), "muse"),
    (("<|tool_call>", "<tool_call|>"), "gemma4"),
    (("]<]minimax[>[",), "minimax-m3"),
    (("<minimax:tool_call>",), "minimax-m2"),
    (("<seed:tool_call>",), "seed-oss"),
    (("｜DSML｜", "function_calls"), "deepseek-v3.2"),
    (("｜DSML｜",), "deepseek-v4"),
    (("<｜tool▁call▁begin｜>",), "deepseek"),
    (("<|tool_calls_section_begin|>",), "kimi-k2"),
    (("<|open|>", "<|sep|>"), "kimi-k3"),
    (("<|tool_call:begin|>",), "solar"),
    (("<|tools_prefix|>",), "apertus"),
    (("<|START_ACTION|>",), "command-r"),
    (("<|CHATBOT_TOKEN|>", "Action:"), "command-r-plus"),
    (("[TOOL_CALLS]", "[ARGS]"), "mistral"),
    (("[TOOL_CALLS]",), "mistral-list"),
    ((">>>all",), "functionary-v3.2"),
    (("<function=", "<|python_tag|>"), "functionary-v3.1"),
    (("functools[",), "functools"),
    (("<TOOLCALL>",), "nemotron"),
    (("opensource", "arg_key"), "hunyuan3"),
    (("<arg_key>",), "glm"),
    (("<function name=",), "minicpm5"),
    (("<|tool_call_start|>",), "lfm2"),
    (("<|tool_list_start|>",), "lfm2"),
    (("List of tools: [", "<|im_start|>"), "lfm2"),
    (("<function_calls>",), "olmo3"),
    (("<|function_call|>",), "gigachat"),
    (("'function call'", "<|role_sep|>"), "gigachat3"),
    (("<|action_start|>",), "internlm"),
    (("<|tool_call|>",), "phi4"),
    (("<|/tool|>",), "phi4"),
    (("<function=", "<parameter="), "qwen3-coder"),
    (("<tool_calls>",), "tool-calls"),
    (("<tool_call>",), "hermes"),
    (("<|python_tag|>",), "llama3"),
    (("<|start_header_id|>", '"parameters": '), "llama3"),
)
"""The first whose texts all stand in the template."""

_THOUGHTS: tuple[tuple[tuple[str, ...], Thoughts], ...] = (
    (("[/THINK]",), Thoughts("[THINK]", "[/THINK]", anywhere=True)),
    (
        ("[BEGIN FINAL RESPONSE]",),
        Thoughts("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]", around=("[END FINAL RESPONSE]",)),
    ),
    (("</seed:think>",), Thoughts("<seed:think>", "</seed:think>")),
    (("</mm:think>",), Thoughts("<mm:think>", "</mm:think>")),
    (("</think>", "<response>"), Thoughts("<think>", "</think>", around=("<response>", "</response>"))),
    (("</think>",), Thoughts("<think>", "</think>")),
)
"""What stands in the templates that have these marks; the first one of them they may leave to the model."""


def _first[T](template: str, choices: Iterable[tuple[tuple[str, ...], T]], otherwise: T) -> T:
    return next((choice for said, choice in choices if all(part in template for part in said)), otherwise)


def told(template: str) -> str:
    """The name of the syntax that the template's own text tells, empty for none."""
    return _first(template, _SAID, "")


def syntax_of(template: str, forced: str = "", written: Written | None = None) -> Syntax:
    """The syntax of a chat template, or the `forced` one of its name, with the template's marks around thoughts. What
    the template writes tells it where its own text does not. Raises KeyError for a name that there is not."""
    name = forced or told(template)
    syntax = SYNTAXES[name] if name else (written and derived(written)) or SYNTAXES[DEFAULT]
    if syntax.whole is not None or (syntax.thoughts is not None and syntax.thoughts.anywhere):
        return syntax
    return syntax.with_thoughts(_first(template, _THOUGHTS, syntax.thoughts))
