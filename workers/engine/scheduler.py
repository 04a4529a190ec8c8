"""What the next step computes. Pure: no I/O, no model, no clock but the one passed in.

The rules, and the measurements behind them (see ARCHITECTURE.md):

- A step takes at most max(budget, 2 × a decode step), as predicted from the measured rates.
- Prefill and decode are steps of their own. Mixed into one batch they cost what they cost apart, so mixing saves
  nothing; large chunks between decode steps do, because a decode step costs nearly the same for one sequence as for
  eight, and each one taken early is taken with fewer sequences in it.
- So while a prompt waits, decode steps come as rarely as the promise to the streams allows: no gap between two of
  their tokens over 2 × the step's bound.
- Prefill always advances: at least `min_prefill_tokens` between two decode steps, also where one decode, or they
  themselves, outlast the budget. 16 is the promise; the engine may name more where fewer cost as much.
- What is scored keeps streams waiting for one step at a time: nobody waits for its first token, and there may be much
  of it. All of its continuations count when it is asked which prompt is short.
- Of the waiting prompts the one with the shortest remainder goes first. Four seconds of waiting count as one of
  computing less, so that none is passed for ever. Simulated over shuffled OpenAssistant threads, the median time to
  first token is a quarter below first come, first served, and 8 % below one second for one; the worst is 9 % above.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from workers.engine.protocol import Span
from workers.engine.sequence import Sequence

MIN_PREFILL_TOKENS = 16
GAP_BUDGETS = 2.0
AGEING = 0.25
SAFETY = 0.9
STRETCH = 1.25
"""How much longer the least prefill may be, where that saves a small rest and no stream waits for it."""
_SMOOTHING = 0.3


def _evenly(num_tokens: int, num_chunks: int) -> int:
    """The size of each chunk; llama.cpp's kernels take four tokens at a time."""
    return -(-num_tokens // (4 * num_chunks)) * 4


@dataclass
class CostModel:
    """Seconds of a step, learnt from the steps that ran."""

    prefill_seconds_per_token: float = 0.005
    decode_seconds: dict[int, float] = field(default_factory=lambda: {1: 0.05})
    """By the number of sequences in the step."""

    def prefill(self, num_tokens: int) -> float:
        """Seconds for so many tokens of prompts."""
        return num_tokens * self.prefill_seconds_per_token

    def decode(self, num_sequences: int) -> float:
        """Seconds: measured where they were; else from the nearest batch, in proportion for larger, as much for smaller
        ones."""
        if num_sequences <= 0:
            return 0.0
        nearest = min(self.decode_seconds, key=lambda n: (abs(n - num_sequences), n))
        return self.decode_seconds[nearest] * max(1.0, num_sequences / nearest)

    def observe_prefill(self, num_tokens: int, seconds: float) -> None:
        """Learns from a step that took so long."""
        self.prefill_seconds_per_token += _SMOOTHING * (seconds / num_tokens - self.prefill_seconds_per_token)

    def observe_decode(self, num_sequences: int, seconds: float) -> None:
        """Learns from a step that took so long."""
        known = self.decode_seconds.get(num_sequences, seconds)
        self.decode_seconds[num_sequences] = known + _SMOOTHING * (seconds - known)


@dataclass(frozen=True)
class Step:
    """One call of the engine: spans beside the sequences that they belong to."""

    sequences: tuple[Sequence, ...] = ()
    spans: tuple[Span, ...] = ()
    is_decode: bool = False

    @property
    def num_tokens(self) -> int:
        """Of all its spans."""
        return sum(len(span.tokens) for span in self.spans)

    def __bool__(self) -> bool:
        return bool(self.spans)


class Scheduler:
    """Seated sequences, and which of their tokens the next step computes.

    `canonical_chunk` > 0 is the deterministic mode: prompts are cut at multiples of it and nowhere else, so that the
    same prompt is always computed by the same calls.
    """

    def __init__(
        self,
        *,
        budget: float,
        max_batch_tokens: int,
        max_batch_outputs: int,
        min_prefill_tokens: int = MIN_PREFILL_TOKENS,
        canonical_chunk: int = 0,
        costs: CostModel | None = None,
    ) -> None:
        self.budget = budget
        self.costs = costs or CostModel()
        self._max_batch_tokens = max_batch_tokens
        self._max_batch_outputs = max_batch_outputs
        self._min_prefill_tokens = min_prefill_tokens
        self._canonical_chunk = canonical_chunk
        self._sequences: dict[str, Sequence] = {}
        self._decoded_at: float | None = None
        self._prefill_is_due = False

    @property
    def sequences(self) -> Iterable[Sequence]:
        """Those that are seated."""
        return self._sequences.values()

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """It is seated, and has tokens to compute."""
        assert sequence.id not in self._sequences
        assert sequence.num_remaining > 0
        self._sequences[sequence.id] = sequence

    def remove(self, sequence: Sequence) -> None:
        """It is over, or gave its slot away."""
        del self._sequences[sequence.id]

    def step_bound(self) -> float:
        """Seconds that a step may take now."""
        num_decoding = sum(sequence.is_decoding for sequence in self._sequences.values())
        return max(self.budget, 2 * self.costs.decode(num_decoding))

    def schedule(self, now: float) -> Step:
        """The next step; an empty one when there is nothing to compute."""
        # One whose next token is not chosen yet has nothing to compute.
        known = [sequence for sequence in self._sequences.values() if sequence.num_remaining]
        decoding = [sequence for sequence in known if sequence.is_decoding]
        prefilling = [sequence for sequence in known if not sequence.is_decoding]
        if not prefilling:
            return self._decode_step(decoding)
        seconds = self._prefill_seconds(len(decoding), now)
        num_tokens = int(seconds / self.costs.prefill_seconds_per_token) if seconds < float("inf") else 1 << 30
        may_decode = num_tokens < self._min_prefill_tokens or all(sequence.is_scored for sequence in prefilling)
        if decoding and may_decode and not self._prefill_is_due:
            return self._decode_step(decoding)
        return self._prefill_step(prefilling, max(num_tokens, self._min_prefill_tokens), now)

    def _prefill_seconds(self, num_decoding: int, now: float) -> float:
        """How long a prefill step may take now without keeping a stream waiting for too long."""
        bound = self.step_bound()
        if num_decoding == 0 or self._decoded_at is None:
            return bound * SAFETY
        gap_so_far = now - self._decoded_at
        return min(bound, GAP_BUDGETS * bound - gap_so_far - self.costs.decode(num_decoding)) * SAFETY

    def _decode_step(self, decoding: list[Sequence]) -> Step:
        decoding = decoding[: self._max_batch_outputs]
        spans = tuple(self._span(sequence, 1) for sequence in decoding)
        return Step(tuple(decoding), spans, is_decode=True)

    def _prefill_step(self, prefilling: list[Sequence], num_tokens: int, now: float) -> Step:
        num_tokens = min(num_tokens, self._max_batch_tokens)
        num_outputs = self._max_batch_outputs
        sequences: list[Sequence] = []
        spans: list[Span] = []
        for sequence in sorted(prefilling, key=lambda sequence: self._urgency(sequence, now)):
            if num_tokens <= 0 or num_outputs <= 0:
                break
            span = self._span(sequence, self._cut(sequence, num_tokens, is_first=not spans), num_outputs)
            sequences.append(sequence)
            spans.append(span)
            num_tokens -= len(span.tokens)
            num_outputs -= span.num_outputs
            if self._canonical_chunk:
                break
        return Step(tuple(sequences), tuple(spans))

    def _urgency(self, sequence: Sequence, now: float) -> float:
        return self.costs.prefill(sequence.num_remaining + sequence.num_to_come) - AGEING * (now - sequence.arrived_at)

    def _cut(self, sequence: Sequence, num_tokens: int, *, is_first: bool) -> int:
        if self._canonical_chunk:
            if sequence.num_computed >= sequence.num_prompt_tokens:
                return 1  # an answer that is resumed, computed as it was the first time: token by token
            end = sequence.num_prompt_tokens - sequence.num_computed
            return min(end, self._canonical_chunk - sequence.num_computed % self._canonical_chunk)
        if sequence.num_remaining <= num_tokens:
            return sequence.num_remaining
        if num_tokens < self._min_prefill_tokens:
            return num_tokens
        # Chunks of one size, or the last would be a small rest that costs as much as a whole one.
        num_chunks = -(-sequence.num_remaining // num_tokens)
        even = _evenly(sequence.num_remaining, num_chunks)
        if self._min_prefill_tokens <= even <= num_tokens:
            return even
        fewer = _evenly(sequence.num_remaining, num_chunks - 1)
        keeps_nobody_waiting = not any(other.is_decoding for other in self._sequences.values())
        if is_first and keeps_nobody_waiting and fewer <= STRETCH * self._min_prefill_tokens:
            return fewer
        return num_tokens & ~3

    def _span(self, sequence: Sequence, num_tokens: int, max_outputs: int | None = None) -> Span:
        start = sequence.num_computed
        stop = next((at for at in sequence.stops if at > start), start + num_tokens)
        num_tokens = min(num_tokens, stop - start)
        span = Span(sequence.slot, start, tuple(sequence.tokens[start : start + num_tokens]), sequence.first_output)
        if max_outputs is not None and span.num_outputs > max_outputs:
            num_silent = len(span.tokens) - span.num_outputs
            span = Span(span.slot, start, span.tokens[: num_silent + max_outputs], span.first_output)
        return span

    def update(self, step: Step) -> None:
        """Takes note that the engine holds the step's tokens: before anything is made of what it put out, as that may
        end a sequence, whose slot then keeps what is there."""
        for sequence, span in zip(step.sequences, step.spans, strict=True):
            sequence.num_computed = span.end
        if step.is_decode and len(step.spans) == self._max_batch_outputs:
            # Whoever was left out is first in the next one.
            for sequence in step.sequences:
                self._sequences[sequence.id] = self._sequences.pop(sequence.id)

    def observe(self, step: Step, seconds: float, now: float) -> None:
        """Learns from what a step took, once the next tokens of its sequences are known, where there are any."""
        if step.is_decode:
            self._decoded_at = now
            self._prefill_is_due = True
            self.costs.observe_decode(len(step.spans), seconds)
        else:
            self._prefill_is_due = False
            if not any(sequence.is_decoding for sequence in self._sequences.values()):
                self._decoded_at = None
            elif self._decoded_at is None:
                # The first stream has its first token from this step, and waits for its second from now on.
                self._decoded_at = now
            if step.num_tokens >= self._min_prefill_tokens:  # the rest of a prompt says little about a whole chunk
                self.costs.observe_prefill(step.num_tokens, seconds)
