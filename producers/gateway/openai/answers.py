"""One answer in the OpenAI API's words, whole or in pieces. Pure."""

from __future__ import annotations

import codecs
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from broker.messages import Chunk, Done, TokenLogprob, Usage


def usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def finish_reason_of(done: Done) -> str:
    return "length" if done.finish_reason == "length" else "stop"


def _chat_logprob(token_logprob: TokenLogprob) -> dict[str, Any]:
    def one(piece: bytes, logprob: float) -> dict[str, Any]:
        return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}

    top = zip(token_logprob.top, token_logprob.top_pieces, strict=False)
    return one(token_logprob.piece, token_logprob.logprob) | {
        "top_logprobs": [one(piece, logprob) for (_, logprob), piece in top]
    }


@dataclass
class Dialect:
    """Makes one answer's JSON, chat or completion."""

    id: str
    model: str
    is_chat: bool
    fingerprint: str | None = None
    """Of the model file, once a worker has begun."""

    def __post_init__(self) -> None:
        self.created = int(time.time())
        self._attempt = 0
        self.go_on_at(0)

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
        """Where in the text a token begins; one that is a part of a character, where that character stands."""
        offset = self._num_characters
        self._num_characters += len(self._decoder.decode(piece))
        return offset

    def begin(self) -> dict[str, Any] | None:
        """The first event of a stream, which says whose words follow."""
        if not self.is_chat:
            return None
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._object(True, [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def chunk(self, chunk: Chunk) -> dict[str, Any]:
        if chunk.attempt > self._attempt:
            self._attempt = chunk.attempt
            self.go_on_at(0)
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"content": chunk.text}} if self.is_chat else {"text": chunk.text}
        return self._object(True, [choice | {"logprobs": self._logprobs(chunk.logprobs), "finish_reason": None}])

    def end(self, done: Done) -> dict[str, Any]:
        nothing: dict[str, Any] = {"delta": {}} if self.is_chat else {"text": ""}
        choice: dict[str, Any] = {"index": 0} | nothing
        return self._object(True, [choice | {"logprobs": None, "finish_reason": finish_reason_of(done)}])

    def usage(self, done: Done) -> dict[str, Any]:
        return self._object(True, []) | {"usage": usage_of(done.usage)}

    def whole(self, done: Done, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0}
        message = {"role": "assistant", "content": done.text, "refusal": None}
        choice |= {"message": message} if self.is_chat else {"text": done.text}
        choice |= {"logprobs": self._logprobs(logprobs), "finish_reason": finish_reason_of(done)}
        return self._object(False, [choice]) | {"usage": usage_of(done.usage)}
