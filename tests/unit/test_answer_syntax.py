"""Which syntax a worker reads its model's answers in: what the template says, what it writes, or what is forced."""

from __future__ import annotations

import pytest

from tests.fakes import END, FakeVocabulary
from workers.answer_syntax import answer_readers
from workers.prompts.renderer import TemplateRenderer

OWN = """{%- for tool in tools or [] %}[tool] {{ tool | tojson }}
{% endfor %}
{%- for m in messages %}<|{{ m.role }}|>{{ m.content or "" }}
{%- for call in m.tool_calls or [] %}{% set f = call.function %}
{{- '<|fn|>{"fn": "' ~ f.name ~ '", "with": ' ~ (f.arguments | tojson) ~ '}<|/fn|>' }}
{%- endfor %}<|end|>
{% endfor %}<|assistant|>"""
"""Of a model that nobody has heard of."""


class _Spelled(FakeVocabulary):
    @property
    def control_tokens(self) -> dict[str, int]:
        return {"<|fn|>": 1, "<|/fn|>": 2, "<|end|>": END}


class _Model:
    vocabulary = _Spelled()

    def __init__(self, chat_template: str) -> None:
        self.chat_template = chat_template


@pytest.mark.parametrize(
    ("template", "forced", "syntax", "starts"),
    [
        (OWN, None, "derived", ("<|fn|>",)),
        (OWN, "mistral", "mistral", ("[TOOL_CALLS]",)),
        (OWN + "{# [TOOL_CALLS] #}", None, "mistral-list", ("[TOOL_CALLS]",)),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None, "hermes", ("<tool_call>",)),
    ],
)
async def test_an_unknown_template_is_read_off_what_it_writes(
    template: str, forced: str | None, syntax: str, starts: tuple[str, ...]
) -> None:
    renderer = TemplateRenderer(template, bos_token="", eos_token="")
    await renderer.start()
    readers = await answer_readers(_Model(template), forced, renderer)
    await renderer.close()

    assert readers.syntax is not None
    assert (readers.syntax.name, readers.syntax.starts) == (syntax, starts)
    if syntax == "derived":
        assert readers.shown == {1: b"<|fn|>", 2: b"<|/fn|>"}
