"""Which model answers a request, and whether anybody serves it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection

from nats.aio.client import Client as NatsConnection

from broker import availability, points
from broker.discovery import CHAT, RAW, TOOLS
from broker.errors import InvalidName, UnservedModel
from broker.model_status import is_coming
from broker.recorder import Recorder
from producers.gateway.errors import (
    ApiError,
    no_queue_yet,
    no_such_model,
    no_tools,
    no_worker,
    not_loaded,
    unable,
)
from producers.gateway.naming import meant
from producers.gateway.seen import STALE_SECONDS, Seen
from producers.routing.policies import AUTO, Decision, Needs, NoneAble, Routes, choose

UNSERVED_SECONDS = 1.0
"""For so long a model that nobody was found to serve is not asked for again."""


class Chooser:
    """Chooses by the workers that were seen lately and by what boards could load, and records what a policy chose."""

    def __init__(self, nc: NatsConnection, routes: Routes, seen: Seen, recorder: Recorder, node: str) -> None:
        self._nc = nc
        self._routes = routes
        self._seen = seen
        self._recorder = recorder
        self._node = node
        self._unserved_at: dict[str, float] = {}
        """When nobody was last found to serve a model that has a queue."""

    async def first(self, wanted: str, needs: Needs) -> Decision:
        """For a model, a policy, or nothing: then the default's, or the only one that there is. Raises ApiError."""
        await self._seen.once()
        choices = self._seen.choices()
        name = wanted or self._routes.default or (choices[0] if len(choices) == 1 else None)
        if name is None:
            message = "model is required: it is one of those that /v1/models lists"
            raise ApiError(400, message, param="model", code="missing_required_parameter")
        name = meant(name, self._known())
        try:
            decision = self.again(name, needs)
        except NoneAble:
            raise no_tools(name) if self._is_for_tools_alone(name, needs) else no_worker(name) from None
        except UnservedModel:
            raise no_worker(name) from None
        for what in needs.can - {CHAT, RAW}:  # those a worker refuses by itself, in better words
            if not self._seen.can_all(decision.model, what):
                raise no_tools(name) if what == TOOLS else unable(name, what)
        return decision

    def _known(self) -> dict[str, str]:
        """What a name can stand for: models, by their tokens and as people write them, and policies."""
        models = self._seen.choices()
        names = {one.model_name: one.model for one in self._seen.workers} | {one: one for one in models}
        return names | {one: one for one in (AUTO, *self._routes.policies)}

    def _is_for_tools_alone(self, name: str, needs: Needs) -> bool:
        """Whether a policy that finds no model for a turn would find one if that had no tools."""
        if TOOLS not in needs.can:
            return False
        try:
            self._choose(name, dataclasses.replace(needs, can=needs.can - {TOOLS}))
        except UnservedModel:
            return False
        return True

    def again(self, wanted: str, needs: Needs, without: Collection[str] = ()) -> Decision:
        """Raises UnservedModel where there is no other than those in `without`."""
        decision = self._choose(wanted, needs, without)
        if decision.policy is not None:
            fields: dict[str, float | int | bool | str | None] = {"reason": decision.reason}
            tags = {"node": self._node, "policy": decision.policy, "model": decision.model}
            self._recorder.record(points.ROUTE.point(self._recorder.unique(time.time_ns()), tags, fields))
        return decision

    def _choose(self, wanted: str, needs: Needs, without: Collection[str] = ()) -> Decision:
        seen = self._seen
        return choose(self._routes, wanted, seen.workers, needs, boards=seen.boards, without=without)

    async def _has_queue(self, model: str) -> bool:
        try:
            return await availability.has_queue(self._nc, model)
        except InvalidName:
            return False

    async def check_served(self, model: str) -> None:
        """Raises ApiError where the model's queue would take a turn that nobody takes from it, now or once a board has
        loaded it."""
        if self._seen.num_serving(model):
            return
        status = self._seen.boards.get(model)
        if not await self._has_queue(model):
            raise no_such_model(model, self._seen.choices()) if status is None else no_queue_yet(model)
        if is_coming(status):
            return
        if time.monotonic() - self._unserved_at.get(model, -STALE_SECONDS) > UNSERVED_SECONDS:
            if await availability.is_served(self._nc, model):
                return
            self._unserved_at[model] = time.monotonic()
        if status is not None:
            raise not_loaded(status)
        raise no_worker(model, self._seen.choices() if self._seen.boards else ())
