"""Answers as the objects of the OpenAI API, chats' and completions': whole, and the chunks of a stream. Pure."""

from __future__ import annotations

import codecs
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from broker.messages import Chunk, Done, TokenLogprob, Usage
from producers.gateway.dialect import Finished
from producers.gateway.logprobs import logprob_of
from producers.gateway.openai.tools import tool_call_deltas, tool_calls
from producers.gateway.timings import Course, progress_of, timings

BEGINNING = {"role": "assistant", "content": None, "refusal": None}
"""Of a stream's answer."""


def usage_of(usages: Sequence[Usage], of_prompts: Sequence[Usage]) -> dict[str, Any]:
    """The tokens of all answers, and of each prompt once: those from the cache are among the prompt's, those of
    thoughts and of right guesses among the completion's."""

    def total(name: str, of: Sequence[Usage] = usages) -> int:
        return sum(getattr(usage, name) for usage in of)

    prompt_tokens, completion_tokens = total("prompt_tokens", of_prompts), total("completion_tokens")
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": total("cached_tokens", of_prompts)},
        "completion_tokens_details": {
            "reasoning_tokens": total("reasoning_tokens"),
            "accepted_prediction_tokens": total("accepted_tokens"),
            "rejected_prediction_tokens": total("drafted_tokens") - total("accepted_tokens"),
        },
    }


def finish_reason_of(done: Done) -> str:
    """As the API has them: a turn that was stopped has come to its end."""
    return done.finish_reason if done.finish_reason in ("length", "tool_calls") else "stop"


class Offsets:
    """Where in an answer's text its tokens begin, as they come."""

    def __init__(self) -> None:
        self._attempt = 0
        self.go_on_at(0)

    def go_on_at(self, num_characters: int) -> None:
        """What comes next stands behind so many characters of the text."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_characters = num_characters

    def follow(self, attempt: int) -> None:
        """What comes next is of that attempt; a higher one begins anew."""
        if attempt > self._attempt:
            self._attempt = attempt
            self.go_on_at(0)

    def of(self, piece: bytes) -> int:
        """Where in the text a token begins; one that is a part of a character, where that character stands.

        The first byte tells: it may go on with a character, or end one that never became whole, which is U+FFFD."""
        self._num_characters += len(self._decoder.decode(piece[:1]))
        is_unfinished = bool(self._decoder.getstate()[0]) or not piece
        offset = self._num_characters - (0 if is_unfinished else 1)
        self._num_characters += len(self._decoder.decode(piece[1:]))
        return offset


@dataclass
class AnswerObjects:
    """The objects of a request's answers, chats or completions, as they become JSON: each is a choice, by its index,
    of what has one id."""

    id: str
    model: str
    is_chat: bool
    is_silent: bool = False
    """Whether nothing was to be generated: what was is not told."""
    num_answers: int = 1
    """Of each prompt: it is computed once for all of them, and counted once."""
    has_timings: bool = False
    """Told with each event of a stream; at its end, and with whole answers, they are anyway."""
    fingerprint: str | None = None
    """Of the model file, once a worker has begun."""

    def __post_init__(self) -> None:
        self.created = int(time.time())
        self._offsets: defaultdict[int, Offsets] = defaultdict(Offsets)
        self._courses: defaultdict[int, Course] = defaultdict(Course)

    def goes_to(self, index: int, turn: str, model: str) -> None:
        """From now on the answer is that turn's, of that model; the first one's names all of them."""
        if index == 0:
            self.id, self.model = turn, model

    def begun_with(self, fingerprint: str) -> None:
        """A worker has begun; `fingerprint` names its model file, behind the letter by which llama-server's builds, and
        so those who look for one, begin."""
        self.fingerprint = f"b-{fingerprint}"

    def go_on_at(self, index: int, num_characters: int) -> None:
        """What comes next stands behind so many characters of the text."""
        self._offsets[index].go_on_at(num_characters)

    def _object(self, is_chunk: bool, choices: list[dict[str, Any]]) -> dict[str, Any]:
        name = ("chat.completion.chunk" if is_chunk else "chat.completion") if self.is_chat else "text_completion"
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        found = {"id": f"{prefix}-{self.id}", "object": name, "created": self.created, "model": self.model}
        return found | {"system_fingerprint": self.fingerprint, "choices": choices}

    def _logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not logprobs:
            return None
        if self.is_chat:
            return {"content": [logprob_of(one) for one in logprobs], "refusal": None}
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
            "text_offset": [self._offsets[index].of(one.piece) for one in logprobs],
        }

    def begin(self, index: int) -> dict[str, Any] | None:
        """The first event of a stream, which says whose words follow."""
        if not self.is_chat:
            return None
        return self._event(index, {"delta": BEGINNING}, None)

    def chunks(self, index: int, chunk: Chunk) -> list[dict[str, Any]]:
        """The next events of a stream: one for thoughts and text, and one for each call that grows, as there are
        readers who look at an event's first call alone, and then at no text. None for tokens that tell nothing yet."""
        progress = self._progress(index, chunk)
        if self.is_silent:
            return progress
        self._offsets[index].follow(chunk.attempt)
        return progress + [self._timed(index, one) for one in self._told(index, chunk)]

    def _progress(self, index: int, chunk: Chunk) -> list[dict[str, Any]]:
        """An event for each part of the prompt that was computed, where that was asked for."""
        course = self._courses[index]
        course.follow(chunk.attempt)
        events = []
        for one in chunk.progress:
            course.has_computed(one)
            event = self._event(index, {"delta": {}} if self.is_chat else {"text": ""}, None)
            events.append(self._timed(index, event) | {"prompt_progress": progress_of(one)})
        course.count(chunk)
        return events

    def _timed(self, index: int, event: dict[str, Any]) -> dict[str, Any]:
        return event | {"timings": self._courses[index].timings} if self.has_timings else event

    def _told(self, index: int, chunk: Chunk) -> list[dict[str, Any]]:
        logprobs = self._logprobs(index, chunk.logprobs)
        if not self.is_chat:
            has_more = chunk.text or logprobs is not None
            return [self._event(index, {"text": chunk.text}, logprobs)] if has_more else []
        said = {"reasoning_content": chunk.reasoning} if chunk.reasoning else {}
        if chunk.text or (logprobs is not None and not (said or chunk.calls)):
            said["content"] = chunk.text
        deltas: list[dict[str, Any]] = [said] if said or logprobs is not None else []
        deltas += [{"tool_calls": [one]} for one in tool_call_deltas(chunk.calls)]
        return [self._event(index, {"delta": one}, None if place else logprobs) for place, one in enumerate(deltas)]

    def _event(self, index: int, what: dict[str, Any], logprobs: dict[str, Any] | None) -> dict[str, Any]:
        return self._object(True, [{"index": index} | what | {"logprobs": logprobs, "finish_reason": None}])

    def end(self, index: int, done: Done) -> dict[str, Any]:
        """The event that says why it ended."""
        nothing: dict[str, Any] = {"delta": {}} if self.is_chat else {"text": ""}
        reason = "length" if self.is_silent else finish_reason_of(done)
        choice: dict[str, Any] = {"index": index} | nothing
        found = self._object(True, [choice | {"logprobs": None, "finish_reason": reason}])
        return found | {"timings": timings(done)}

    def usage(self, dones: Sequence[Done]) -> dict[str, Any]:
        """The event that tells the tokens."""
        return self._object(True, []) | {"usage": self._usage(dones), "timings": timings(dones[0])}

    def whole(self, answers: Sequence[Finished]) -> dict[str, Any]:
        """The answers in one object."""
        choices = [self._choice(index, one) for index, one in enumerate(answers)]
        dones = [one.done for one in answers]
        return self._object(False, choices) | {"usage": self._usage(dones), "timings": timings(dones[0])}

    def _usage(self, dones: Sequence[Done]) -> dict[str, Any]:
        usages = [done.usage for done in dones]
        if self.is_silent:
            usages = [msgspec.structs.replace(one, completion_tokens=0, reasoning_tokens=0) for one in usages]
        return usage_of(usages, usages[:: self.num_answers])

    def _choice(self, index: int, answer: Finished) -> dict[str, Any]:
        done = answer.done
        if self.is_silent:
            done = msgspec.structs.replace(done, text="", reasoning="", tool_calls=(), finish_reason="length")
            answer = Finished(done)
        choice: dict[str, Any] = {"index": index}
        message: dict[str, Any] = {"role": "assistant", "content": done.text, "refusal": None}
        if done.reasoning:
            message["reasoning_content"] = done.reasoning
        if done.tool_calls:
            message["tool_calls"] = tool_calls(done.tool_calls)
            message["content"] = done.text if done.text.strip() else None
        choice |= {"message": message} if self.is_chat else {"text": done.text}
        return choice | {"logprobs": self._logprobs(index, answer.logprobs), "finish_reason": finish_reason_of(done)}
