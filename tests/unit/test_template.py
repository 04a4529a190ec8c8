from __future__ import annotations

import json
from collections.abc import Collection

import pytest

from workers.prompts.template import TemplateFailed, render

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def run(template: str, *contents: str, exact: Collection[int] = ()) -> tuple[str, list[str]]:
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
    assert run(CHATML, "x", " kept ", "y", exact=(1,))[1] == ["x", " kept ", "y"]


def test_a_template_that_cuts_into_a_content_makes_no_template_text_of_it() -> None:
    text, contents = run("{% for m in messages %}{{ m.content[:40] }}|{% endfor %}", "<|im_end|>" * 20)
    assert (text, contents) == ("<|im_end|>" * 4 + "|", ["<|im_end|>" * 4])


@pytest.mark.parametrize("length", [1, 16, 17, 18, 19, 20, 40])
def test_what_is_cut_off_anywhere_is_a_content(length: int) -> None:
    content = "<|im_end|>" * 5
    text, contents = run(f"{{{{ '%.{length}s' % messages[0].content }}}}|", content)
    assert (text, contents) == (content[:length] + "|", [content[:length]])


@pytest.mark.parametrize("text", ["k", "\n kept", "kept\n"])
def test_nothing_is_stripped_off_an_exact_message(text: str) -> None:
    prompt, contents = run(
        "{% for m in messages %}<{{ m.content.strip() | trim }}>{% endfor %}", "x", text, "y", exact=(1,)
    )
    assert prompt == f"<x><{text}><y>"
    assert contents == ["x", text, "y"]


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_exact_message_of_nothing_but_white_space_says_nothing_to_a_template_that_asks(text: str) -> None:
    template = "{% for m in messages %}<{{ 'says ' + m.content if m.content.strip() else 'nothing' }}>{% endfor %}"
    assert run(template, "x", text, "y", exact=(1,)) == ("<says x><nothing><says y>", ["x", "y"])


def test_of_several_exact_messages_each_keeps_its_white_space_and_its_place() -> None:
    template = "{% for m in messages %}{{ m.content | trim }}{% endfor %}"
    said = ("x", " kept ", " y ", "\nk", "\n", "", "z")
    text, contents = run(template, *said, exact=(1, 3, 5))
    assert text == "x kept y\nkz"
    assert contents == ["x", " kept ", "y", "\nk", "z"]
    messages = [{"role": "user", "content": text} for text in said]
    found = render(template, messages, bos_token="", eos_token="", exact=(1, 3, 5))
    assert [index for index, _, _ in found["contents"]] == [0, 1, 2, 3, 6]


def test_the_thinking_that_a_template_cuts_off_leaves_the_answer_a_content() -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
    text, contents = run(template, "q", "<think>a</think>It writes <|im_end|> there.", "and?")
    assert text == "<|im_start|>q<|im_end|><|im_start|>It writes <|im_end|> there.<|im_end|><|im_start|>and?<|im_end|>"
    assert contents == ["q", "It writes <|im_end|> there.", "and?"]


def test_a_switch_at_the_end_of_a_content_is_found_by_the_template() -> None:
    template = "{% for m in messages %}[{{ m.content.removesuffix('/no_think').rstrip() }}]{% endfor %}"
    assert run(template, "Be brief /no_think", "hello")[0] == "[Be brief][hello]"


def test_tags_that_mark_the_answer_for_training_mean_nothing() -> None:
    template = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}"
    assert run(template, "a", "b")[0] == "a|b|"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for tool in tools %}x{% endfor %}{{ tools | length }}", "0"),
        ("{% if tools %}x{% endif %}{% if tools is not none %}x{% endif %}{% if tools is defined %}y{% endif %}", "y"),
        ("{{ tools }}{{ tools == none }}{{ tools | tojson }}{{ tools | default([], true) | length }}", "NoneTruenull0"),
    ],
)
def test_without_tools_a_template_may_ask_for_them_or_go_through_them(template: str, text: str) -> None:
    assert run(template, "hello")[0] == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content.encode() }}",
        "{{ (messages[0].content | length).to_bytes(2, 'big') }}",
        "{% autoescape true %}{{ messages[0].content }}{% endautoescape %}",
        "{{ messages[0].content._origins() }}",
        "{% for %}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[99].content }}",
        "{{ 1 / 0 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{{ range(100000000) | list }}",
        "{{ '\\ud83d' }}",
        "{{ '%.2s' % messages[0].content }}{{ '\\udc00' }}",
    ],
)
def test_a_template_that_fails_is_one_error(template: str) -> None:
    with pytest.raises(TemplateFailed):
        run(template, "x")


LLAMA_3_1 = "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}"
LLAMA_3_2 = """{% if not date_string is defined %}{% if strftime_now is defined %}
{% set date_string = strftime_now('%d %b %Y') %}
{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}{{ date_string }}"""


@pytest.mark.parametrize("template", [LLAMA_3_1, LLAMA_3_2])
@pytest.mark.parametrize(("date", "told"), [("", "26 Jul 2024"), ("2026-11-05", "05 Nov 2026")])
def test_a_template_is_told_the_date_that_the_setting_says(template: str, date: str, told: str) -> None:
    messages = [{"role": "user", "content": "x"}]
    assert render(template, messages, bos_token="", eos_token="", date=date)["text"] == told


def test_a_template_that_puts_functions_and_the_date_in_a_text_of_its_own_is_given_both() -> None:
    template = "{{ 'You have ' + functions + ' on ' + datetime }}{{ messages[0].content }}"
    messages = [{"role": "user", "content": "x"}]
    tool = {"type": "function", "function": {"name": "lamp<|im_end|>", "parameters": {}}}
    told = json.dumps([tool["function"]], indent=4)
    found = render(template, messages, bos_token="", eos_token="", date="2026-11-05", tools=[tool])
    text = found["text"]
    assert text == f"You have {told} on Nov 05 2026x"
    assert [text[start:end] for _, start, end in found["contents"]] == [told, "x"]
    without = render(template, messages, bos_token="", eos_token="", date="2026-11-05")
    assert without["text"] == "You have  on Nov 05 2026x"


def test_what_a_template_hears_of_the_time_changes_once_a_day_only() -> None:
    template = "{{ strftime_now('%Y-%m-%d %H:%M:%S') }}"
    found = render(template, [{"role": "user", "content": "x"}], bos_token="", eos_token="", date="2026-11-05")
    assert found["text"] == "2026-11-05 00:00:00"


def test_a_text_without_bounds_is_refused() -> None:
    with pytest.raises(TemplateFailed, match="characters of text"):
        run("{% for i in range(90000) %}{{ 'x' * 100 }}{% endfor %}", "x")


def test_a_prompt_without_the_beginning_of_an_answer() -> None:
    messages = [{"role": "user", "content": "hello"}]
    kwargs = {"add_generation_prompt": False}
    found = render(CHATML, messages, bos_token="<s>", eos_token="</s>", kwargs=kwargs)
    assert found["text"] == "<|im_start|>user\nhello<|im_end|>\n"
