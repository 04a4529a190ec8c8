"""An engine without llama.cpp: it computes nothing, keeps books like a KV cache, and answers from a rule."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from array import array
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from nats.aio.client import Client as NatsConnection

from broker.messages import Message, Sampling, TokenLogprob, Tool
from workers.assembly import Assembly, Parts, assemble
from workers.engine.calibration import UNMEASURED, Calibration
from workers.engine.loop import EngineLoop
from workers.engine.power import Power
from workers.engine.protocol import Engine, Foresee, Infill, Span, State, TokenSampler
from workers.engine.scheduler import Scheduler
from workers.engine.slots import Slots
from workers.grammars.held_calls import CallFollower
from workers.grammars.held_text import HeldText
from workers.kv.cache import OffloadCache
from workers.kv.index import packed
from workers.prompts.history import History
from workers.prompts.rendered import Rendered
from workers.reporting.metrics import Shape, WorkerMetrics
from workers.turns.answer_reader import ALL_TEXT, AnswerReaders
from workers.worker import Worker
from workers.worker_options import WorkerOptions

CHECKPOINT_BYTES = 1 << 24
END = 0
FIRST = 3


class FakeVocabulary:
    """A character a token, shifted by FIRST; tokens below are control tokens."""

    begin: int | None = 1
    num_tokens = 1 << 21

    def piece(self, token: int) -> bytes:
        assert 0 <= token < self.num_tokens, "llama.cpp would abort"
        return chr(token - FIRST).encode() if token >= FIRST else b""

    def spelled(self, token: int) -> bytes:
        return self.piece(token) or f"<{token}>".encode()

    infill: Infill | None = None

    def is_end(self, token: int) -> bool:
        return token == END

    def tokenize(self, text: str, *, template_spans: list[tuple[int, int]], add_bos: bool) -> list[int]:
        return ([1] if add_bos else []) + [ord(character) + FIRST for character in text]


ANOTHER = 100_000
"""A character's second token, which no text is tokenised to: an answer's text need not give its tokens back."""


class AmbiguousVocabulary(FakeVocabulary):
    """Of an engine that answers in second tokens."""

    def piece(self, token: int) -> bytes:
        return super().piece(token % ANOTHER)


class FakeSampler:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def sample(self, row: int, index: int) -> int:
        slot, position = self._engine.rows[row]
        return self._engine.next_token(self._engine.cells[slot][: position + 1], index)

    def poll(self) -> int:
        raise AssertionError("never pending")

    def foretell(self, guess: Sequence[int]) -> None: ...

    def num_allowed(self, guess: Sequence[int]) -> int:
        return len(guess)

    def logprob(self, token: int, num_top: int) -> TokenLogprob:
        raise AssertionError("never pending")

    is_done = False

    def close(self) -> None:
        self._engine.num_samplers -= 1


class FakeEngine:
    """Implements workers.engine.protocol.Engine. Echoes the prompt's last line, a character a step, then ends.

    `gate` holds every step back until it is set: a test decides when time passes.
    """

    def __init__(
        self,
        *,
        num_slots: int = 4,
        num_ctx: int = 4096,
        answer: str | None = None,
        step_seconds: float = 0.0,
        token_seconds: float = 0.0,
        counted_token_seconds: float | None = None,
        is_ambiguous: bool = False,
        can_remove_part: bool = True,
    ) -> None:
        """`step_seconds` and `token_seconds` pass; `counted_token_seconds` only go by `clock`, which then knows nothing
        else: how busy the machine is decides nothing."""
        self.num_slots = num_slots
        self.num_ctx = num_ctx
        self.max_sequence_tokens = num_ctx
        self.max_batch_tokens = 512
        self.max_batch_outputs = 32
        self.min_prefill_tokens = 16
        self.num_threads = 1
        self.poll: int | None = None
        self.window = 0
        self.can_remove_part = can_remove_part
        """Where not, it is like a recurrent state: that of its last token alone."""
        self.vocabulary = AmbiguousVocabulary() if is_ambiguous else FakeVocabulary()
        self._begin = FIRST + ANOTHER if is_ambiguous else FIRST
        self.cells: list[list[int]] = [[] for _ in range(num_slots)]
        self.rows: list[tuple[int, int]] = []
        self.num_samplers = 0
        self.num_steps = 0
        self.num_tokens = 0
        self.num_saved = 0
        self.num_restored = 0
        self.stepped = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        """Set once a step was begun."""
        self._answer = answer
        self._step_seconds = step_seconds
        self._token_seconds = token_seconds
        self._counted_token_seconds = counted_token_seconds
        self._counted = 1.0

    def clock(self) -> float:
        """The clock of this engine's loop, in seconds."""
        return time.perf_counter() if self._counted_token_seconds is None else self._counted

    def decode(self, spans: list[Span]) -> list[list[int]]:
        self.stepped.set()
        self.entered.set()
        self.gate.wait()
        # What computing would take.
        num_tokens = sum(len(span.tokens) for span in spans)
        time.sleep(self._step_seconds + self._token_seconds * num_tokens)
        self._counted += (self._counted_token_seconds or 0.0) * num_tokens
        self.num_steps += 1
        self.rows = []
        outputs = []
        for span in spans:
            assert len(self.cells[span.slot]) == span.start, "a span that does not continue its slot"
            self.cells[span.slot] += span.tokens
            self.num_tokens += len(span.tokens)
            rows = []
            for position in range(span.start, span.end):
                if position >= span.first_output:
                    rows.append(len(self.rows))
                    self.rows.append((span.slot, position))
            outputs.append(rows)
        assert len(self.rows) <= self.max_batch_outputs
        return outputs

    def next_token(self, tokens: list[int], index: int) -> int:
        if self._answer is None:
            text = "".join(self.vocabulary.piece(token).decode() for token in tokens)
            answer = "echo " + text.rpartition("user: ")[2].partition("\n")[0]
        else:
            answer = self._answer
        return ord(answer[index]) + self._begin if index < len(answer) else END

    def sampler(
        self,
        sampling: Sampling,
        tokens: list[int],
        grammar: HeldText | CallFollower | None,
        foresee: Foresee | None = None,
        num_answered: int = 0,
    ) -> TokenSampler:
        self.num_samplers += 1
        return FakeSampler(self)

    def logprob(self, row: int, token: int, num_top: int) -> TokenLogprob:
        return TokenLogprob(token, -1.0, tuple((token, -1.0) for _ in range(num_top)))

    def is_likeliest(self, row: int, token: int) -> bool:
        return True

    def is_whole(self, slot: int, num_tokens: int) -> bool:
        there = len(self.cells[slot])
        return there >= num_tokens if self.can_remove_part else num_tokens in (0, there)

    def checkpoint_bytes(self, slot: int) -> int:
        return 100

    def checkpoint(self, slot: int) -> State:
        return self._digest(self.cells[slot])

    def _digest(self, tokens: list[int]) -> bytes:
        return hashlib.sha256(packed(tokens)).digest().ljust(100)

    def rewind(self, slot: int, num_tokens: int, checkpoint: State) -> bool:
        assert self._digest(self.cells[slot][:num_tokens]) == checkpoint, "a checkpoint of other tokens"
        del self.cells[slot][num_tokens:]
        return True

    def copy_rewound(self, source: int, target: int, num_tokens: int, checkpoint: State) -> bool:
        assert not self.cells[target]
        self.cells[target] = self.cells[source][:num_tokens]
        return self.rewind(target, num_tokens, checkpoint)

    def truncate(self, slot: int, num_tokens: int) -> bool:
        if not self.is_whole(slot, num_tokens):
            return False
        del self.cells[slot][num_tokens:]
        return True

    def copy(self, source: int, target: int, num_tokens: int) -> bool:
        assert not self.cells[target]
        if not self.is_whole(source, num_tokens):
            return False
        self.cells[target] = self.cells[source][:num_tokens]
        return True

    def state_bytes(self, slot: int) -> int:
        return 8 + 4 * len(self.cells[slot])

    def save(self, slot: int) -> bytearray:
        self.num_saved += 1
        return bytearray(b"fake    " + packed(self.cells[slot]))

    def restore(self, slot: int, state: State) -> bool:
        assert not self.cells[slot]
        assert state[:8] == b"fake    ", "bytes that are no state have reached the engine"
        self.cells[slot] = list(array("i", bytes(state[8:])))
        self.num_restored += 1
        return True

    def close(self) -> None: ...


class FakeRenderer:
    """A template: `role: content` a line, then `assistant: `."""

    async def render(
        self,
        messages: tuple[Message, ...],
        exact: Collection[int] = (),
        kwargs: dict[str, Any] | None = None,
        tools: tuple[Tool, ...] = (),
    ) -> Rendered:
        text, contents = "", []
        for index, message in enumerate(messages):
            text += f"{message.role}: "
            contents.append((index, len(text), len(text) + len(message.content)))
            text += f"{message.content}\n"
        return Rendered(text + "assistant: ", contents)


class NoGrammars:
    async def gbnf(self, sampling: Sampling, client: str = "") -> str | None:
        await asyncio.sleep(0)
        return sampling.grammar


class ClockedEngine(Engine, Protocol):
    """An engine that says what its steps count for."""

    def clock(self) -> float:
        """The clock of its loop, in seconds."""
        ...


def fake_worker(
    nc: NatsConnection,
    engine: ClockedEngine,
    options: WorkerOptions,
    *,
    cache: OffloadCache | None = None,
    calibration: Calibration = UNMEASURED,
    history: History | None = None,
    assembly: Assembly = assemble,
    readers: AnswerReaders = ALL_TEXT,
) -> Worker:
    """A worker whose engine may compute nothing, composed as workers/main.py composes one."""
    cache = cache or OffloadCache(0)
    tags = {"node": options.node, "model": options.model, "quantization": "none", "worker": options.name}
    metrics = WorkerMetrics(tags, engine.num_slots, engine.num_ctx, Shape())
    power = Power()
    scheduler = Scheduler(
        budget=0.25, max_batch_tokens=512, max_batch_outputs=engine.max_batch_outputs, costs=calibration.costs()
    )
    slots = Slots(
        engine.num_slots, engine.num_ctx, can_remove_part=engine.can_remove_part, checkpoint_bytes=CHECKPOINT_BYTES
    )
    loop = EngineLoop(
        engine,
        scheduler,
        slots,
        cache,
        on_step=metrics.on_step,
        power=power,
        calibration=calibration,
        clock=engine.clock,
    )
    history = history or History(FakeRenderer(), engine.vocabulary)
    return assembly(Parts(nc, loop, history, NoGrammars(), options, cache, metrics, power, readers))
