"""What the engine loop is given, and what it tells of it: jobs and events. All are values; none knows the loop."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.messages import CachedIn, FinishReason, Sampling, Score, TokenLogprob
from workers.calls.openings import FORCED
from workers.engine.thoughts import Thinking
from workers.grammars.held_calls import HeldCalls
from workers.kv.index import Key


@dataclass(frozen=True)
class Job:
    """A turn as the engine sees it: tokens in, tokens out."""

    id: str
    client: str
    conversation: str
    prompt: list[int]
    max_tokens: int
    is_batch: bool = False
    """May be set aside for a turn that somebody waits for."""
    sampling: Sampling = Sampling()
    gbnf: str | None = None
    calls: HeldCalls | None = None
    """What a grammar holds of it from where a call begins; then it has no `gbnf`."""
    continuations: tuple[tuple[tuple[int, ...], int], ...] = ()
    """For scoring: all tokens of prompt and continuation, and where the continuation begins."""
    shown: Mapping[int, bytes] = field(default_factory=dict)
    """Control tokens that have a text in this answer, and which: a call, or a thought, is written with them."""
    begun: tuple[int, ...] = ()
    """Of the prompt's last tokens, those that the answer's grammar is of too: it takes them first."""
    resumed: tuple[int, ...] = ()
    """The answer's tokens that an earlier worker has sent: known, to be computed, not to be told again."""
    tells_progress: bool = False
    """Each step that computes a part of the prompt is told of."""
    thinking: Thinking | None = None
    """Of an answer whose thoughts have a budget, or whose grammar begins behind one."""
    boundaries: tuple[int, ...] = ()
    """Positions in the prompt that other conversations, or this one, come back to: the ends of its messages."""

    @property
    def grammar_fingerprint(self) -> str:
        """Of the grammar that all of the answer is held by: a worker that has another one cannot go on within it. Empty
        without one, and where only the calls are held that the model may make: those are gone on with unheld."""
        text = self.gbnf or ""
        if self.calls is not None and self.calls.is_forced:
            text = self.calls.rules.begun_with(FORCED)
        return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""

    def num_to_score(self, first: int) -> int:
        """The tokens of the continuations from that one on."""
        return sum(len(known) - begin for known, begin in self.continuations[first:])


@dataclass(frozen=True)
class Seated:
    """The job has a slot, and so many of its tokens need not be computed."""

    job: str
    num_cached: int
    cached_in: CachedIn | None = None
    waited_seconds: float = 0.0
    """Since it was submitted, by the engine's clock: it is told only with what the step behind it brought."""


@dataclass(frozen=True)
class Computed:
    """A part of the prompt was computed, up to that of its tokens; `seconds` after the job was seated."""

    job: str
    num_tokens: int
    seconds: float


@dataclass(frozen=True)
class Generated:
    """Tokens were chosen; `text` is what they make sendable."""

    job: str
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Finished:
    """The answer is complete. Seconds by the engine's clock; `prefill` is this job's share of the steps' time."""

    job: str
    reason: FinishReason
    num_prompt_tokens: int
    num_cached: int
    num_generated: int
    prefill_seconds: float
    decode_seconds: float
    tokens: tuple[int, ...] = ()
    """All known tokens: the prompt's and the answer's."""
    scores: tuple[Score, ...] = ()
    joules: float | None = None
    """Its share of what the node drew; None where that is not known."""
    cached_in: CachedIn | None = None
    """Where the cached tokens were; None where there were none."""
    num_drafted: int = 0
    """Tokens that were guessed and computed for it."""
    num_accepted: int = 0
    """Of those, the ones that were chosen then."""
    stop: str | None = None
    """Of the turn's stop texts, the one that ended the answer."""


@dataclass(frozen=True)
class Rejected:
    """The job cannot be computed, or not just now: `code` and `detail` as a failed turn tells them."""

    job: str
    code: str
    detail: str
    retryable: bool = False


@dataclass(frozen=True)
class Lost:
    """The engine is gone; the process has to follow."""

    reason: str


Event = Seated | Computed | Generated | Finished | Rejected | Lost


@dataclass(frozen=True)
class LoopSnapshot:
    """How the engine loop was after its last round: for discovery, telemetry and whoever looks for a state."""

    num_active: int = 0
    """Turns that have a slot, or had to give theirs away for a while."""
    num_waiting: int = 0
    num_cells_used: int = 0
    copy_seconds: float = 0.0
    """Spent on copying states out of the context and into it, since the start."""
    resident: Mapping[Key, int] = field(default_factory=dict)
    """The tokens of the conversations that lie idle in the context."""
    prefill_tokens_per_second: float | None = None
    """None where no step was measured."""
    decode_tokens_per_second: float | None = None
    num_drafted: int = 0
    """Tokens that were guessed and computed, since the start."""
    num_accepted: int = 0
    """Of those, the ones that were right."""
