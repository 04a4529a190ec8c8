"""A conversation as its last answer has left it: what was said, and the tokens that it was computed with. Pure."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from broker.messages import Message, Turn, Written
from workers.kv.index import TOKEN_BYTES
from workers.prompts.besides import given_besides, plain
from workers.prompts.rendered import Rendered

BLOCK_BYTES = 1024


def block_size(num_bytes: int) -> int:
    """At least so many bytes: a power of two of BLOCK_BYTES, or one and a half."""
    size = BLOCK_BYTES
    while size < num_bytes:
        size *= 2
    return size // 4 * 3 if size // 4 * 3 >= max(num_bytes, BLOCK_BYTES) else size


class Told(Struct, frozen=True):
    """How a conversation stood when its last answer was over."""

    messages: tuple[Message, ...]
    prompt_text: str
    given_besides: str = ""
    """What its template was given besides the messages."""
    num_told_anew: int = 0
    written: Written | None = None
    """The last answer, where it is more than its text."""


@dataclass(frozen=True)
class Known:
    """A conversation in one block of memory, of one of few sizes: blocks of all lengths leave holes when they go that
    nothing fits into, and a worker's heap grew by those for hours."""

    block: bytes
    num_text_bytes: int
    num_tokens: int
    num_messages: int
    conversation: str
    num_kept: int
    """Tokens in the block."""

    @classmethod
    def of(cls, told: Told, numbers: bytes, conversation: str) -> Known:
        """Of a conversation that is named so now, and its packed tokens."""
        text = msgspec.json.encode(told)
        size = len(text) + len(numbers)
        block = b"".join((text, numbers, bytes(block_size(size) - size)))
        num_tokens = len(numbers) // TOKEN_BYTES
        num_written = len(told.written.tokens) // TOKEN_BYTES if told.written is not None else 0
        return cls(block, len(text), num_tokens, len(told.messages), conversation, num_tokens + num_written)

    @property
    def told(self) -> Told:
        """What was said, unpacked anew each time."""
        return msgspec.json.decode(self.block[: self.num_text_bytes], type=Told)

    @property
    def packed_tokens(self) -> bytes:
        """Of prompt and answer, four bytes each."""
        return self.block[self.num_text_bytes : self.num_text_bytes + self.num_tokens * TOKEN_BYTES]

    @property
    def tokens(self) -> list[int]:
        """Of prompt and answer."""
        return array("i", self.packed_tokens).tolist()

    def as_written(self, told: Told, rendered: Rendered) -> tuple[list[int], int] | None:
        """The tokens of prompt and answer as the model wrote it, and the length of their text; None where the template
        does not write the very same, or somebody else says a part of it."""
        written, answer = told.written, len(told.messages) - 1
        if written is None:
            return None
        text = told.prompt_text + written.text
        if not rendered.text.startswith(text):
            return None
        if any(index > answer and begin < len(text) for index, begin, _ in rendered.contents):
            return None
        return [*self.tokens[: written.num_before], *array("i", written.tokens)], len(text)

    def as_said(self, told: Told, rendered: Rendered) -> tuple[list[int], int] | None:
        """The tokens of prompt and answer as it was sent, and the length of their text; None where the template tells
        history otherwise than it was told at the time."""
        answer = len(told.messages) - 1
        said, begin = told.messages[answer].content, len(told.prompt_text)
        end = begin + len(said)
        has_place = not said or (answer, begin, end) in rendered.contents
        if not has_place or not rendered.text.startswith(told.prompt_text + said):
            return None
        return self.tokens, end


def goes_on(turn: Turn, told: Told) -> bool:
    """Whether the turn's prompt begins as that one did, by what both were made of."""
    if given_besides(turn) != told.given_besides:
        return False
    return [*map(plain, turn.messages[: len(told.messages)])] == [*map(plain, told.messages)]
