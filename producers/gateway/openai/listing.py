"""What `/v1/models` lists. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from broker.discovery import THINKING, WorkerInfo
from broker.model_status import LOADED, ModelStatus
from broker.priorities import INTERACTIVE


class Listing:
    """Models and policies, by what a request calls them. A model was made when it was first seen here, as far as we
    know."""

    def __init__(self) -> None:
        self._started_at = int(time.time())
        self._seen_at: dict[str, int] = {}

    def note(self, workers: Iterable[WorkerInfo]) -> None:
        """Takes note of the workers that are there as of now."""
        for worker in workers:
            self._seen_at.setdefault(worker.model, int(time.time()))

    def of(
        self, workers: Iterable[WorkerInfo], boards: Mapping[str, ModelStatus], policies: Iterable[str]
    ) -> dict[str, dict[str, Any]]:
        """What is served just now, and what boards would load; the policies where there is anything."""
        listed: dict[str, dict[str, Any]] = {}
        serving = [one for one in workers if one.is_serving]
        for worker in sorted(serving, key=lambda one: (one.model, one.load.expected_wait_seconds)):
            seen = listed.setdefault(
                worker.model,
                self._entry(worker.model, self._seen_at.get(worker.model, self._started_at))
                | {
                    "name": worker.model_name,
                    "quantization": worker.quantization,
                    "context_length": worker.num_ctx,
                    "expected_wait_seconds": worker.load.expected_wait_seconds,
                    "workers": 0,
                    "thinking": True,
                    "state": LOADED,
                },
            )
            seen["workers"] += 1
            # One of a release that does not tell may take the turn, and does not know how to be told.
            seen["thinking"] = seen["thinking"] and THINKING in (worker.can or ())
        for status in boards.values():
            if status.is_servable and status.model not in listed:
                listed[status.model] = self._loadable(status)
        is_thinking = any(one["thinking"] for one in listed.values())
        for policy in policies if listed else ():
            listed[policy] = self._entry(policy, self._started_at) | {"is_policy": True, "thinking": is_thinking}
        return listed

    def _loadable(self, status: ModelStatus) -> dict[str, Any]:
        """A model that a board would load first: what a worker would tell, as far as its board does."""
        found = self._entry(status.model, self._seen_at.get(status.model, self._started_at))
        wait = status.expected_wait(INTERACTIVE)
        found |= {"name": status.model, "expected_wait_seconds": wait, "workers": 0, "state": status.state}
        found["thinking"] = THINKING in (status.can or ())
        if status.num_ctx:
            found["context_length"] = status.num_ctx
        if status.share is not None:
            found["loaded_share"] = status.share
        return found

    def _entry(self, name: str, created: int) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": created, "owned_by": "turnpike"}
