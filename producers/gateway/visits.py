"""A request that is no turn, with what a dialect's handler may need to answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.requests import Request as HttpRequest

from broker.client import Client
from broker.discovery import WorkerInfo
from broker.model_status import ModelStatus
from producers.gateway.bodies import Harmless, read
from producers.gateway.errors import ApiError, no_such_model, unsupported
from producers.gateway.models import Listed, Models
from producers.gateway.naming import meant
from producers.gateway.seen import Seen


@dataclass(frozen=True)
class Visit:
    """One request."""

    request: HttpRequest
    """Its path's parameters, its query and its head; the body was read."""
    body: bytes
    _client: Client | None
    version: str
    """Turnpike's."""
    is_strict: bool
    _models: Models
    _seen: Seen
    ignored: list[str] = field(default_factory=list)
    """Fields of the body that ask for something that is not done; a header says so."""

    @property
    def client(self) -> Client:
        """The queue's, for this request's key; there is none of a path that needs no key."""
        assert self._client is not None
        return self._client

    @property
    def workers(self) -> list[WorkerInfo]:
        """Those that are there as of now."""
        return self._seen.workers

    async def models(self) -> dict[str, Listed]:
        """All that a turn can be for, by its name: what is served, what boards would load, and the policies."""
        await self._seen.once()
        return self._models.listed()

    async def model(self, name: str) -> Listed:
        """The one of that name; raises ApiError where there is none."""
        if (found := (await self.models()).get(name)) is None:
            raise no_such_model(name, self._seen.choices())
        return found

    async def meant(self, name: str) -> Listed | None:
        """The one that a client means by a name, which need not be written as ours are."""
        listed = await self.models()
        return listed.get(meant(name, {one.name: one.id for one in listed.values()} | {one: one for one in listed}))

    def status(self, model: str) -> ModelStatus | None:
        """What boards do about a model, also where they cannot load it."""
        boards = self._seen.boards
        return boards.get(meant(model, {one: one for one in boards}))

    def read[T](self, kind: type[T], harmless: Mapping[str, Harmless] | None = None) -> T:
        """The body; raises ApiError, which names the field. `harmless` fields ask for nothing with some values."""
        found, unknown = read(self.body, kind, harmless)
        if unknown and self.is_strict:
            raise unsupported(unknown[0])
        self.ignored.extend(unknown)
        return found

    def path_parameter(self, name: str) -> str:
        """A part of the path, "" where it is empty."""
        found = self.request.path_params.get(name, "")
        assert isinstance(found, str)
        return found


def missing(what: str) -> ApiError:
    """A 404 of something that is no model."""
    return ApiError(404, f"there is no {what}", code="not_found")
