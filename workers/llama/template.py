"""Chat templates: Jinja from a GGUF file, hence untrusted. Rendered in the jail only, see workers.llama.jail.

What comes back says which part of the text is whose, so that a user's text never becomes a control token.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
from typing import Any

import jinja2
import jinja2.sandbox
from jinja2.ext import loopcontrols

MAX_TEXT = 8 * 1024 * 1024


class TemplateFailed(Exception):
    """The template does not compile, raised an error, or made too much text."""


def render(
    template: str, messages: list[dict[str, str]], *, bos_token: str, eos_token: str, exact: int = -1
) -> dict[str, Any]:
    """The prompt's text, and its contents as [message index, start, end) in order.

    Each content is rendered between two marks that a template carries along and nobody can guess. The marks go inside
    the content's own white space, so that a template that trims still does; outside it for the message `exact`, whose
    text must stand in the prompt as it was said. Raises TemplateFailed.
    """
    nonce = secrets.token_hex(8)
    marked = [
        message | {"content": _mark(message["content"], nonce, index, exact == index)}
        for index, message in enumerate(messages)
    ]
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().astimezone().strftime(form)
    try:
        text = environment.from_string(template).render(
            messages=marked, add_generation_prompt=True, bos_token=bos_token, eos_token=eos_token, tools=None
        )
    except (jinja2.TemplateError, TemplateFailed, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise TemplateFailed(f"{type(error).__name__}: {error}") from None
    except RecursionError:
        raise TemplateFailed("it recurses without end") from None
    except MemoryError:
        raise TemplateFailed("it takes too much memory") from None
    if len(text) > MAX_TEXT:
        raise TemplateFailed(f"it makes {len(text):,} characters of text")
    return _parse(text, nonce)


def _mark(content: str, nonce: str, index: int, exact: bool) -> str:
    if not content.strip() and not exact:
        return content
    lead, core, tail = ("", content, "") if exact else _strip(content)
    return f"{lead}\ue000{nonce}{index}\ue001{core}\ue000{nonce}{index}\ue002{tail}"


def _strip(content: str) -> tuple[str, str, str]:
    start = len(content) - len(content.lstrip())
    end = len(content.rstrip())
    return content[:start], content[start:end], content[end:]


def _parse(text: str, nonce: str) -> dict[str, Any]:
    pattern = re.compile(f"\ue000{nonce}(\\d+)([\ue001\ue002])")
    parts: list[str] = []
    contents: list[list[int]] = []
    length = at = 0
    begun: tuple[int, int] | None = None
    for match in pattern.finditer(text):
        parts.append(text[at : match.start()])
        length += match.start() - at
        at = match.end()
        if begun is not None:
            contents.append([*begun, length])
            begun = None
        if match[2] == "\ue001":
            begun = (int(match[1]), length)
    parts.append(text[at:])
    length += len(text) - at
    if begun is not None:
        # A template that cut the closing mark off: all that follows is taken for the user's.
        contents.append([*begun, length])
    return {"text": "".join(parts), "contents": contents}


def _raise(message: str) -> None:
    raise TemplateFailed(message)
