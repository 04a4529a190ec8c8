"""What an answer took, and how far it is, in llama-server's words. Pure but for the clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from broker.messages import Chunk, Done, Progress

NOTHING = Progress(0, 0, 0, 0.0)


def timings(done: Done) -> dict[str, Any]:
    """`timings` of an answer: without the tokens of its prompt that were found, and those of its first token, which
    comes with the prompt."""
    usage, times = done.usage, done.timings
    found = _timings(
        num_cached=usage.cached_tokens,
        num_computed=usage.prompt_tokens - usage.cached_tokens,
        prompt_seconds=times.prefill,
        num_predicted=usage.completion_tokens,
        predicted_seconds=times.decode,
    )
    if usage.drafted_tokens:
        found |= {"draft_n": usage.drafted_tokens, "draft_n_accepted": usage.accepted_tokens}
    return found


def progress_of(progress: Progress) -> dict[str, Any]:
    """`prompt_progress` of an event."""
    return {
        "total": progress.num_prompt,
        "cache": progress.num_cached,
        "processed": progress.num_computed,
        "time_ms": round(1e3 * progress.seconds),
    }


@dataclass
class Course:
    """An answer as far as it was streamed."""

    num_tokens: int = 0
    num_prompt: int = 0
    """Tokens of the prompt, once that is known."""
    progress: Progress = NOTHING
    """Of its prompt, where that is told."""
    _first_at: float | None = None
    _attempt: int = 0

    def follow(self, attempt: int) -> None:
        """What comes next is of that attempt; a higher one begins anew."""
        if attempt > self._attempt:
            self._attempt, self.num_tokens, self._first_at = attempt, 0, None

    def has_prompt(self, num_tokens: int) -> None:
        """A worker has begun, and knows how many tokens the prompt has."""
        self.num_prompt = num_tokens

    def has_computed(self, progress: Progress) -> None:
        """A part of the prompt is computed."""
        self.progress = progress

    def count(self, chunk: Chunk) -> None:
        """The chunk's tokens are told now."""
        self.num_tokens += len(chunk.tokens)
        if self._first_at is None and chunk.tokens:
            self._first_at = time.perf_counter()

    @property
    def timings(self) -> dict[str, Any]:
        """`timings` so far, by this gateway's clock; of the prompt what its progress tells."""
        return _timings(
            num_cached=self.progress.num_cached,
            num_computed=self.progress.num_computed - self.progress.num_cached,
            prompt_seconds=self.progress.seconds,
            num_predicted=self.num_tokens,
            predicted_seconds=time.perf_counter() - self._first_at if self._first_at is not None else 0.0,
        )


def _timings(
    *, num_cached: int, num_computed: int, prompt_seconds: float, num_predicted: int, predicted_seconds: float
) -> dict[str, Any]:
    num_steps = max(0, num_predicted - 1)
    return {
        "cache_n": num_cached,
        "prompt_n": num_computed,
        "prompt_ms": 1e3 * prompt_seconds,
        "prompt_per_token_ms": 1e3 * prompt_seconds / num_computed if num_computed else 0.0,
        "prompt_per_second": num_computed / prompt_seconds if prompt_seconds else 0.0,
        "predicted_n": num_predicted,
        "predicted_ms": 1e3 * predicted_seconds,
        "predicted_per_token_ms": 1e3 * predicted_seconds / num_steps if num_steps else 0.0,
        "predicted_per_second": num_steps / predicted_seconds if predicted_seconds else 0.0,
    }
