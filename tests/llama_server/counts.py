"""How many tokens the suite's prompts are of the model that is there: its numbers are those of stories260K.

They are counted by llama.cpp itself, with nothing of ours between, so that what the gateway tells is held to them.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import llama_cpp

from tests.llama_server.standin import stories

CONTEXT = 256
"""A slot's, in the tests that fill one."""
HI = "Hi how are you"


@functools.cache
def _model() -> llama_cpp.Llama:
    return llama_cpp.Llama(str(stories()), vocab_only=True, verbose=False)


def num_tokens(prompt: str) -> int:
    """Of a prompt as it stands."""
    return len(_model().tokenize(prompt.encode(), add_bos=True, special=True))


def num_chat_tokens(system: str, user: Any, template: str | None) -> int:
    """Of a chat of two messages, by llama.cpp's own ChatML; a template that is none of its own stands for itself."""
    if template not in (None, "chatml"):
        return num_tokens(template)
    text = user if isinstance(user, str) else "\n".join(one["text"] for one in user)
    messages = (llama_cpp.llama_chat_message * 2)()
    for message, role, content in zip(messages, ("system", "user"), (system, text), strict=True):
        message.role, message.content = role.encode(), content.encode()
    buffer = ctypes.create_string_buffer(65536)
    size = llama_cpp.llama_chat_apply_template(b"chatml", messages, 2, True, buffer, len(buffer))
    return num_tokens(buffer.raw[:size].decode())


COUNTED: dict[str, tuple[str, Callable[[dict[str, Any]], int]]] = {
    "test_completion": ("n_prompt", lambda given: num_tokens(given["prompt"])),
    "test_completion_stream": ("n_prompt", lambda given: num_tokens(given["prompt"])),
    "test_chat_completion": (
        "n_prompt",
        lambda given: num_chat_tokens(given["system_prompt"], given["user_prompt"], given["chat_template"]),
    ),
    "test_chat_completion_stream": (
        "n_prompt",
        lambda given: num_chat_tokens(given["system_prompt"], given["user_prompt"], None),
    ),
    "test_ctx_shift_disabled_short_prompt": (
        "n_token_output",
        lambda given: CONTEXT - num_tokens(HI) if given["n_predict"] < 0 else given["n_token_output"],
    ),
}
"""Test → which of its parameters is a number of tokens, and what that is here."""


def recount(test: str, params: dict[str, Any]) -> None:
    """Puts the numbers of this model in the place of the other one's."""
    if test in COUNTED:
        name, count = COUNTED[test]
        params[name] = count(params)
