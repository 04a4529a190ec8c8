"""What the engine loop needs of an engine. workers.llama implements it; so do the tests' fakes, without llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.messages import Sampling, TokenLogprob
from workers.grammars.held_calls import CallFollower
from workers.grammars.held_text import HeldText

MAX_OUTPUTS = 32
PENDING = -2
"""Instead of a token: the turn's grammar has no answer yet, and nobody waits for it."""

State = bytes | bytearray | memoryview
"""A sequence's KV state outside of the context: bytes that mean something to the engine and nobody else."""

Foresee = Callable[[int], Sequence[int]]
"""What will be guessed to follow, if that token is chosen now; none where nothing will be."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one slot that a step computes; logits are wanted from `first_output` on (a position)."""

    slot: int
    start: int
    tokens: tuple[int, ...]
    first_output: int

    @property
    def end(self) -> int:
        """The position behind its last token."""
        return self.start + len(self.tokens)

    @property
    def num_outputs(self) -> int:
        """How many of its tokens logits are wanted of."""
        return max(0, self.end - max(self.first_output, self.start))


class EngineError(Exception):
    """The base of what an engine's `decode` raises."""


class KvCacheFull(EngineError):
    """No cells for this batch; nothing was computed."""


class EngineLost(EngineError):
    """The context is in an unknown state: the process has to go."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"llama_decode returned {code}")


@dataclass(frozen=True, slots=True)
class Infill:
    """The tokens that a vocabulary has for what stands around a gap."""

    prefix: int
    suffix: int
    middle: int
    repository: int | None = None
    file: int | None = None


class Vocabulary(Protocol):
    """Text ↔ tokens. Thread-safe."""

    @property
    def infill(self) -> Infill | None:
        """Its marks around a gap; None where it has none."""
        ...

    begin: int | None
    """The token that stands for a text's beginning: BOS, or EOS where there is no BOS; None where there is neither."""

    num_tokens: int
    """Tokens are the numbers below it: no other may be asked for, or computed."""

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; empty for control tokens."""
        ...

    def spelled(self, token: int) -> bytes:
        """The bytes that a token is written with, control tokens too."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether the token ends an answer."""
        ...

    def tokenize(self, text: str, *, template_spans: list[tuple[int, int]], add_bos: bool) -> list[int]:
        """Tokens of `text`; control tokens are recognised only wholly inside `template_spans`."""
        ...


class TokenSampler(Protocol):
    """Chooses one sequence's tokens. Belongs to the engine's thread."""

    def sample(self, row: int, index: int) -> int:
        """The token chosen from the last step's logits `row`, as the answer's token `index`. −1: none is allowed, and
        the answer is whole. PENDING: `poll` will tell. Raises TurnRejected."""
        ...

    def poll(self) -> int:
        """After PENDING: the token from the same logits, or PENDING again."""
        ...

    def foretell(self, guess: Sequence[int]) -> None:
        """Asks a grammar, if there is one, how many of these tokens it would allow next; `num_allowed` tells, later."""
        ...

    def num_allowed(self, guess: Sequence[int]) -> int:
        """How many of the tokens that are guessed to come next may: all that no grammar is known to forbid. Never waits
        for one."""
        ...

    def logprob(self, token: int, num_top: int) -> TokenLogprob:
        """As the engine's, for a token that `poll` chose: the step's logits are gone by then."""
        ...

    @property
    def is_done(self) -> bool:
        """Whether a grammar lets nothing follow the token chosen last."""
        ...

    def close(self) -> None:
        """The answer is over: lets go of its grammar."""
        ...


class Engine(Protocol):
    """One model in one context. All but `vocabulary` belongs to one thread."""

    num_slots: int
    num_ctx: int
    """KV cells, shared by all slots."""
    max_sequence_tokens: int
    """The longest sequence that the model was trained for and the context holds."""
    max_batch_tokens: int
    max_batch_outputs: int
    min_prefill_tokens: int
    """Fewer prompt tokens at once cost nearly as much as so many."""
    num_threads: int
    """That compute; may be set between two steps."""
    poll: int | None
    """How long those look for the next step before they sleep, 0 to 100; None makes them anew for each step. May be set
    between two steps."""
    can_remove_part: bool
    """False for sliding windows and recurrent states: there a sequence can only grow or go."""

    window: int
    """Tokens that some of its layers look back on; 0 where all look back to the beginning, or have one state."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's. For any thread."""
        ...

    def decode(self, spans: list[Span]) -> list[list[int]]:
        """Computes a step; returns for each span the rows of its logits, in order of position. Raises EngineError."""
        ...

    def sampler(
        self,
        sampling: Sampling,
        tokens: list[int],
        grammar: HeldText | CallFollower | None,
        foresee: Foresee | None = None,
        num_answered: int = 0,
    ) -> TokenSampler:
        """What chooses the tokens of one answer, within a grammar if there is one: GBNF from the first token on, or
        what follows calls, from where it says; it has read what there is of the answer. `tokens` is the list of all
        that are known, which grows with what is chosen; the last `num_answered` are the answer's. A grammar that is
        asked about a token hears what `foresee` says of it too. Raises TurnRejected."""
        ...

    def logprob(self, row: int, token: int, num_top: int) -> TokenLogprob:
        """The token's log-probability in a row of the last step's logits, and the likeliest tokens'."""
        ...

    def is_likeliest(self, row: int, token: int) -> bool:
        """Whether no token is likelier in a row of the last step's logits."""
        ...

    def is_whole(self, slot: int, num_tokens: int) -> bool:
        """Whether a slot's sequence can be gone on with behind its first `num_tokens` tokens: all is there that what
        follows them looks back on. A window may have left it, a recurrent state moved past it."""
        ...

    def truncate(self, slot: int, num_tokens: int) -> bool:
        """Forgets a slot's tokens from position `num_tokens` on; False where those before it would not be whole, and
        keeps them all."""
        ...

    def copy(self, source: int, target: int, num_tokens: int) -> bool:
        """Gives an empty slot the first `num_tokens` tokens of another one; the cells are shared, not copied. False,
        and the slot stays empty, where they are not whole."""
        ...

    def checkpoint_bytes(self, slot: int) -> int:
        """How long a checkpoint of a slot's sequence is."""
        ...

    def checkpoint(self, slot: int) -> State:
        """A copy of what cannot be cut of a slot's state: that of windows and recurrent layers."""
        ...

    def rewind(self, slot: int, num_tokens: int, checkpoint: State) -> bool:
        """Takes a slot back to where it has its first `num_tokens` tokens, of which the checkpoint was made. False, and
        the slot is empty, where there are no cells for it."""
        ...

    def copy_rewound(self, source: int, target: int, num_tokens: int, checkpoint: State) -> bool:
        """Gives an empty slot the first `num_tokens` tokens of another one, which has gone further since the checkpoint
        was made of them. False, and the slot stays empty, where there are no cells for it."""
        ...

    def state_bytes(self, slot: int) -> int:
        """How long the state of a slot's sequence is."""
        ...

    def save(self, slot: int) -> bytearray:
        """A copy of the state of a slot's sequence."""
        ...

    def restore(self, slot: int, state: State) -> bool:
        """Puts a state into an empty slot; False, and the slot stays empty, where there are no cells for it."""
        ...

    def close(self) -> None:
        """Frees the context; nothing may be called any more."""
        ...


class DraftModel(Protocol):
    """A small model of the same vocabulary, in a context of its own. Belongs to the engine's thread."""

    num_slots: int
    num_ctx: int
    """KV cells, shared by all slots."""
    max_sequence_tokens: int
    max_batch_tokens: int
    num_tokens: int
    """Tokens are the numbers below it: no other may be computed, and none is proposed."""

    def decode(self, spans: list[Span]) -> list[list[int]]:
        """Computes tokens; returns for each span the rows of its logits, in order of position. Raises EngineError."""
        ...

    def likeliest(self, row: int) -> tuple[int, float]:
        """The likeliest token in a row of the last step's logits, and its probability."""
        ...

    def truncate(self, slot: int, num_tokens: int) -> bool:
        """Forgets a slot's tokens from position `num_tokens` on."""
        ...
