"""What the next step computes. Pure: no I/O, no model, no clock but the one passed in.

The rules, and the measurements behind them (see ARCHITECTURE.md):

- A step has a token of every stream, and behind those what there is time for of the prompts that wait: a step reads all
  weights once, so a stream's token costs a third less beside a prompt than by itself (`costs.py`).
- The prompts of a step take at most max(budget, 2 × a decode step), as predicted from measured costs. So no gap between
  two tokens of a stream is over one and a half bounds; two are promised.
- Prefill always advances: by `min_prefill_tokens` in each step, also where those outlast the budget. 16 is the promise;
  the engine may name more where fewer cost as much.
- Of the waiting prompts the one with the shortest remainder goes first. Four seconds of waiting count as one of
  computing less, so that none is passed for ever. Simulated over shuffled OpenAssistant threads, the median time to
  first token is a quarter below first come, first served, and 8 % below one second for one; the worst is 9 % above.
  Of what is scored all continuations count when it is asked which prompt is short.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workers.engine.costs import CostModel
from workers.engine.protocol import Span
from workers.engine.sequence import Sequence

MIN_PREFILL_TOKENS = 16
AGEING = 0.25
SAFETY = 0.9
ROWS = 4
"""llama.cpp's kernels take so many tokens at a time."""


@dataclass(frozen=True)
class Step:
    """One call of the engine: spans beside the sequences that they belong to."""

    sequences: tuple[Sequence, ...] = ()
    spans: tuple[Span, ...] = ()
    num_decoding: int = 0
    """The first so many are streams: a token each, and guesses behind it."""

    @property
    def is_decode(self) -> bool:
        """Whether there are streams and nothing else in it."""
        return 0 < self.num_decoding == len(self.spans)

    @property
    def num_prefill_tokens(self) -> int:
        """Of the prompts in it."""
        return sum(len(span.tokens) for span in self.spans[self.num_decoding :])

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
        """Seconds that the prompts of a step may take now."""
        num_decoding = sum(sequence.is_decoding for sequence in self._sequences.values())
        return max(self.budget, 2 * self.costs.decode(max(1, num_decoding)))

    def schedule(self, now: float) -> Step:
        """The next step; an empty one when there is nothing to compute."""
        # One whose next token is not chosen yet has nothing to compute.
        known = [sequence for sequence in self._sequences.values() if sequence.num_remaining]
        decoding = [sequence for sequence in known if sequence.is_decoding]
        prefilling = [sequence for sequence in known if not sequence.is_decoding]
        # One output is a prompt's, so that it comes to its end.
        decoding = decoding[: self._max_batch_outputs - bool(prefilling)]
        sequences, spans = decoding[:], [self._span(sequence, 1) for sequence in decoding]
        if prefilling:
            self._add_prompts(sequences, spans, prefilling, now)
        return Step(tuple(sequences), tuple(spans), len(decoding))

    def _add_prompts(
        self, sequences: list[Sequence], spans: list[Span], prefilling: list[Sequence], now: float
    ) -> None:
        """Fills up a step's streams with what there is time for of the prompts."""
        seconds = self.step_bound() * SAFETY
        if not spans:
            seconds -= self.costs.decode(1)
        least, room = self._min_prefill_tokens, self._max_batch_tokens - len(spans)
        num_outputs = self._max_batch_outputs - len(spans)
        for sequence in sorted(prefilling, key=lambda sequence: self._urgency(sequence, now)):
            num_tokens = min(room, max(least, self.costs.num_tokens(seconds, sequence.num_computed)))
            if num_tokens <= 0 or num_outputs <= 0:
                break
            if self._canonical_chunk:
                num_tokens = self._canonical_tokens(sequence)
            elif sequence.num_remaining <= num_tokens:
                num_tokens = sequence.num_remaining
            else:
                num_rows = self._max_batch_tokens - room
                whole = (num_rows + num_tokens) // ROWS * ROWS - num_rows
                num_tokens = whole if whole >= max(1, least) else num_tokens
            span = self._span(sequence, num_tokens, num_outputs)
            sequences.append(sequence)
            spans.append(span)
            seconds -= self.costs.prefill(len(span.tokens), span.start)
            least -= len(span.tokens)
            room -= len(span.tokens)
            num_outputs -= span.num_outputs
            if self._canonical_chunk:
                break

    def _urgency(self, sequence: Sequence, now: float) -> float:
        seconds = self.costs.prefill(sequence.num_remaining + sequence.num_to_come, sequence.num_computed)
        return seconds - AGEING * (now - sequence.arrived_at)

    def _canonical_tokens(self, sequence: Sequence) -> int:
        """How many come next in the deterministic mode."""
        if sequence.num_computed >= sequence.num_prompt_tokens:
            return 1  # an answer that is resumed, computed as it was the first time: token by token
        end = sequence.num_prompt_tokens - sequence.num_computed
        return min(end, self._canonical_chunk - sequence.num_computed % self._canonical_chunk)

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
        if len(self._sequences) > step.num_decoding >= self._max_batch_outputs - 1:
            # Whoever was left out is first in the next one.
            for sequence in step.sequences[: step.num_decoding]:
                self._sequences[sequence.id] = self._sequences.pop(sequence.id)

    def observe(self, step: Step, seconds: float) -> None:
        """Learns from what a step took, once the next tokens of its sequences are known."""
        if step.is_decode:
            self.costs.rows.observe(step.num_tokens, seconds)
        elif (num_tokens := step.num_prefill_tokens) >= self._min_prefill_tokens:
            # The rest of a prompt says little about a whole chunk.
            before = sum(
                len(span.tokens) * (span.start + len(span.tokens) / 2) for span in step.spans[step.num_decoding :]
            )
            self.costs.observe_prefill(num_tokens, before / num_tokens, step.num_decoding, seconds)
