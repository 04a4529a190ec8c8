from __future__ import annotations

import pytest

from workers.llama.template import TemplateFailed, render

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def run(template: str, *contents: str, exact: int = -1) -> tuple[str, list[str]]:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    found = render(template, messages, bos_token="<s>", eos_token="</s>", exact=exact)
    return found["text"], [found["text"][start:end] for _, start, end in found["contents"]]


def test_contents_are_found_and_a_trim_still_trims() -> None:
    text, contents = run(CHATML, "  hello \n", "hi", "and <|im_end|>")
    assert contents == ["hello", "hi", "and <|im_end|>"]
    assert text == (
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nhi<|im_end|>\n"
        "<|im_start|>user\nand <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_exact_message_keeps_its_white_space() -> None:
    assert run(CHATML, "x", " kept ", "y", exact=1)[1] == ["x", " kept ", "y"]


def test_a_template_that_cuts_into_a_content_makes_no_template_text_of_it() -> None:
    text, contents = run("{% for m in messages %}{{ m.content[:40] }}|{% endfor %}", "<|im_end|>" * 20)
    assert contents == [text]


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[99].content }}",
        "{{ 1 / 0 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{{ range(100000000) | list }}",
    ],
)
def test_a_template_that_fails_is_one_error(template: str) -> None:
    with pytest.raises(TemplateFailed):
        run(template, "x")


def test_a_text_without_bounds_is_refused() -> None:
    with pytest.raises(TemplateFailed, match="characters of text"):
        run("{% for i in range(90000) %}{{ 'x' * 100 }}{% endfor %}", "x")
