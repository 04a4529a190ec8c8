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
from producers.gateway.openai.tools import tool_call_deltas, tool_calls


def usage_of(usage: Usage) -> dict[str, Any]:
    """The tokens: those from the cache are among the prompt's, those of thoughts and of right guesses among the
    completion's."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "accepted_prediction_tokens": usage.accepted_tokens,
            "rejected_prediction_tokens": usage.drafted_tokens - usage.accepted_tokens,
        },
    }


def finish_reason_of(done: Done) -> str:
    """As the API has them: a turn that was stopped has come to its end."""
    return done.finish_reason if done.finish_reason in ("length", "tool_calls") else "stop"


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

    def chunks(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The next events of a stream: one for thoughts and text, and one for each call that grows, as there are
        readers who look at an event's first call alone, and then at no text. None for tokens that tell nothing yet."""
        if chunk.attempt > self._attempt:
            self._attempt = chunk.attempt
            self.go_on_at(0)
        logprobs = self._logprobs(chunk.logprobs)
        if not self.is_chat:
            return [self._event({"text": chunk.text}, logprobs)] if chunk.text or logprobs is not None else []
        said = {"reasoning_content": chunk.reasoning} if chunk.reasoning else {}
        if chunk.text or (logprobs is not None and not (said or chunk.calls)):
            said["content"] = chunk.text
        deltas: list[dict[str, Any]] = [said] if said or logprobs is not None else []
        deltas += [{"tool_calls": [one]} for one in tool_call_deltas(chunk.calls)]
        return [self._event({"delta": one}, None if index else logprobs) for index, one in enumerate(deltas)]

    def _event(self, what: dict[str, Any], logprobs: dict[str, Any] | None) -> dict[str, Any]:
        choice = {"index": 0} | what | {"logprobs": logprobs, "finish_reason": None}
        return self._object(True, [choice])

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
        message: dict[str, Any] = {"role": "assistant", "content": done.text, "refusal": None}
        if done.reasoning:
            message["reasoning_content"] = done.reasoning
        if done.tool_calls:
            message["tool_calls"] = tool_calls(done.tool_calls)
            message["content"] = done.text if done.text.strip() else None
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
        """The next events."""
        return b"".join(map(_event, self._objects.chunks(chunk)))

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
