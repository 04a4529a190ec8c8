"""One answer in the words of Anthropic's API: content blocks, whole or in server-sent events. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from broker.messages import Chunk, Done, Failed, Started, ToolCall, Usage
from producers.gateway.anthropic.errors import error_body, error_of
from producers.gateway.dialect import Finished
from producers.gateway.errors import ApiError
from producers.gateway.parts import Closed, Event, Grown, Opened, Part, Parts, parts_of
from producers.gateway.rendering import PromptWriter


def usage_of(usage: Usage) -> dict[str, Any]:
    """The tokens: those from the cache are not among the input's, those of thoughts are among the output's."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def stop_reason_of(done: Done) -> str:
    """As the API has them: a turn that was stopped has come to its end."""
    if done.finish_reason == "stop" and done.stop is not None:
        return "stop_sequence"
    return {"length": "max_tokens", "tool_calls": "tool_use"}.get(done.finish_reason, "end_turn")


class Writer:
    """Tells one answer. Thoughts are signed with the turn's id, as there are clients that send back none without a
    signature; without `shows_thoughts` all that is told of them is that they were."""

    media_type = "text/event-stream"

    def __init__(self, turn: str, model: str, *, shows_thoughts: bool = True) -> None:
        self._turn = turn
        self._model = model
        self._shows_thoughts = shows_thoughts
        self._num_prompt_tokens = 0
        self._attempt = 0
        self._parts = Parts()
        self._kind: str | None = None
        """Of the block that is open."""
        self._blank = ""
        """What would begin a block of text with nothing but blanks: no client may send such a one back."""

    def goes_to(self, index: int, turn: str, model: str) -> None:
        """From now on the answer is that turn's, of that model."""
        self._turn, self._model = turn, model

    def begun_with(self, index: int, started: Started) -> None:
        """A worker has begun."""
        self._num_prompt_tokens = started.prompt_tokens

    def failure(self, failed: Failed) -> ApiError:
        """What a failed turn is to the API."""
        return error_of(failed)

    # --- Whole ---

    def whole(self, answers: Sequence[Finished]) -> dict[str, Any]:
        """The message."""
        done = answers[0].done
        blocks = [self._block(one, whole=True) for one in parts_of(done)]
        ending = {"stop_reason": stop_reason_of(done), "stop_sequence": done.stop}
        return self._message(blocks) | ending | {"usage": usage_of(done.usage)}

    def _message(self, blocks: list[dict[str, Any]]) -> dict[str, Any]:
        found = {"id": f"msg_{self._turn}", "type": "message", "role": "assistant", "model": self._model}
        return found | {"content": blocks, "stop_reason": None, "stop_sequence": None}

    def _block(self, part: Part, *, whole: bool) -> dict[str, Any]:
        """A block with all that it says, or with nothing yet."""
        text = part.text if whole else ""
        if part.kind == "thoughts":
            thinking = text if self._shows_thoughts else ""
            return {"type": "thinking", "thinking": thinking, "signature": self._turn if whole else ""}
        if part.kind == "text":
            return {"type": "text", "text": text}
        arguments = ToolCall(part.id, part.name, text).parsed or {}
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments}

    # --- Streamed ---

    def begin(self, index: int) -> bytes:
        """Whose words follow. What of the prompt was in a cache is known at the end."""
        usage = usage_of(Usage(self._num_prompt_tokens, 0, 0))
        return _event("message_start", message=self._message([]) | {"usage": usage}) + _event("ping")

    def piece(self, index: int, chunk: Chunk) -> bytes:
        """The next events."""
        found: list[Event] = []
        if chunk.attempt > self._attempt:
            self._attempt, self._blank = chunk.attempt, ""
            found += self._parts.end()
        found += self._parts.chunk(self._said(chunk))
        return b"".join(map(self._told, found))

    def _said(self, chunk: Chunk) -> Chunk:
        """The chunk without blanks before a text, which come with the text, if one comes."""
        if not chunk.reasoning and self._kind == "text":
            return chunk
        text = self._blank + chunk.text
        self._blank = "" if text.strip() or chunk.calls else text
        return msgspec.structs.replace(chunk, text=text if text.strip() else "")

    def _told(self, event: Event) -> bytes:
        part = event.part
        match event:
            case Opened():
                self._kind = part.kind
                return _event("content_block_start", index=part.index, content_block=self._block(part, whole=False))
            case Grown():
                return self._delta(part, event.text)
            case Closed():
                self._kind = None
                signed = b""
                if part.kind == "thoughts":
                    delta = {"type": "signature_delta", "signature": self._turn}
                    signed = _event("content_block_delta", index=part.index, delta=delta)
                return signed + _event("content_block_stop", index=part.index)

    def _delta(self, part: Part, text: str) -> bytes:
        if part.kind == "thoughts":
            if not self._shows_thoughts:
                return b""
            delta = {"type": "thinking_delta", "thinking": text}
        elif part.kind == "text":
            delta = {"type": "text_delta", "text": text}
        else:
            delta = {"type": "input_json_delta", "partial_json": text}
        return _event("content_block_delta", index=part.index, delta=delta)

    def go_on_at(self, index: int, num_characters: int) -> None:
        """Nothing here has a place in the text."""

    def end(self, index: int, done: Done) -> bytes:
        """The block's end, why the answer has ended, and all tokens."""
        found: list[Event] = []
        if self._blank and not done.tool_calls:
            found += self._parts.chunk(Chunk(0, self._attempt, self._blank))
        found += self._parts.end()
        delta = {"stop_reason": stop_reason_of(done), "stop_sequence": done.stop}
        ended = _event("message_delta", delta=delta, usage=usage_of(done.usage))
        return b"".join(map(self._told, found)) + ended

    def finish(self, dones: Sequence[Done], details: bytes = b"") -> bytes:
        """The details, and that nothing follows."""
        return details + _event("message_stop")

    def broken_off(self, error: ApiError) -> bytes:
        """The error as the last event."""
        return _named("error", error_body(error))

    def comment(self, text: str) -> bytes:
        """A line that event streams' readers skip."""
        return f": {text}\n\n".encode()


class CountWriter(PromptWriter):
    """Tells how many tokens a prompt has."""

    def __init__(self) -> None:
        super().__init__(lambda done: {"input_tokens": done.usage.prompt_tokens})

    def failure(self, failed: Failed) -> ApiError:
        """What a failed turn is to the API."""
        return error_of(failed)


def _event(kind: str, **fields: Any) -> bytes:
    return _named(kind, {"type": kind} | fields)


def _named(kind: str, value: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: ".encode() + msgspec.json.encode(value) + b"\n\n"
