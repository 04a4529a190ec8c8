"""System messages of templates that have no such role, or take only one, or drop them without a word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.errors import TurnRejected
from broker.messages import Message, Role
from workers.prompts.renderer import TemplateRenderer
from workers.prompts.system_role import SystemRole, merged, system_role
from workers.prompts.template import TemplateFailed, render

FOLDER = Path(os.environ.get("TP_TEMPLATES", ".cache/llama-templates"))
OTHERS = sorted(FOLDER.glob("*.jinja"))
BODY = "{{ m.role }}: {{ m.content }}\n{% endfor %}"
TEMPLATES: dict[str, tuple[str, SystemRole]] = {
    "takes all": ("{% for m in messages %}" + BODY, "anywhere"),
    "refuses the role": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no such role') }}{% endif %}" + BODY,
        "nowhere",
    ),
    "drops the role": ("{% for m in messages if m.role != 'system' %}" + BODY, "nowhere"),
    "wants roles to alternate": (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('x') }}"
        "{% endif %}" + BODY,
        "nowhere",
    ),
    "takes the first": (
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('only first') }}"
        "{% endif %}" + BODY,
        "first",
    ),
    "drops all but the first": (
        "{% for m in messages %}{% if m.role != 'system' or loop.first %}{{ m.role }}: {{ m.content }}\n{% endif %}"
        "{% endfor %}",
        "first",
    ),
    "tells the last of them": (
        "{% set ns = namespace(s='') %}{% for m in messages if m.role == 'system' %}{% set ns.s = m.content %}"
        "{% endfor %}{{ ns.s }}\n{% for m in messages if m.role != 'system' %}" + BODY,
        "first",
    ),
}
CONVERSATIONS: tuple[tuple[Role, ...], ...] = (
    ("system", "user"),
    ("system", "system", "user"),
    ("user", "assistant", "system", "user"),
    ("system", "user", "assistant", "user", "assistant", "system", "user"),
    ("system", "user", "assistant", "system", "system", "user"),
)


def conversation(roles: tuple[Role, ...]) -> tuple[Message, ...]:
    return tuple(Message(role, f"S{index}.") for index, role in enumerate(roles))


async def started(template: str) -> TemplateRenderer:
    renderer = TemplateRenderer(template, bos_token="<s>", eos_token="</s>")
    await renderer.start()
    return renderer


@pytest.mark.parametrize("name", TEMPLATES)
async def test_no_system_message_is_refused_or_lost(name: str) -> None:
    template, where = TEMPLATES[name]
    renderer = await started(template)
    try:
        assert renderer.system_role == where
        for roles in CONVERSATIONS:
            found = await renderer.render(conversation(roles))
            assert [index for index, _, _ in found.contents] == list(range(len(roles)))
            assert [found.text[start:end] for _, start, end in found.contents] == [f"S{n}." for n in range(len(roles))]
    finally:
        await renderer.close()


async def test_a_system_message_is_put_before_the_users_first_as_llama_cpp_does() -> None:
    renderer = await started(TEMPLATES["refuses the role"][0])
    messages = (Message("system", "Be brief."), Message("user", "Hello."), Message("assistant", " ok "))
    try:
        found = await renderer.render((*messages, Message("user", "So?")), exact=(2,))
    finally:
        await renderer.close()
    assert found.text == "user: Be brief.\nHello.\nassistant:  ok \nuser: So?\n"
    assert found.contents == [(0, 6, 15), (1, 16, 22), (2, 34, 38), (3, 45, 48)]


def test_what_stands_between_the_two_is_the_templates_and_the_rest_is_not() -> None:
    said = [{"role": "system", "content": "<|im_"}, {"role": "user", "content": "end|>"}]
    found = render("{{ messages[0].content }}", said, bos_token="", eos_token="", system_role="nowhere")
    assert found == {"text": "<|im_\nend|>", "contents": [[0, 0, 5], [1, 6, 11]]}


def test_messages_that_are_taken_stay_as_they_are() -> None:
    said = [{"role": role, "content": role} for role in ("system", "user", "system", "user")]
    assert merged(said, "anywhere") is said
    assert merged(said, "first")[0] == said[0]


def test_what_no_message_of_the_users_follows_is_one_by_itself() -> None:
    said = [{"role": role, "content": role} for role in ("user", "assistant", "system")]
    assert merged(said, "nowhere")[1:] == [said[1], {"role": "user", "content": "system"}]


@pytest.mark.skipif(not OTHERS, reason=f"no templates of llama.cpp's source in {FOLDER}: see TP_TEMPLATES")
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
async def test_every_template_of_others_is_told_all_system_messages(path: Path) -> None:
    template = path.read_text()

    def text_of(messages: tuple[Message, ...], where: SystemRole) -> str:
        said = [{"role": one.role, "content": one.content} for one in messages]
        return str(
            render(template, said, bos_token="<s>", eos_token="</s>", system_role=where, date="2026-11-26")["text"]
        )

    async def told(messages: tuple[Message, ...]) -> set[int]:
        said = [{"role": one.role, "content": one.content} for one in messages]
        try:
            found = render(template, said, bos_token="<s>", eos_token="</s>", date="2026-11-26")
        except TemplateFailed as error:
            raise TurnRejected("invalid_template", str(error)) from None
        return {index for index, _, _ in found["contents"]}

    where = await system_role(told)
    for roles in CONVERSATIONS:
        text = text_of(conversation(roles), where)
        assert [f"S{n}." for n in range(len(roles)) if f"S{n}." not in text] == []
