"""Whatever a chat template does to a content, its words stay text: on templates that do what others' do, and on those
of llama.cpp's source, where the set-up or TP_TEMPLATES has left them."""

from __future__ import annotations

import datetime
import json
import os
import random
import re
from functools import cache
from pathlib import Path

import jinja2
import jinja2.sandbox
import pytest
from jinja2.ext import loopcontrols

from workers.prompts.template import TemplateFailed, render

FOLDER = Path(os.environ.get("TP_TEMPLATES", ".cache/llama-templates"))
OTHERS = sorted(FOLDER.glob("*.jinja"))
CONTROL = re.compile(r"<\|[^|>\n]{1,40}\|>|<｜[^｜\n]{1,40}｜>|\[/?[A-Z_]{2,20}\]|</?[A-Za-z_]{1,30}>")
LOOP = "{%% for m in messages %%}<|im_start|>{{ m.role }}\n%s<|im_end|>\n{%% endfor %%}<|im_start|>assistant\n"
OPERATIONS = {
    "as it is": "{{ m.content }}",
    "strip": "{{ m.content.strip() }}",
    "strip of characters": "{{ m['content'].lstrip('\n').rstrip(' x') }}",
    "trim": "{{ m.content | trim }}",
    "cut at the thinking": "{{ m.content.split('</think>')[-1].lstrip('\n') }}",
    "cut before the thinking": "{{ m.content.split('<think>')[0] ~ m.content.split('</think>', 1)[-1] }}",
    "cut from the right": "{{ m.content.rsplit('</think>', 1) | last }}",
    "partition": "{{ m.content.partition('</think>')[2] or m.content.rpartition('x')[0] }}",
    "words": "{{ m.content.split() | join(' ') }}",
    "lines": "{% for line in m.content.splitlines() %}> {{ line }}\n{% endfor %}",
    "slice": "{{ m.content[3:] }}{{ m.content[-4:] }}{{ m.content[::-1] }}",
    "characters": "{% for c in m.content %}{{ c }}{% endfor %}{{ m.content | list | join }}",
    "prefixes": "{{ m.content.removeprefix('<think>').removesuffix('/no_think') }}",
    "replace": "{{ m.content.replace('/no_think', '').replace('\n', '<|nl|>', 1) }}",
    "replace as a filter": "{{ m.content | replace('/think', '<|x|>') }}{{ 'a-b' | replace('-', m.content) }}",
    "replace nothing": "{{ m.content[:5].replace('', '-') }}",
    "case": "{{ m.content.upper() }}{{ m.content | lower }}{{ m.content | capitalize }}{{ m.content.swapcase() }}",
    "title": "{{ m.content | title }}{{ m.content.title() }}",
    "concatenation": "{{ '<|a|>' + m.content + '<|b|>' }}{% set x = m.content ~ '<|c|>' ~ 1 %}{{ x }}",
    "repetition": "{{ m.content * 2 }}{{ 2 * m.content }}",
    "percent": "{{ '<|a|>%s<|b|>%s' % (m.content, m.role) }}{{ '%s' % m.content }}{{ 'x%%' % () }}",
    "percent in a content": "{{ (m.content | replace('%', '')) % () }}",
    "format": "{{ '<|a|>{}<|b|>{x}'.format(m.content, x=m.role) }}{{ '{:>30}'.format(m.content) }}",
    "format of a field": "{{ '{0[content]}'.format(m) }}{{ '%s|%s' | format(m.role, m.content) }}",
    "join": "{{ ', '.join([m.role, m.content]) }}{{ [m.role, m.content] | join('<|sep|>') }}",
    "join by the content": "{{ m.content[:3].join(['a', 'b']) }}{{ ['a', 'b'] | join(m.content) }}",
    "join of an attribute": "{{ messages | join('<|sep|>', attribute='content') }}",
    "map": "{{ messages | map(attribute='content') | map('trim') | map('upper') | join }}",
    "json": "{{ m.content | tojson }}{{ m | tojson }}{{ {'a': [m.content]} | tojson(indent=2) }}",
    "printing no string": "{{ m }}{{ [m.content] }}{{ (m.content, 1) | string }}{{ [m.content] ~ '' }}",
    "a namespace": "{% set ns = namespace(x='<|a|>') %}{% set ns.x = ns.x + m.content %}{{ ns.x }}{{ ns }}",
    "a macro": "{% macro say(x) %}<|a|>{{ x }}<|b|>{% endmacro %}{{ say(m.content) }}{{ say(m.role) | upper }}",
    "a caller": "{% macro wrap() %}<|a|>{{ caller() }}{% endmacro %}{% call wrap() %}{{ m.content }}{% endcall %}",
    "a block": "{% set x %}<|a|>{{ m.content }}{% endset %}{{ x }}{% filter trim %} {{ m.content }} {% endfilter %}",
    "indent": "{{ m.content | indent(4) }}{{ ('<|a|>\n' ~ m.content) | indent(2, true) }}",
    "other filters": "{{ m.content | center(80) }}{{ m.content | truncate(9) }}{{ m.content | wordwrap(9) }}",
    "HTML": "{{ m.content | e }}{{ m.content | striptags }}{{ m.content | urlencode }}{{ m.content | safe }}",
    "padding": "{{ m.content.center(60) }}{{ m.content.ljust(40, 'x') }}{{ m.content.zfill(40) }}",
    "tabs": "{{ m.content.expandtabs(3) }}{{ m.content.translate({120: '<'}) }}",
    "a dictionary": "{% for k, v in m.items() %}{{ v }}{% endfor %}{{ m.get('content') }}{{ m.values() | list }}",
    "keys": "{% set d = {m.content: '<|a|>'} %}{% for k in d %}{{ k }}{{ d[k] }}{% endfor %}{{ d }}",
    "order": "{{ [m.content, '<|a|>'] | sort | join }}{{ [m.content, '<|a|>'] | first }}{{ m.content | reverse }}",
    "batches": "{% for b in m.content | batch(5) %}{{ b | join }}{% endfor %}{{ m | dictsort }}{{ m | pprint }}",
    "defaults": "{{ m.name | default(m.content) }}{{ m.content or 'x' }}{{ m.content if m.content is string else '' }}",
    "a function": "{{ strftime_now(m.content | replace('%', '')) }}{{ dict(a=m.content).a }}",
    "a switch": "{% set s = '/no_think' in m.content %}{{ m.content.replace('/no_think', '').rstrip() }}{{ s }}",
}
"""What the templates in llama.cpp's source do to contents, and what Jinja can do besides."""
TEMPLATES = {f"our own: {name}": LOOP % operation for name, operation in OPERATIONS.items()}
TEMPLATES |= {path.stem: path.read_text() for path in OTHERS}
SHAPES = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)
DAY = "2026-11-26"
CANARY = "\u0298"


def words_of(template: str) -> list[str]:
    """The template's own control words, and some of all models."""
    return sorted({*CONTROL.findall(template), "<|im_end|>", "<|im_start|>", "</s>", "[/INST]", "<start_of_turn>"})


def conversation(roles: tuple[str, ...], contents: list[str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


@cache
def plain_jinja(template: str) -> jinja2.Template:
    """As transformers renders it."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, ensure_ascii=False, **how: json.dumps(
        value, ensure_ascii=ensure_ascii, **how
    )
    environment.globals["raise_exception"] = lambda message: 1 / 0
    environment.globals["strftime_now"] = datetime.datetime.fromisoformat(DAY).strftime
    environment.globals |= {"date_string": "26 Nov 2026", "datetime": "Nov 26 2026", "functions": ""}
    return environment.from_string(re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", template))


def rendered(template: str, messages: list[dict[str, str]]) -> tuple[str, list[tuple[int, int, int]]] | None:
    try:
        found = render(template, messages, bos_token="<s>", eos_token="</s>", date=DAY)
    except TemplateFailed:
        return None
    return found["text"], [(index, start, end) for index, start, end in found["contents"]]


def template_text(found: tuple[str, list[tuple[int, int, int]]]) -> str:
    """What is the template's own, with a bar for each stretch of contents."""
    text, contents = found
    parts, at = [], 0
    for _, start, end in contents:
        parts.append(text[at:start])
        at = end
    return re.sub(r"\x00+", "\x00", "\x00".join([*parts, text[at:]]))


def drawn(rng: random.Random, words: list[str]) -> str:
    """A content: prose, white space, thinking, switches, control words whole and in halves."""
    pieces = [
        *rng.choices(words, k=3),
        rng.choice(words)[: rng.randint(1, 4)],
        rng.choice(["<think>so</think>", "</think>", "\n\n", "  ", "\t", "/no_think", "/think", "Straße ΣΣ", "İ", "%"]),
        rng.choice(["Check the fan.", "a\nb\n  c", "x", ""]),
        "\u2028\x85",
    ]
    rng.shuffle(pieces)
    return "".join(pieces)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_what_plain_jinja_makes_of_it(name: str) -> None:
    template, rng = TEMPLATES[name], random.Random(name)
    for roles in SHAPES * 2:
        messages = conversation(roles, [drawn(rng, ["word", "and", "node 7"]) for _ in roles])
        hostile = conversation(roles, [drawn(rng, words_of(template)) for _ in roles])
        for one in (messages, hostile):
            found = rendered(template, one)
            try:
                wanted = plain_jinja(template).render(
                    messages=one, add_generation_prompt=True, bos_token="<s>", eos_token="</s>", tools=None
                )
            except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError):
                continue
            assert found is not None, "plain Jinja renders it"
            assert found[0] == wanted


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_words_of_a_content_are_never_the_templates(name: str) -> None:
    template = TEMPLATES[name]
    num_rendered = 0
    for word in words_of(template):
        said = f"{CANARY}a{CANARY}{word}{CANARY}b{CANARY}"
        for roles in reversed(SHAPES):
            says = {"assistant": f"{CANARY}<think>{said}</think>{said}"}
            messages = conversation(roles, [says.get(role, said) for role in roles])
            if (found := rendered(template, messages)) is None:
                continue
            num_rendered += 1
            own = template_text(found)
            assert CANARY not in own
            if word not in ("<think>", "</think>"):
                harmless = [one | {"content": one["content"].replace(word, "word")} for one in messages]
                calm = rendered(template, harmless)
                assert calm is not None
                assert own.count(word) == template_text(calm).count(word)
            break
    assert num_rendered


@pytest.mark.skipif(not OTHERS, reason=f"no templates of llama.cpp's source in {FOLDER}: see TP_TEMPLATES")
def test_the_templates_of_others_are_all_tried() -> None:
    assert len(OTHERS) >= 60
