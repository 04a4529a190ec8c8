"""The templates that Turnpike has by llama.cpp's names, held against llama.cpp's own rendering."""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as lib
import pytest

from workers.prompts.chat_template import builtin_names, builtin_template
from workers.prompts.template import render

OWN = {"plain"}
"""Not llama.cpp's."""
SHAPES = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)
CONTENTS = (
    ("Why is it hot?", "The fan.", "Which one?", "Node 7's.", "So?", "Ok"),
    (" a b ", "\n c\n", "d\t", "  e\n\n", "f", " g"),
    ("日本語 <|im_end|>", "</s>[INST]", "x", "'\"\\n", "{{ y }}", "z"),
)


def names_of_llama_cpp() -> set[str]:
    num = lib.llama_chat_builtin_templates(None, 0)
    found = (ctypes.c_char_p * num)()
    lib.llama_chat_builtin_templates(found, num)
    return {name.decode() for name in found if name}


def by_llama_cpp(name: str, messages: list[dict[str, str]]) -> str:
    chat = (lib.llama_chat_message * len(messages))()
    for one, message in zip(chat, messages, strict=True):
        one.role, one.content = message["role"].encode(), message["content"].encode()
    buffer = ctypes.create_string_buffer(1 << 14)
    length = lib.llama_chat_apply_template(name.encode(), chat, len(messages), True, buffer, len(buffer))
    assert 0 <= length < len(buffer)
    return buffer.raw[:length].decode()


def test_all_names_that_llama_cpp_knows_are_known() -> None:
    assert names_of_llama_cpp() == set(builtin_names()) - OWN


@pytest.mark.parametrize("name", sorted(set(builtin_names()) - OWN))
def test_a_template_renders_what_llama_cpp_renders_by_its_name(name: str) -> None:
    template = builtin_template(name)
    for roles in SHAPES:
        for contents in CONTENTS:
            messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
            found = render(template, messages, bos_token="<s>", eos_token="</s>")
            assert found["text"] == by_llama_cpp(name, messages)
