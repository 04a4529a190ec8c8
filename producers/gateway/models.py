"""All that a turn can be for: models that are served, models that boards would load, policies. Pure but for the clock;
what a client reads of it is a dialect's."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from broker.discovery import CHAT, THINKING, TOOLS, WorkerInfo
from broker.messages.boards import NO_FILE, ModelFile
from broker.model_status import LOADED, ModelStatus
from broker.priorities import INTERACTIVE
from producers.gateway.seen import Seen


@dataclass(frozen=True)
class Listed:
    """One of them, by what a request calls it."""

    id: str
    created: int
    """When its file was written, in seconds since the epoch."""
    workers: tuple[WorkerInfo, ...] = ()
    """That take turns for it; the one that would be the first to take one is the first."""
    status: ModelStatus | None = None
    """Where no worker serves it: what boards do about it."""
    members: tuple[Listed, ...] = ()
    """Of a policy: all models that there are."""
    is_policy: bool = False
    _can: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_can", self._abilities())

    def _abilities(self) -> frozenset[str]:
        if self.is_policy:
            return frozenset().union(*(one._can for one in self.members))
        if not self.workers:
            return frozenset((self.status.can if self.status is not None else None) or ())
        return frozenset.intersection(*(frozenset(one.can or ()) for one in self.workers))

    @property
    def abilities(self) -> list[str]:
        """All that its workers can, as far as they tell (`broker.discovery`)."""
        return sorted(self._can)

    def can(self, what: str) -> bool:
        """Whether all its workers tell that they can, as one of a release that does not tell may take the turn; of a
        policy, whether any model does."""
        return what in self._can

    @property
    def can_chat(self) -> bool:
        """Whether it has a chat template."""
        return self.can(CHAT)

    @property
    def can_call(self) -> bool:
        """Whether it is offered tools."""
        return self.can(TOOLS)

    @property
    def can_think(self) -> bool:
        """Whether it may think before it answers."""
        return self.can(THINKING)

    @property
    def name(self) -> str:
        """For people."""
        return self.workers[0].model_name if self.workers else self.id

    @property
    def num_ctx(self) -> int | None:
        """Tokens that its context holds, as far as is known."""
        if self.workers:
            return self.workers[0].num_ctx
        return self.status.num_ctx or None if self.status is not None else None

    @property
    def file(self) -> ModelFile:
        """What its file says of it, as far as that is told."""
        if self.workers:
            return self.workers[0].file
        return NO_FILE if self.status is None else self.status.file

    @property
    def file_bytes(self) -> int:
        """Of its file; 0 where that is not told."""
        if self.workers:
            return self.workers[0].file_bytes or 0
        return 0 if self.status is None else self.status.file_bytes

    @property
    def state(self) -> str | None:
        """As boards have it; None of a policy."""
        if self.is_policy:
            return None
        return LOADED if self.workers or self.status is None else self.status.state

    @property
    def expected_wait_seconds(self) -> float | None:
        """Until an interactive turn would be begun; None of a policy."""
        if self.workers:
            return self.workers[0].load.expected_wait_seconds
        return self.status.expected_wait(INTERACTIVE) if self.status is not None else None


class Models:
    """A model was made when its file was, or else when it was first seen here, as far as we know."""

    def __init__(self, seen: Seen, policies: Sequence[str]) -> None:
        self._seen = seen
        self._policies = policies
        self._started_at = int(time.time())
        self._seen_at: dict[str, int] = {}

    def note(self, workers: Iterable[WorkerInfo]) -> None:
        """Takes note of the workers that are there as of now."""
        for worker in workers:
            self._seen_at.setdefault(worker.model, int(time.time()))

    def listed(self) -> dict[str, Listed]:
        """As of now: what is served, and what boards would load; the policies where there is anything."""
        serving: dict[str, list[WorkerInfo]] = {}
        for worker in sorted(self._seen.workers, key=lambda one: (one.model, one.load.expected_wait_seconds)):
            if worker.is_serving:
                serving.setdefault(worker.model, []).append(worker)
        found = {
            name: Listed(name, self._created(name, [one.file for one in workers]), tuple(workers))
            for name, workers in serving.items()
        }
        for status in self._seen.boards.values():
            if status.is_servable and status.model not in found:
                found[status.model] = Listed(status.model, self._created(status.model, [status.file]), status=status)
        members = tuple(found.values())
        for policy in self._policies if members else ():
            found[policy] = Listed(policy, self._started_at, members=members, is_policy=True)
        return found

    def _created(self, model: str, files: Iterable[ModelFile]) -> int:
        written = (int(one.modified_at) for one in files if one.modified_at)
        return min(written, default=self._seen_at.get(model, self._started_at))
