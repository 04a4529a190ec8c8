"""An engine loop whose rounds a test takes by hand; its engine computes nothing and notes what is asked of it."""

from __future__ import annotations

import threading

from broker.errors import TurnRejected
from broker.messages import Sampling
from tests.fakes import FIRST, FakeEngine, FakeSampler
from workers.engine.costs import CostModel
from workers.engine.events import Event, Finished, Generated, Job, Lost, Rejected
from workers.engine.loop import EngineLoop
from workers.engine.protocol import PENDING, Foresee, Span, TokenSampler
from workers.engine.scheduler import Scheduler, Step
from workers.engine.slots import Slots
from workers.grammars.held_calls import CallFollower
from workers.grammars.held_text import HeldText
from workers.kv.cache import OffloadCache

LONG = "once upon a time there was a worker that had more to remember than its context could hold"


def tokens_of(text: str) -> list[int]:
    return [ord(character) + FIRST for character in text]


def job(name: str, prompt: str = "hello", *, max_tokens: int = 20, **fields: object) -> Job:
    conversation = fields.pop("conversation", name)
    client = fields.pop("client", "c")
    return Job(name, client, conversation, tokens_of(prompt), max_tokens, **fields)  # type: ignore[arg-type]


class Watched(FakeSampler):
    """Notes when it is asked and closed; a grammar's text is what goes wrong with it at the answer's third token."""

    def __init__(self, engine: Observed, grammar: HeldText | CallFollower | None) -> None:
        super().__init__(engine)
        self._observed = engine
        self._gbnf = grammar.gbnf if grammar is not None else None

    def sample(self, row: int, index: int) -> int:
        self._observed.noted.append("outputs")
        if index == 2 and self._gbnf == "late":
            return PENDING
        if index == 2 and self._gbnf is not None:
            raise TurnRejected("invalid_grammar", str(self._gbnf))
        return super().sample(row, index)

    def poll(self) -> int:
        if not self._observed.grammars_answer:
            return PENDING
        return tokens_of("?")[0]

    def close(self) -> None:
        self._observed.noted.append("finish")
        super().close()


class Observed(FakeEngine):
    """Notes what is asked of it, and by whom it was left."""

    def __init__(
        self, *, num_slots: int = 4, num_ctx: int = 4096, answer: str = "answer", can_remove_part: bool = True
    ) -> None:
        super().__init__(num_slots=num_slots, num_ctx=num_ctx, answer=answer, can_remove_part=can_remove_part)
        self.noted: list[str] = []
        self.grammars_answer = True
        self.errors: list[Exception] = []
        """Raised by the next steps, one each."""

    def decode(self, spans: list[Span]) -> list[list[int]]:
        if self.errors:
            raise self.errors.pop(0)
        self.noted.append("decode")
        return super().decode(spans)

    def sampler(
        self,
        sampling: Sampling,
        tokens: list[int],
        grammar: HeldText | CallFollower | None,
        foresee: Foresee | None = None,
        num_answered: int = 0,
    ) -> TokenSampler:
        self.num_samplers += 1
        return Watched(self, grammar)


class Watching(Scheduler):
    """Notes when it is told of a step."""

    noted: list[str]

    def update(self, step: Step) -> None:
        self.noted.append("update")
        super().update(step)

    def observe(self, step: Step, seconds: float) -> None:
        self.noted.append("observe")
        super().observe(step, seconds)


class Bench:
    """A loop without its thread: a test takes each round, a second passes with each look at the clock."""

    def __init__(self, engine: Observed | None = None, *, cache_bytes: int = 1 << 20, **more: object) -> None:
        self.engine = engine or Observed()
        self.scheduler = Watching(budget=1e9, max_batch_tokens=512, max_batch_outputs=32, costs=CostModel(0.001))
        self.scheduler.noted = self.engine.noted
        self.slots = Slots(
            self.engine.num_slots,
            self.engine.num_ctx,
            can_remove_part=self.engine.can_remove_part,
            checkpoint_bytes=1 << 20,
        )
        self.cache = OffloadCache(cache_bytes)
        self.now = 0.0
        self.steps: list[tuple[Step, float]] = []
        self.num_threads: list[tuple[str, int]] = []
        """Of each step, and of what kind it was."""
        self.loop = EngineLoop(
            self.engine,
            self.scheduler,
            self.slots,
            self.cache,
            on_step=self._on_step,
            clock=self._clock,
            **more,  # type: ignore[arg-type]
        )
        self.events: list[Event] = []

    def _clock(self) -> float:
        self.now += 1.0
        return self.now

    def _on_step(self, step: Step, seconds: float) -> None:
        self.steps.append((step, seconds))
        self.num_threads.append(("decode" if step.is_decode else "prefill", self.engine.num_threads))

    def round(self, num_rounds: int = 1) -> None:
        for _ in range(num_rounds):
            assert self.loop.take_orders()
            self.events += self.loop.run_round()

    def run(self) -> None:
        while self.loop.has_work:
            self.round()

    def of(self, name: str) -> list[Event]:
        return [event for event in self.events if not isinstance(event, Lost) and event.job == name]

    def end(self, name: str) -> Event:
        return self.of(name)[-1]

    def text(self, name: str) -> str:
        return "".join(event.text for event in self.of(name) if isinstance(event, Generated))


class Told:
    """What a loop's thread tells, for a test that waits for it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.has_ended = threading.Event()

    def __call__(self, events: list[Event]) -> None:
        self.events += events
        if any(isinstance(event, Finished | Rejected | Lost) for event in events):
            self.has_ended.set()
