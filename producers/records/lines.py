"""The lines of a run's record: a header with all that it takes to repeat the run, then one line a turn.

Seconds are since the run's start, by the monotonic clock of the process that wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from broker import formulas
from broker.messages import End, Failed
from broker.priorities import DEFAULT_PRIORITY

VERSION = 1


class Header(Struct, frozen=True, tag_field="kind", tag="header"):
    """What a run was. `settings` are the load generator's, by name."""

    version: int
    run: str
    started_at: int
    """Nanoseconds since the epoch, by the producer's clock."""
    settings: dict[str, Any]
    dataset: dict[str, Any]
    """Where the conversations are from, which of them, by which rule; the SHA-256 of the file."""
    producer: dict[str, str]
    """Versions and machine of the load generator."""
    workers: list[dict[str, Any]]
    """What each worker said of itself when the run began: model, build, CPU, settings."""
    part: int = 0
    num_parts: int = 1


class TurnRecord(Struct, frozen=True, tag_field="kind", tag="turn", omit_defaults=True):
    """One turn. `arrivals` are (seconds, how many tokens came then)."""

    number: int
    """Of the arrival in an open loop, of the turn in a closed one; the same in every part of a run."""
    conversation: int
    """Its number in the run."""
    index: int
    """Of the turn in its conversation, from 0."""
    turn: str
    model: str
    sent_at: float
    ended_at: float
    outcome: str
    """stop, tool_calls, length, cancelled, or the code of a failure."""
    priority: str = DEFAULT_PRIORITY
    dataset_id: str = ""
    scheduled_at: float | None = None
    arrivals: tuple[tuple[float, int], ...] = ()
    worker: str | None = None
    node: str | None = None
    is_failed: bool = False
    detail: str = ""
    attempt: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_wait_seconds: float | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    level: float | None = None
    """A sweep's rate, in turns per second."""
    round: int = 0
    """Since the user's message; a turn of round 1 or later brings results of tools."""
    num_calls: int = 0
    """Of tools, in the answer."""
    num_broken_calls: int = 0
    """That came as text."""
    reasoning_tokens: int = 0
    """Of the completion's, those of the thoughts."""

    @property
    def first_token_at(self) -> float | None:
        """Seconds since the run's start; None where no token came."""
        return self.arrivals[0][0] if self.arrivals else None

    @property
    def ttft_seconds(self) -> float | None:
        """Time to first token, from the send; None where no token came."""
        first = self.first_token_at
        return None if first is None else formulas.ttft(self.sent_at, first)

    @property
    def scheduled_ttft_seconds(self) -> float | None:
        """From when it should have been sent: an open loop that falls behind would flatter itself otherwise."""
        first = self.first_token_at
        return None if first is None or self.scheduled_at is None else formulas.ttft(self.scheduled_at, first)

    @property
    def num_tokens(self) -> int:
        """Those that came."""
        return sum(count for _, count in self.arrivals)

    @property
    def tpot_seconds(self) -> float | None:
        """Time per output token after the first; None with fewer than two."""
        if not self.arrivals:
            return None
        return formulas.tpot(self.arrivals[0][0], self.arrivals[-1][0], self.num_tokens)

    @property
    def latency_seconds(self) -> float:
        """From the send to the end."""
        return self.ended_at - self.sent_at

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """As the worker measured it; None where it computed none of the prompt."""
        if self.prefill_seconds is None:
            return None
        return formulas.prefill_rate(self.prompt_tokens, self.cached_tokens, self.prefill_seconds)

    @property
    def decode_tokens_per_second(self) -> float | None:
        """As the worker measured it; None with fewer than two tokens."""
        return (
            None if self.decode_seconds is None else formulas.decode_rate(self.completion_tokens, self.decode_seconds)
        )

    def gaps(self) -> Iterator[float]:
        """Between its tokens; those that came together have none between them."""
        for index, (at, count) in enumerate(self.arrivals):
            if index:
                yield at - self.arrivals[index - 1][0]
            yield from (0.0 for _ in range(count - 1))


class Continued(Struct, frozen=True, tag_field="kind", tag="continued"):
    """The run went on after it had been interrupted; what it had of these conversations is void."""

    at: int
    void: tuple[int, ...]


class Ended(Struct, frozen=True, tag_field="kind", tag="ended"):
    """All was done, after so many seconds."""

    seconds: float


Line = Header | TurnRecord | Continued | Ended


def with_end(end: End, **fields: Any) -> TurnRecord:
    """A turn's record from its end and what the producer saw."""
    if isinstance(end, Failed):
        return TurnRecord(
            outcome=end.code, is_failed=True, detail=end.detail, attempt=end.attempt, worker=end.worker, **fields
        )
    return TurnRecord(
        outcome=end.finish_reason,
        attempt=end.attempt,
        worker=end.worker,
        prompt_tokens=end.usage.prompt_tokens,
        cached_tokens=end.usage.cached_tokens,
        completion_tokens=end.usage.completion_tokens,
        reasoning_tokens=end.usage.reasoning_tokens,
        num_calls=len(end.tool_calls),
        num_broken_calls=end.usage.broken_calls,
        queue_wait_seconds=end.timings.queue_wait,
        prefill_seconds=end.timings.prefill,
        decode_seconds=end.timings.decode,
        **fields,
    )
