"""Answers in llama-server's own shape, whole or in server-sent events. Pure."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from broker.messages import Chunk, Done, Failed, Started, TokenLogprob
from producers.gateway.dialect import Finished
from producers.gateway.errors import ApiError
from producers.gateway.failures import error_of
from producers.gateway.native.errors import FIELDS, error_body
from producers.gateway.native.probabilities import by_token, probability
from producers.gateway.rendering import spelled
from producers.gateway.timings import Course, progress_of, timings

EMPTY = Chunk(0, 0, "")
LONG = ("grammar", "json_schema", "logit_bias")
"""Of settings."""
NO_SLOT = -1
"""Which of a worker's slots has a turn is its own business, and changes."""


@dataclass(frozen=True)
class Asking:
    """What answers say of their request."""

    prompts: Sequence[str]
    settings: dict[str, Any]
    """`generation_settings` of the first answer."""
    num_answers: int = 1
    """Of each prompt."""
    has_tokens: bool = False
    """Told with each answer."""
    has_timings: bool = False
    """Told with each event."""
    fields: Sequence[str] = ()
    """The only ones that are wanted, where there are any: `a/b` is `b` of `a`."""
    is_list: bool = False
    """More than one answer: a list of them, where it is no stream."""

    def settings_of(self, index: int) -> dict[str, Any]:
        """Of one answer, with its own seed. What may be long the first one tells for all: of a hundred answers each
        would repeat a whole grammar."""
        told = self.settings | {"seed": self.settings["seed"] + index % self.num_answers}
        return told if index == 0 else {name: value for name, value in told.items() if name not in LONG}


class Writer:
    """Tells the answers to what was asked."""

    media_type = "text/event-stream"

    def __init__(self, model: str, asking: Asking, *, tells_prompts: bool = False) -> None:
        """With `tells_prompts` the answers are followed by their prompts."""
        self._model = model
        self._tells_prompts = tells_prompts
        self._asking = asking
        self._courses: defaultdict[int, Course] = defaultdict(Course)

    def goes_to(self, index: int, turn: str, model: str) -> None:
        """From now on the answer is that turn's, of that model."""
        self._model = model

    def begun_with(self, index: int, started: Started) -> None:
        """A worker has begun, and knows how many tokens the prompt has."""
        self._courses[index].has_prompt(started.prompt_tokens)

    def failure(self, failed: Failed) -> ApiError:
        """What a failed turn is to the API."""
        return error_of(failed, FIELDS)

    def whole(self, answers: Sequence[Finished]) -> Any:
        """The answer, or the list of them."""
        if self._tells_prompts:
            half = len(answers) // 2
            prompts = [spelled(one.done) for one in answers[half:]]
            self._asking, answers = dataclasses.replace(self._asking, prompts=prompts), answers[:half]
        found = [self._final(index, one.done, one.done.text, one.logprobs) for index, one in enumerate(answers)]
        return found if self._asking.is_list else found[0]

    def begin(self, index: int) -> bytes:
        """Nothing comes before the first piece."""
        return b""

    def piece(self, index: int, chunk: Chunk) -> bytes:
        """The next event; one for each token where their probabilities are told."""
        if self._asking.settings["n_predict"] == 0:
            return b""
        self._courses[index].follow(chunk.attempt)
        told = b"".join(map(_event, self._progress(index, chunk)))
        return told + b"".join(_event(self._partial(index, one)) for one in by_token(chunk) if one.text or one.tokens)

    def go_on_at(self, index: int, num_characters: int) -> None:
        """Pieces say nothing of where they stand."""

    def end(self, index: int, done: Done) -> bytes:
        """The last event of an answer, with all but its text."""
        return _event(self._final(index, done, "", ()))

    def finish(self, dones: Sequence[Done], details: bytes = b"") -> bytes:
        """Nothing follows, and no mark says so."""
        return details

    def broken_off(self, error: ApiError) -> bytes:
        """The error as the last event."""
        return _event(error_body(error))

    def comment(self, text: str) -> bytes:
        """A line that event streams' readers skip."""
        return f": {text}\n\n".encode()

    def _progress(self, index: int, chunk: Chunk) -> Iterator[dict[str, Any]]:
        """An event for each part of the prompt that was computed, where that was asked for."""
        for one in chunk.progress:
            self._courses[index].has_computed(one)
            yield self._partial(index, EMPTY) | {"prompt_progress": progress_of(one)}

    def _partial(self, index: int, chunk: Chunk) -> dict[str, Any]:
        course = self._courses[index]
        course.count(chunk)
        found: dict[str, Any] = {
            "index": index,
            "content": chunk.text,
            "tokens": [*chunk.tokens],
            "stop": False,
            "id_slot": NO_SLOT,
            "tokens_predicted": course.num_tokens,
            "tokens_evaluated": course.num_prompt,
        }
        if self._asking.has_timings:
            found["timings"] = course.timings
        if chunk.logprobs:
            found["completion_probabilities"] = [probability(one) for one in chunk.logprobs]
        return found

    def _final(self, index: int, done: Done, text: str, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        limit = self._asking.settings["n_predict"]
        if limit == 0:  # the prompt was to be computed, and what followed it is not told
            done, text = _silent(done), ""
        usage = done.usage
        is_at_limit = done.finish_reason == "length"
        found: dict[str, Any] = {
            "index": index,
            "content": text,
            "tokens": [*done.tokens] if self._asking.has_tokens else [],
            "id_slot": NO_SLOT,
            "stop": True,
            "model": self._model,
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "generation_settings": self._asking.settings_of(index),
            "prompt": self._asking.prompts[index],
            "has_new_line": "\n" in done.text,
            "truncated": is_at_limit and not 0 <= limit <= usage.completion_tokens,
            "stop_type": stop_type(done),
            "stopping_word": stopping_word(done),
            "tokens_cached": usage.prompt_tokens + max(0, usage.completion_tokens - 1),
            "timings": timings(done),
        }
        if logprobs:
            found["completion_probabilities"] = [probability(one) for one in logprobs]
        return {name: _nested(found, name) for name in self._asking.fields if _has(found, name)} or found


def _silent(done: Done) -> Done:
    usage = replace(done.usage, completion_tokens=0)
    return replace(done, text="", tokens=(), usage=usage, finish_reason="length", stop=None)


def stopping_word(done: Done) -> str:
    """The text that ended it, "" where none did."""
    return done.stop or ""


def stop_type(done: Done) -> str:
    """Why it ended."""
    match done.finish_reason:
        case "length":
            return "limit"
        case "stop" | "tool_calls":
            return "word" if stopping_word(done) else "eos"
    return "none"


def _has(found: dict[str, Any], path: str) -> bool:
    try:
        _nested(found, path)
    except (KeyError, TypeError):
        return False
    return True


def _nested(found: dict[str, Any], path: str) -> Any:
    value: Any = found
    for name in path.split("/"):
        value = value[name]
    return value


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
