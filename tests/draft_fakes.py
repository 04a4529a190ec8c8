"""A draft model without llama.cpp: it keeps books like a KV cache, and proposes what a rule says."""

from __future__ import annotations

from collections.abc import Callable

from workers.engine.protocol import Span

Rule = Callable[[list[int]], tuple[int, float]]
"""What follows these tokens, and how probable that is called."""


class FakeDraft:
    """Implements workers.engine.protocol.DraftModel. `step_seconds` and `token_seconds` pass by its clock."""

    def __init__(
        self,
        rule: Rule,
        *,
        num_slots: int = 4,
        num_ctx: int = 1 << 16,
        num_tokens: int = 1 << 20,
        step_seconds: float = 0.0,
        token_seconds: float = 0.0,
    ) -> None:
        self.num_slots = num_slots
        self.num_ctx = self.max_sequence_tokens = num_ctx
        self.max_batch_tokens = 512
        self.num_tokens = num_tokens
        self.cells: list[list[int]] = [[] for _ in range(num_slots)]
        self.num_steps = 0
        self.largest = 0
        """Tokens of a step."""
        self.errors: list[Exception] = []
        """Raised by the next steps, one each."""
        self._rule = rule
        self._seconds = step_seconds, token_seconds
        self._now = 0.0
        self._rows: list[tuple[int, int]] = []

    def clock(self) -> float:
        return self._now

    @property
    def num_cells(self) -> int:
        return sum(map(len, self.cells))

    def decode(self, spans: list[Span]) -> list[list[int]]:
        if self.errors:
            raise self.errors.pop(0)
        num_tokens = sum(len(span.tokens) for span in spans)
        self.num_steps += 1
        self.largest = max(self.largest, num_tokens)
        self._now += self._seconds[0] + self._seconds[1] * num_tokens
        self._rows, outputs = [], []
        for span in spans:
            assert len(self.cells[span.slot]) == span.start, "a span that does not continue its slot"
            assert all(0 <= token < self.num_tokens for token in span.tokens), "llama.cpp would abort"
            self.cells[span.slot] += span.tokens
            wanted = range(max(span.start, span.first_output), span.end)
            outputs.append([len(self._rows) + index for index in range(len(wanted))])
            self._rows += [(span.slot, position) for position in wanted]
        assert self.num_cells <= self.num_ctx, "more cells than there are"
        return outputs

    def likeliest(self, row: int) -> tuple[int, float]:
        slot, position = self._rows[row]
        return self._rule(self.cells[slot][: position + 1])

    def truncate(self, slot: int, num_tokens: int) -> bool:
        assert len(self.cells[slot]) >= num_tokens
        del self.cells[slot][num_tokens:]
        return True
