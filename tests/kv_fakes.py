"""What giving and fetching states meet in tests without NATS and without an engine."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from workers.engine.protocol import State
from workers.kv.checks import StateLayout
from workers.kv.index import Key, KvEntry, packed

KEY = Key("alice", "c")
FINGERPRINT = "f"


LAYOUT = StateLayout(FINGERPRINT, 8, 4)
"""As tests.fakes.FakeEngine has it."""
WITH_CHECKPOINTS = StateLayout(FINGERPRINT, 8, 4, checkpoint_begin=100)
"""As it has it where a part cannot be removed."""
state_bytes = LAYOUT.state_bytes


def state_of(tokens: list[int]) -> tuple[KvEntry, State]:
    """A conversation's state with those tokens."""
    state = b"fake    " + packed(tokens)
    return KvEntry(KEY, packed(tokens), len(state)), state


@dataclass
class FakeSnapshot:
    resident: Mapping[Key, int] = field(default_factory=dict)
    prefill_tokens_per_second: float | None = 100.0


class FakeEnginePort:
    """Implements workers.kv.engine_port.EnginePort, with what is `resident` in the context."""

    def __init__(self, resident: Mapping[Key, list[int]] | None = None, *, tokens_per_second: float = 100.0) -> None:
        self.resident = dict(resident or {})
        self.snapshot = FakeSnapshot({key: len(tokens) for key, tokens in self.resident.items()}, tokens_per_second)
        self.num_exports = 0

    def export(self, key: Key) -> Future[tuple[KvEntry, State] | None]:
        self.num_exports += 1
        future: Future[tuple[KvEntry, State] | None] = Future()
        tokens = self.resident.get(key)
        future.set_result(None if tokens is None else state_of(tokens))
        return future
