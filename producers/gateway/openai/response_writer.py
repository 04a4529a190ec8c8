"""A response whole, or as the events of its stream in their order. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from broker.conversations import answered
from broker.messages import Chunk, Done, Failed, Message, Progress, Started
from broker.messages.kept import Kept
from producers.gateway.dialect import Finished
from producers.gateway.errors import ApiError
from producers.gateway.failures import error_of
from producers.gateway.openai.response_objects import (
    ResponseObject,
    item,
    item_id,
    logprobs_of,
    status_of,
    text_part,
)
from producers.gateway.parts import Closed, Event, Grown, Opened, Part, Parts, parts_of
from producers.gateway.timings import Course, progress_of, timings

FIELDS = {"sampling.json_schema": "text.format.schema"}
"""Of a turn, by their names in a request."""


class ResponseWriter:
    """Tells one response, behind `messages`. With `has_timings` each piece of a stream tells them; with
    `is_llama_servers` its end is called as llama-server calls all of its own, and tells them, too."""

    media_type = "text/event-stream"

    def __init__(
        self,
        turn: str,
        model: str,
        told_back: Mapping[str, Any],
        messages: Sequence[Message],
        *,
        is_stored: bool,
        has_timings: bool = False,
        is_llama_servers: bool = False,
    ) -> None:
        self._has_timings = has_timings
        self._is_llama_servers = is_llama_servers
        self._course = Course()
        self._object = ResponseObject(turn, model, told_back)
        self._messages = tuple(messages)
        self.is_stored = is_stored
        """Whether it is to be kept; from its end on, whether it was."""
        self._parts = Parts()
        self._attempt = 0
        self._num_events = 0
        self._output: list[dict[str, Any]] | None = None
        """What was streamed."""

    @property
    def id(self) -> str:
        """By which it is asked for later."""
        return self._object.id

    def kept(self, finished: Finished) -> Kept:
        """What is stored of it."""
        done = finished.done
        messages = answered(self._messages, done.text, done.tool_calls)
        if done.reasoning and len(messages) > len(self._messages):
            messages = (*messages[:-1], msgspec.structs.replace(messages[-1], reasoning=done.reasoning))
        return Kept(messages, msgspec.json.encode(self._ended(finished)))

    def note_kept(self, was_kept: bool) -> None:
        """Whether it was."""
        self.is_stored = was_kept

    def goes_to(self, index: int, turn: str, model: str) -> None:
        """From now on the answer is that turn's, of that model."""
        self._object.goes_to(turn, model)

    def begun_with(self, index: int, started: Started) -> None:
        """The API tells nothing of it."""

    def failure(self, failed: Failed) -> ApiError:
        """What a failed turn is to the API."""
        return error_of(failed, FIELDS)

    def whole(self, answers: Sequence[Finished]) -> dict[str, Any]:
        """The response."""
        return self._ended(answers[0])

    def begin(self, index: int) -> bytes:
        """That it has begun."""
        self._output = []
        begun = self._object.begun()
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def piece(self, index: int, chunk: Chunk) -> bytes:
        """What a chunk adds to items; those of an answer that was begun anew are the only ones of the response."""
        told = b""
        if chunk.attempt > self._attempt:
            self._attempt = chunk.attempt
            told = self._events(self._parts.end(), "incomplete")
            self._output = []
        self._course.follow(chunk.attempt)
        told += b"".join(map(self._progress, chunk.progress))
        self._course.count(chunk)
        return told + self._events(self._parts.chunk(chunk))

    def _progress(self, progress: Progress) -> bytes:
        """How much of the prompt is computed, where that was asked for."""
        self._course.has_computed(progress)
        more = {"prompt_progress": progress_of(progress)} | self._timed
        return self._event("response.in_progress", response=self._object.begun(), **more)

    @property
    def _timed(self) -> dict[str, Any]:
        return {"timings": self._course.timings} if self._has_timings else {}

    def go_on_at(self, index: int, num_characters: int) -> None:
        """Events tell no places in the text."""

    def end(self, index: int, done: Done) -> bytes:
        """The end of the last item."""
        return self._events(self._parts.end(), "completed" if status_of(done) == "completed" else "incomplete")

    def finish(self, dones: Sequence[Done], details: bytes = b"") -> bytes:
        """The whole response again."""
        response = self._ended(Finished(dones[0]))
        if self._is_llama_servers:
            return details + self._event("response.completed", response=response, timings=timings(dones[0]))
        return details + self._event(_END_OF.get(response["status"], "response.completed"), response=response)

    def broken_off(self, error: ApiError) -> bytes:
        """That it has failed, and why."""
        return self._event("response.failed", response=self._object.failed(error))

    def comment(self, text: str) -> bytes:
        """A line that event streams' readers skip."""
        return f": {text}\n\n".encode()

    def _ended(self, finished: Finished) -> dict[str, Any]:
        output = self._output
        if output is None:
            parts = parts_of(finished.done, finished.logprobs)
            output = [item(self._object.turn, one, "completed") for one in parts]
            if output and status_of(finished.done) != "completed":
                output[-1]["status"] = "incomplete"
        return self._object.ended(finished.done, output, is_stored=self.is_stored)

    # --- Events ---

    def _event(self, kind: str, **fields: Any) -> bytes:
        value = {"type": kind, "sequence_number": self._num_events} | fields
        self._num_events += 1
        return f"event: {kind}\ndata: ".encode() + msgspec.json.encode(value) + b"\n\n"

    def _events(self, events: Iterable[Event], status: str = "completed") -> bytes:
        told: list[bytes] = []
        for event in events:
            match event:
                case Opened(part):
                    told.append(self._opened(part))
                case Grown(part, text, logprobs):
                    where = self._where(part)
                    if part.kind == "text":
                        where |= {"logprobs": logprobs_of(logprobs)}
                    told.append(self._event(f"{_NAMES[part.kind]}.delta", delta=text, **where, **self._timed))
                case Closed(part):
                    told.append(self._closed(part, status))
        return b"".join(told)

    def _where(self, part: Part) -> dict[str, Any]:
        found: dict[str, Any] = {"item_id": item_id(self._object.turn, part), "output_index": part.index}
        return found if part.kind == "call" else found | {"content_index": 0}

    def _opened(self, part: Part) -> bytes:
        begun = item(self._object.turn, part, "in_progress")
        told = self._event("response.output_item.added", output_index=part.index, item=begun)
        if part.kind == "call":
            return told
        return told + self._event("response.content_part.added", part=_content(part, ""), **self._where(part))

    def _closed(self, part: Part, status: str) -> bytes:
        assert self._output is not None
        where, name = self._where(part), _NAMES[part.kind]
        match part.kind:
            case "call":
                told = self._event(f"{name}.done", name=part.name, arguments=part.text, **where)
            case "text":
                told = self._event(f"{name}.done", text=part.text, logprobs=logprobs_of(part.logprobs), **where)
            case _:
                told = self._event(f"{name}.done", text=part.text, **where)
        if part.kind != "call":
            told += self._event("response.content_part.done", part=_content(part, part.text), **where)
        whole = item(self._object.turn, part, status)
        self._output.append(whole)
        return told + self._event("response.output_item.done", output_index=part.index, item=whole)


_NAMES = {
    "thoughts": "response.reasoning_text",
    "text": "response.output_text",
    "call": "response.function_call_arguments",
}


_END_OF = {"incomplete": "response.incomplete", "cancelled": "response.incomplete"}
"""The API has no event of its own for what was cancelled."""


def _content(part: Part, text: str) -> dict[str, Any]:
    if part.kind == "thoughts":
        return {"type": "reasoning_text", "text": text}
    return text_part(text, part.logprobs if text else ())
