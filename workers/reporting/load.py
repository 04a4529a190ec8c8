"""How busy a worker is, and how long a turn that is queued now would wait for it."""

from __future__ import annotations

from typing import Protocol

from broker import discovery
from broker.discovery import AWAY_SECONDS, Load
from broker.messages import NodeState
from broker.priorities import BATCH, INTERACTIVE, Priority
from workers.engine.events import LoopSnapshot
from workers.queue.occupancy import Occupancy
from workers.turns.recent import RecentTurns


class HasSnapshot(Protocol):
    """`EngineLoop`."""

    @property
    def snapshot(self) -> LoopSnapshot:
        """How the engine stood after its last step."""
        ...


class HasState(Protocol):
    """`Presence`: STARTING, SERVING or DRAINING."""

    @property
    def state(self) -> str:
        """As others see it."""
        ...


class HasNodeState(Protocol):
    """`NodeListener`."""

    state: NodeState


class LoadGauge:
    """Reads a worker's load from those who know its parts."""

    def __init__(
        self,
        engine: HasSnapshot,
        occupancy: Occupancy,
        recent: RecentTurns,
        presence: HasState,
        node: HasNodeState,
    ) -> None:
        self._engine = engine
        self._occupancy = occupancy
        self.recent = recent
        """The turns that it is read from, too."""
        self._presence = presence
        self._node = node

    def load(self) -> Load:
        """For discovery."""
        state, occupancy = self._engine.snapshot, self._occupancy
        return Load(
            num_slots=occupancy.num_slots,
            num_active=occupancy.num_held,
            num_pending=occupancy.num_pending,
            expected_wait_seconds=self.expected_wait(INTERACTIVE),
            batch_wait_seconds=self.expected_wait(BATCH),
            num_pending_batch=occupancy.pending[BATCH],
            turn_seconds=self.recent.mean_seconds if self.recent.num_settled else None,
            state=self._presence.state,
            prefill_tokens_per_second=state.prefill_tokens_per_second,
            decode_tokens_per_second=state.decode_tokens_per_second,
            cached_share=self.recent.cached_share,
            num_failed=self.recent.num_failed,
            celsius=self._node.state.celsius,
            is_throttled=self._node.state.is_throttled,
        )

    def expected_wait(self, priority: Priority) -> float:
        """Seconds until a turn that is queued now would be seated; AWAY_SECONDS of a worker that drains."""
        if self._presence.state == discovery.DRAINING:
            return AWAY_SECONDS
        return self._occupancy.num_ahead(priority) * self.recent.mean_seconds / self._occupancy.num_slots
