"""What `/v1/models` lists. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from broker.discovery import THINKING, WorkerInfo


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

    def of(self, workers: Iterable[WorkerInfo], policies: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What is served just now, the policies where anything is."""
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
                },
            )
            seen["workers"] += 1
            # One of a release that does not tell may take the turn, and does not know how to be told.
            seen["thinking"] = seen["thinking"] and THINKING in (worker.can or ())
        is_thinking = any(one["thinking"] for one in listed.values())
        for policy in policies if listed else ():
            listed[policy] = self._entry(policy, self._started_at) | {"is_policy": True, "thinking": is_thinking}
        return listed

    def _entry(self, name: str, created: int) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": created, "owned_by": "turnpike"}
