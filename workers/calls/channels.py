"""Answers that are messages with recipients: GPT-OSS's channels, and Muse's."""

from __future__ import annotations

import re
from dataclasses import dataclass

from workers.calls.calls import Answer, BrokenCall
from workers.calls.json_text import arguments
from workers.calls.reader import Reader, Steps, ignore, marks
from workers.calls.tagged_calls import Tags

_RECIPIENT = re.compile(r"(?:^|\s|>)to=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_HEADER = marks("<|channel|>", "<|start|>", "<|message|>", "to=")


@dataclass(frozen=True)
class Channels:
    """Messages: a header, `<|message|>`, and what is said, up to one of `ends`."""

    ends: tuple[str, ...]
    readers: tuple[str, ...]
    """Recipients that are no tools: who reads the answer."""
    tags: Tags | None = None
    """How a call is written; None: as the JSON of its arguments, and the recipient is its name."""

    def __call__(self, reader: Reader, answer: Answer, mark: str) -> Steps:
        """See Read."""
        while True:
            yield from reader.space()
            if mark or (yield from reader.sees(_HEADER)):
                yield from self._message(reader, answer, mark)
            else:
                yield from reader.until(marks(*self.ends), answer.text)
            if reader.ended and reader.is_empty:
                return ""
            mark = ""
            answer.section(mark)

    def _message(self, reader: Reader, answer: Answer, mark: str) -> Steps:
        parts = [mark]
        if not (yield from reader.until(marks("<|message|>"), parts.append)):
            is_call = _RECIPIENT.search("".join(parts)) is not None
            raise BrokenCall("cut_off" if is_call else None)
        header = "".join(parts)
        recipients, channels = _RECIPIENT.findall(header), _CHANNEL.findall(header)
        recipient = recipients[-1] if recipients else ""
        if recipient == "self" or (recipient in ("", *self.readers) and channels and channels[-1] == "analysis"):
            answer.turn(thinking=True)
            yield from reader.until(marks(*self.ends), answer.thought)
            answer.turn(thinking=False)
            return recipient
        if recipient in ("", *self.readers):
            return (yield from reader.until(marks(*self.ends), answer.text))
        if self.tags is not None:
            yield from self._tagged(reader, answer, self.tags)
        else:
            call = answer.begin(recipient.removeprefix("functions."))
            if call.index is None:
                yield from reader.until(marks(*self.ends), ignore)
                call.end()
                return recipient
            yield from arguments(reader, call.arguments)
            call.end()
        return (yield from reader.until(marks(*self.ends), ignore))

    def _tagged(self, reader: Reader, answer: Answer, tags: Tags) -> Steps:
        yield from reader.space()
        mark = yield from reader.take(marks("<atem:function_calls>"))
        if not mark:
            raise BrokenCall("invalid_syntax")
        return (yield from tags(reader, answer, mark))
