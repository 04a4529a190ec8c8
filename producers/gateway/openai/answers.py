"""One answer in the OpenAI API's words, whole or in server-sent events. Pure."""

from __future__ import annotations

import codecs
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from broker.messages import Chunk, Done, Failed, TokenLogprob, Usage
from producers.gateway.errors import ApiError
from producers.gateway.openai.errors import error_body, error_of


def usage_of(usage: Usage) -> dict[str, Any]:
    """The tokens, those from the cache among the prompt's."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def finish_reason_of(done: Done) -> str:
    """The API has two: a turn that was stopped has come to its end."""
    return "length" if done.finish_reason == "length" else "stop"


def _chat_logprob(token_logprob: TokenLogprob) -> dict[str, Any]:
    def one(piece: bytes, logprob: float) -> dict[str, Any]:
        return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}

    top = zip(token_logprob.top, token_logprob.top_pieces, strict=False)
    return one(token_logprob.piece, token_logprob.logprob) | {
        "top_logprobs": [one(piece, logprob) for (_, logprob), piece in top]
    }


@dataclass
class AnswerObjects:
    """One answer's objects, chat or completion, as they become JSON."""

    id: str
    model: str
    is_chat: bool
    fingerprint: str | None = None
    """Of the model file, once a worker has begun."""

    def __post_init__(self) -> None:
        self.created = int(time.time())
        self._attempt = 0
        self.go_on_at(0)

    def goes_to(self, turn: str, model: str) -> None:
        """From now on the answer is that turn's, of that model."""
        self.id, self.model = turn, model

    def begun_with(self, fingerprint: str) -> None:
        """A worker has begun; `fingerprint` names its model file."""
        self.fingerprint = fingerprint

    def go_on_at(self, num_characters: int) -> None:
        """What comes next stands behind so many characters of the text."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_characters = num_characters

    def _object(self, is_chunk: bool, choices: list[dict[str, Any]]) -> dict[str, Any]:
        name = ("chat.completion.chunk" if is_chunk else "chat.completion") if self.is_chat else "text_completion"
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        found = {"id": f"{prefix}-{self.id}", "object": name, "created": self.created, "model": self.model}
        return found | {"system_fingerprint": self.fingerprint, "choices": choices}

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not logprobs:
            return None
        if self.is_chat:
            return {"content": [_chat_logprob(one) for one in logprobs], "refusal": None}
        return {
            "tokens": [one.piece.decode(errors="replace") for one in logprobs],
            "token_logprobs": [one.logprob for one in logprobs],
            "top_logprobs": [
                {
                    piece.decode(errors="replace"): logprob
                    for (_, logprob), piece in zip(one.top, one.top_pieces, strict=False)
                }
                for one in logprobs
            ],
            "text_offset": [self._offset(one.piece) for one in logprobs],
        }

    def _offset(self, piece: bytes) -> int:
        """Where in the text a token begins; one that is a part of a character, where that character stands.

        The first byte tells: it may go on with a character, or end one that never became whole, which is U+FFFD."""
        self._num_characters += len(self._decoder.decode(piece[:1]))
        is_unfinished = bool(self._decoder.getstate()[0]) or not piece
        offset = self._num_characters - (0 if is_unfinished else 1)
        self._num_characters += len(self._decoder.decode(piece[1:]))
        return offset

    def begin(self) -> dict[str, Any] | None:
        """The first event of a stream, which says whose words follow."""
        if not self.is_chat:
            return None
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._object(True, [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def chunk(self, chunk: Chunk) -> dict[str, Any]:
        """The next event of a stream."""
        if chunk.attempt > self._attempt:
            self._attempt = chunk.attempt
            self.go_on_at(0)
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"content": chunk.text}} if self.is_chat else {"text": chunk.text}
        return self._object(True, [choice | {"logprobs": self._logprobs(chunk.logprobs), "finish_reason": None}])

    def end(self, done: Done) -> dict[str, Any]:
        """The event that says why it ended."""
        nothing: dict[str, Any] = {"delta": {}} if self.is_chat else {"text": ""}
        choice: dict[str, Any] = {"index": 0} | nothing
        return self._object(True, [choice | {"logprobs": None, "finish_reason": finish_reason_of(done)}])

    def usage(self, done: Done) -> dict[str, Any]:
        """The event that tells the tokens."""
        return self._object(True, []) | {"usage": usage_of(done.usage)}

    def whole(self, done: Done, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The answer in one object."""
        choice: dict[str, Any] = {"index": 0}
        message = {"role": "assistant", "content": done.text, "refusal": None}
        choice |= {"message": message} if self.is_chat else {"text": done.text}
        choice |= {"logprobs": self._logprobs(logprobs), "finish_reason": finish_reason_of(done)}
        return self._object(False, [choice]) | {"usage": usage_of(done.usage)}


class Writer:
    """Tells one answer. With `has_usage` a stream's last event tells the tokens."""

    media_type = "text/event-stream"

    def __init__(self, turn: str, model: str, *, is_chat: bool, has_usage: bool = False) -> None:
        self._objects = AnswerObjects(turn, model, is_chat)
        self._has_usage = has_usage

    def goes_to(self, turn: str, model: str) -> None:
        """From now on the answer is that turn's, of that model."""
        self._objects.goes_to(turn, model)

    def begun_with(self, fingerprint: str) -> None:
        """A worker has begun; `fingerprint` names its model file."""
        self._objects.begun_with(fingerprint)

    def failure(self, failed: Failed) -> ApiError:
        """What a failed turn is to the API."""
        return error_of(failed)

    def whole(self, done: Done, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The answer in one object."""
        return self._objects.whole(done, logprobs)

    def begin(self) -> bytes:
        """Whose words follow; nothing in front of a completion's."""
        begin = self._objects.begin()
        return _event(begin) if begin is not None else b""

    def piece(self, chunk: Chunk) -> bytes:
        """The next event."""
        return _event(self._objects.chunk(chunk))

    def go_on_at(self, num_characters: int) -> None:
        """The next piece stands behind so many characters of the text."""
        self._objects.go_on_at(num_characters)

    def end(self, done: Done, details: bytes = b"") -> bytes:
        """Why it ended, the tokens where they are wanted, the details, and that nothing follows."""
        usage = _event(self._objects.usage(done)) if self._has_usage else b""
        return _event(self._objects.end(done)) + usage + details + b"data: [DONE]\n\n"

    def broken_off(self, error: ApiError) -> bytes:
        """The error as the last event."""
        return _event(error_body(error))

    def comment(self, text: str) -> bytes:
        """A line that event streams' readers skip."""
        return f": {text}\n\n".encode()


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
