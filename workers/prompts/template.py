"""Chat templates: Jinja from a GGUF file, hence untrusted: rendered in a process of its own only (template_process.py).

What comes back says which part of the text is whose, so that a user's text never becomes a control token.
"""

from __future__ import annotations

import datetime
import json
import secrets
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache, partial, wraps
from types import BuiltinMethodType, FunctionType
from typing import Any

import jinja2
import jinja2.sandbox
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.utils import pass_environment

from workers.prompts.provenance import (
    Sourced,
    contents,
    plain,
    source_of,
    sourced,
    traced,
    whole,
)
from workers.prompts.sourcing import of_client, sourced_message
from workers.prompts.switches import OPENS_ANSWER
from workers.prompts.system_role import SystemRole, merged
from workers.prompts.tools_form import generic

MAX_TEXT = 8 * 1024 * 1024

_KEEPING = frozenset(
    ("abs", "attr", "batch", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items",
     "last", "length", "list", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "round",
     "select", "selectattr", "slice", "sort", "sum", "unique", "wordcount")
)  # fmt: skip
"""Filters that hand on what they are given."""
_OF_TEXT = frozenset(("capitalize", "lower", "replace", "trim", "upper"))
"""Filters that are a method of strings."""
_INSERTING = frozenset(("format", "indent"))
"""Filters that put what they are given, as it is, into another text."""


_HOLDERS = (dict, list, tuple, LoopContext)
"""Their methods give what they hold."""


class TemplateFailed(Exception):
    """The template does not compile, raised an error, or made too much text."""


def render(
    template: str,
    messages: list[dict[str, Any]],
    *,
    bos_token: str,
    eos_token: str,
    exact: Collection[int] = (),
    system_role: SystemRole = "anywhere",
    date: str = "",
    kwargs: dict[str, Any] | None = None,
    tools: list[dict[str, Any]] | None = None,
    takes_tools: bool = True,
) -> dict[str, Any]:
    """The prompt's text, and its contents as [message index, start, end) in order.

    The text is what plain Jinja makes, but that the white space around the messages `exact`, whose texts must stand
    in the prompt as they were said, is not stripped off, and that system messages stand where the template takes them,
    as `system_role` says. `date` is YYYY-MM-DD, and what a template hears of it changes once a day and no oftener;
    without one it hears of none. `kwargs` are a client's variables, `tools` what it offers: their texts are contents. A
    template that does not take tools is told of them, of calls and results as `tools_form.generic` does. Raises
    TemplateFailed.
    """
    given = dict(kwargs or {})
    opens = given.pop(OPENS_ANSWER, True)
    try:
        said = [sourced_message(message, index, exact) for index, message in enumerate(messages)]
        offered = of_client(tools or [])
        if not takes_tools:
            said, offered = generic(said, offered, _json_of_content), []
        text = _compiled(template).render(
            _dated(date) | _functions(offered) | {name: of_client(value) for name, value in given.items()},
            messages=merged(said, system_role),
            # An answer that is begun goes on within its message.
            add_generation_prompt=opens and (not messages or messages[-1]["role"] != "assistant"),
            bos_token=bos_token,
            eos_token=eos_token,
            tools=offered or _NoTools(),
        )
    except (jinja2.TemplateError, TemplateFailed, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise TemplateFailed(f"{type(error).__name__}: {error}") from None
    except RecursionError:
        raise TemplateFailed("it recurses without end") from None
    except MemoryError:
        raise TemplateFailed("it takes too much memory") from None
    if len(text) > MAX_TEXT:
        raise TemplateFailed(f"it makes {len(text):,} characters of text")
    text, found = contents(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TemplateFailed("it makes half a character") from None
    return {"text": text, "contents": found}


@lru_cache(maxsize=4)
def _compiled(template: str) -> jinja2.Template:
    """Kept, as compiling takes longer than rendering."""
    return _Environment().from_string(template)


def _dated(date: str) -> dict[str, Any]:
    """By which names templates ask for the date: `date_string` is Llama 3.1's, which else is of July 2024, `datetime`
    is Firefunction's; each as llama.cpp writes it."""
    if not date:
        return {}
    day = datetime.datetime.fromisoformat(date)
    dates = {"date_string": day.strftime("%d %b %Y"), "datetime": day.strftime("%b %d %Y")}
    return {"strftime_now": day.strftime, **dates}


def _functions(tools: list[Any]) -> dict[str, Any]:
    """What is offered, as JSON, for a template that puts a text of it into its own (Firefunction's)."""
    return {"functions": whole(_tojson(plain([one["function"] for one in tools]), indent=4), tools) if tools else ""}


class _NoTools(tuple[()]):
    """No tools: None for a template that asks whether there are any, and nothing for one that goes through them."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other is None or other == ()

    def __hash__(self) -> int:
        return hash(None)

    def __str__(self) -> str:
        return "None"


class _Generator(CodeGenerator):
    """Compiles `~` to a call of the environment's, and no HTML escapes."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concatenate((")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")

    def visit_EvalContextModifier(self, node: nodes.EvalContextModifier, frame: Frame) -> None:
        self.fail("HTML is not escaped here", node.lineno)

    def visit_ScopedEvalContextModifier(self, node: nodes.ScopedEvalContextModifier, frame: Frame) -> None:
        self.fail("HTML is not escaped here", node.lineno)


class _Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}` mark the answer for training: without a meaning here."""

    tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _concat(parts: Iterable[str]) -> str:
    parts = list(parts)
    return sourced("").join(parts) if any(isinstance(part, Sourced) for part in parts) else "".join(parts)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Whatever a template does to a content, the result knows which of its characters are the content's.

    Strings are put together in few places, and each is here: output and macros (`concat`), `~`, `%`, printing what is
    no string (`finalize`), filters, and calls of functions and methods. `+`, `*` and slices are Sourced's own.
    """

    code_generator_class = _Generator
    intercepted_binops = frozenset("%")
    concat = staticmethod(_concat)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            finalize=_printable,
        )
        self._nonce = f"\ue000{secrets.token_hex(8)}"
        self.filters["tojson"] = _tojson
        self.filters = {name: self._tracing(name, function) for name, function in self.filters.items()}
        self.filters |= {"join": _join, "safe": _as_text, "string": _as_text}
        self.tests["none"] = lambda value: value is None or isinstance(value, _NoTools)
        self.globals["raise_exception"] = _raise

    @staticmethod
    def concatenate(operands: Iterable[Any]) -> str:
        """The operator `~`."""
        return _concat(str(_printable(operand)) for operand in operands)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if not isinstance(left, str):
            return super().call_binop(context, operator, left, right)
        return traced(lambda inputs: inputs[0] % inputs[1], (left, right), self._nonce)

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = (args, kwargs)
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str) and isinstance(function, BuiltinMethodType) and source_of(inputs) is not None:
            # ", ".join(contents): the method that keeps origins instead.
            function = getattr(sourced(owner), function.__name__)
        call = partial(super().call, context, function)
        if isinstance(function, FunctionType) and function.__name__ in ("format", "format_map"):
            return traced(lambda given: call(*given[0], **given[1]), inputs, self._nonce)
        result = call(*args, **kwargs)
        if isinstance(result, bytes):
            raise TemplateFailed("it makes bytes")
        if not _is_new_text(result, inputs) or isinstance(function, Macro) or isinstance(owner, _HOLDERS):
            return result
        return whole(result, inputs)

    def _tracing(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The filter, so that its result keeps origins."""
        begin = 1 if hasattr(function, "jinja_pass_arg") else 0

        @wraps(function)
        def of_text(*args: Any, **kwargs: Any) -> Any:
            if source_of((args[begin:], kwargs)) is None:
                return function(*args, **kwargs)
            return function(*args[:begin], sourced(str(_printable(args[begin]))), *args[begin + 1 :], **kwargs)

        @wraps(function)
        def inserting(*args: Any, **kwargs: Any) -> Any:
            passed, inputs = args[:begin], (args[begin:], kwargs)
            return traced(lambda given: function(*passed, *given[0], **given[1]), inputs, self._nonce)

        @wraps(function)
        def consuming(*args: Any, **kwargs: Any) -> Any:
            inputs = (args[begin:], kwargs)
            if source_of(inputs) is None:
                return function(*args, **kwargs)
            result = function(*args[:begin], *plain(args[begin:]), **plain(kwargs))
            return whole(result, inputs) if _is_new_text(result, inputs) else result

        if name in _KEEPING:
            return function
        return of_text if name in _OF_TEXT else inserting if name in _INSERTING else consuming


def _is_new_text(result: object, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> bool:
    """Whether it is a text without origins that was made of contents, and not one of the inputs."""
    if not isinstance(result, str) or isinstance(result, Sourced) or source_of(inputs) is None:
        return False
    args, kwargs = inputs
    return not any(result is one for one in (*args, *kwargs.values()))


def _printable(value: Any) -> Any:
    """What is printed for a value: what is no text, but may hold texts, counts as content."""
    if value is None or isinstance(value, str | int | float | Undefined):
        return value
    return str(value) if source_of(value) is None else whole(str(value), value)


def _as_text(value: Any) -> str:
    return str(_printable(value))


@pass_environment
def _join(environment: _Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    """Jinja's `join`, without escaping."""
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    parts = [_as_text(one) for one in value]
    return sourced(_as_text(d)).join(parts) if source_of([d, *parts]) is not None else str(d).join(parts)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it."""
    value = None if isinstance(value, _NoTools) else value
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _json_of_content(value: Any) -> Sourced:
    """JSON that counts as content, all of it."""
    return whole(_tojson(plain(value)), value)


def _raise(message: str) -> None:
    raise TemplateFailed(message)
