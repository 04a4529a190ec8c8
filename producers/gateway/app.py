"""The gateway: HTTP on one side, the queue on the other. It holds no state that another gateway needs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client as NatsConnection
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from broker import points, serving, subjects
from broker.client import Answer, Client
from broker.connection import check, trouble
from broker.discovery import WorkerInfo, departures, find_workers
from broker.errors import (
    InvalidMessage,
    InvalidName,
    PublishError,
    ServerError,
    UnservedModel,
)
from broker.health import Rounds
from broker.jetstream import last_stored
from broker.priorities import PRIORITIES
from broker.recorder import Recorder
from producers.gateway.answering import (
    ClientGone,
    Stream,
    Told,
    beside_client,
    cancelled_unless_ended,
    collect,
    published,
)
from producers.gateway.heads import body_of, deadline_of, is_said, priority_of
from producers.gateway.keys import Account, Keys
from producers.gateway.openai.dialect import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    Dialect,
    Request,
    beginning_of,
    conversation_of,
    parse,
    sampling_of,
)
from producers.gateway.openai.errors import no_such_model, no_worker, unavailable
from producers.gateway.openai.listing import Listing
from producers.gateway.openai.openapi import document
from producers.gateway.patience import Patience
from producers.gateway.places import Places
from producers.gateway.seen import STALE_SECONDS, Seen
from producers.routing.asking import Elsewhere
from producers.routing.policies import AUTO, Decision, Needs, Routes, choose

REFRESH_SECONDS = 1.0
LOOK_SECONDS = 120.0
"""By when a look at the workers is over, also where the server is slow to take points."""
PAGE = Path(__file__).parent / "page"
PAGE_FILES = ("index.html", "app.js", "style.css")
MAX_MODELS_ASKED = 16
"""Whose queues are looked through for one turn."""
SECURITY = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'self'",
            "img-src 'self' data:",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

log = logging.getLogger(__name__)


class Gateway:
    """All gateways answer alike; what this one keeps is what it saw of the workers lately, and its clients' limits."""

    def __init__(
        self, nc: NatsConnection, keys: Keys, routes: Routes, *, node: str, version: str, leave_out_tools: bool = False
    ) -> None:
        self._nc = nc
        self._leave_out_tools = leave_out_tools
        self._keys = keys
        self._routes = routes
        self._node = node
        self._version = version
        self._seen = Seen()
        self._listing = Listing()
        self._unserved_at: dict[str, float] = {}
        """When nobody was last found to serve a model that has a queue."""
        self._clients: dict[str, Client] = {}
        self._recorder = Recorder(nc, node, max_buffered=5000)
        self._looked = asyncio.Event()
        self._places = Places(nc)
        self._rounds = Rounds()

    def app(self) -> ASGIApp:
        """Its routes."""
        routes = [
            Route("/v1/chat/completions", _Endpoint(self._chat), methods=["POST"]),
            Route("/v1/completions", _Endpoint(self._complete), methods=["POST"]),
            Route("/v1/models", _Endpoint(self._models), methods=["GET"]),
            Route("/v1/models/{model:path}", _Endpoint(self._model), methods=["GET"]),
            Route("/turns/{turn}", _Endpoint(self._one_turn), methods=["GET", "DELETE"]),
            Route("/health", self._ready, methods=["GET"]),
            Route("/health/live", self._live, methods=["GET"]),
            Route("/health/ready", self._ready, methods=["GET"]),
            Route("/live", self._live, methods=["GET"]),
            Route("/ready", self._ready, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
            Route("/", self._page, methods=["GET"]),
            *(Route(f"/{name}", self._page, methods=["GET"]) for name in PAGE_FILES),
        ]
        return Starlette(routes=routes, exception_handlers={404: _not_found, 405: _not_found})

    async def look(self) -> None:
        """Keeps what is known of the workers, and sends what was measured, until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._places.run())
            await self._look()

    async def _look(self) -> None:
        async with departures(self._nc, self._seen.leave):
            while True:
                check(self._nc)
                self._rounds.begin("the look at the workers", LOOK_SECONDS)
                found: list[WorkerInfo] = []
                asked_at = time.monotonic()
                with contextlib.suppress(nats.errors.Error, ServerError):
                    found = await find_workers(self._nc)
                self._seen.note(found, asked_at)
                self._listing.note(self.workers)
                self._looked.set()
                await self._recorder.flush()
                await asyncio.sleep(REFRESH_SECONDS)

    @property
    def workers(self) -> list[WorkerInfo]:
        return self._seen.workers

    # --- Turns ---

    async def _chat(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        account = self._account(request)
        wanted = parse(
            await body_of(request.headers, request.receive), ChatRequest, leave_out_tools=self._leave_out_tools
        )
        await self._turn(account, request, wanted, receive, send)

    async def _complete(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        account = self._account(request)
        await self._turn(
            account, request, parse(await body_of(request.headers, request.receive), CompletionRequest), receive, send
        )

    def _account(self, request: HttpRequest) -> Account:
        return self._keys.account(request.headers.get("authorization"))

    def _client(self, account: Account) -> Client:
        if account.name not in self._clients:
            self._clients[account.name] = Client.on(self._nc, account.name)
        return self._clients[account.name]

    async def _turn(
        self, account: Account, request: HttpRequest, wanted: Request, receive: Receive, send: Send
    ) -> None:
        if not self._nc.is_connected:
            raise unavailable(ServerError("the gateway is not connected to NATS just now"))
        client, priority = self._client(account), priority_of(request.headers)
        deadline = deadline_of(request.headers)
        needs = _needs(request, wanted)
        decision = await self._route(wanted.model, needs)
        answer = self._answer(client, request, wanted, decision, deadline)
        if deadline is None:  # who gives one waits as long
            await self._check_served(decision.model)
        if (policy := decision.policy) is not None:
            answer = Elsewhere(answer, decision, lambda tried: self._choose(policy, needs, tried))
        is_detached = is_said(request.headers, "turnpike-detached")
        account.begin(time.monotonic())
        try:
            async with cancelled_unless_ended(answer, is_detached=is_detached) as reading:
                await published(answer)
                dialect = Dialect(answer.turn.id, decision.model, isinstance(wanted, ChatRequest))
                patience = Patience(answer, lambda: self._num_able(answer))
                if wanted.stream:
                    told = Told(
                        usage=bool(wanted.stream_options and wanted.stream_options.include_usage),
                        details=self._details if is_said(request.headers, "turnpike-details") else None,
                        num_workers=lambda: self._num_workers(answer.model),
                    )
                    stream = Stream(answer, dialect, told, lambda: _headers(answer, decision, wanted), patience)
                    await stream.run(receive, send)
                    reading.is_detached |= stream.is_referred
                else:
                    done, logprobs = await beside_client(patience.bounded(collect(answer)), receive)
                    if isinstance(answer, Elsewhere):
                        dialect.id, dialect.model = answer.turn.id, answer.decision.model
                    dialect.fingerprint = answer.started.model if answer.started is not None else None
                    headers = _headers(answer, decision, wanted)
                    await _json(dialect.whole(done, logprobs), headers)(request.scope, receive, send)
        finally:
            self._places.settle(account, client.name, answer, priority=priority)

    def _num_workers(self, model: str) -> int:
        return sum(worker.model == model and worker.is_serving for worker in self.workers)

    def _num_able(self, answer: Answer) -> int:
        """How many may answer it: those that serve its model, and once it was begun also those that finish what they
        have."""
        has_begun = answer.started is not None
        return sum(one.model == answer.model and (has_begun or one.is_serving) for one in self.workers)

    async def _check_served(self, model: str) -> None:
        """Raises ApiError where the model's queue would take a turn that nobody takes from it."""
        if self._num_workers(model):
            return
        if not await serving.has_queue(self._nc, model):
            raise no_such_model(model)
        if time.monotonic() - self._unserved_at.get(model, -STALE_SECONDS) > REFRESH_SECONDS:
            if await serving.is_served(self._nc, model):
                return
            self._unserved_at[model] = time.monotonic()
        raise no_worker(model)

    async def _route(self, wanted: str, needs: Needs) -> Decision:
        name = wanted or self._routes.default
        if name is None:
            message = "model is required: it is one of those that /v1/models lists"
            raise ApiError(400, message, param="model", code="missing_required_parameter")
        await self._looked.wait()
        try:
            return self._choose(name, needs)
        except UnservedModel:
            raise no_worker(name) from None

    def _choose(self, wanted: str, needs: Needs, without: Collection[str] = ()) -> Decision:
        """Raises UnservedModel."""
        decision = choose(self._routes, wanted, self.workers, needs, without=without)
        if decision.policy is not None:
            fields: dict[str, float | int | bool | str | None] = {"reason": decision.reason}
            tags = {"node": self._node, "policy": decision.policy, "model": decision.model}
            self._recorder.record(points.ROUTE.point(self._recorder.unique(time.time_ns()), tags, fields))
        return decision

    def _answer(
        self, client: Client, request: HttpRequest, wanted: Request, decision: Decision, deadline: float | None
    ) -> Answer:
        try:
            return client.ask(
                decision.model,
                wanted.history,
                sampling=sampling_of(wanted),
                conversation=conversation_of(wanted, request.headers.get("turnpike-conversation")),
                priority=priority_of(request.headers),
                deadline=deadline,
                raw=isinstance(wanted, CompletionRequest),
            )
        except InvalidMessage as error:
            raise ApiError(400, str(error), param=error.field or None) from None
        except InvalidName:
            raise no_such_model(decision.model) from None

    def _details(self, answer: Answer) -> dict[str, Any]:
        """What the page shows of who answered."""
        done = answer.done
        found: dict[str, Any] = {"worker": done.worker, "timings": msgspec.to_builtins(done.timings)}
        found["usage"] = msgspec.to_builtins(done.usage)
        if worker := self._seen.get(done.worker):
            found |= {"node": worker.node, "celsius": worker.load.celsius, "is_throttled": worker.load.is_throttled}
        return found

    async def _one_turn(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        await (self._cancel if request.method == "DELETE" else self._follow)(request, receive, send)

    async def _follow(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        """A turn of this client's from its beginning on, also one that has ended, as a stream of chat chunks."""
        client = self._client(self._account(request))
        turn = request.path_params["turn"]
        asked = request.query_params.getlist("model")[:MAX_MODELS_ASKED]
        models = {worker.model for worker in self.workers} | set(asked)
        try:
            answer = client.follow(turn)
            is_there = await self._is_queued(client.name, turn, models) or await client.read(turn) is not None
        except InvalidName as error:
            raise ApiError(404, str(error), code="no_such_turn") from None
        if not is_there:
            raise ApiError(404, f"there is no turn {turn!r}, or it ended a day ago", code="no_such_turn")
        if request.method == "HEAD":
            await _json({})(request.scope, receive, send)
            return
        async with cancelled_unless_ended(answer, is_detached=True):
            dialect = Dialect(answer.turn.id, "unknown", is_chat=True)
            told = Told(usage=True, details=self._details)
            await Stream(answer, dialect, told, ()).run(receive, send)

    async def _is_queued(self, client: str, turn: str, models: Iterable[str]) -> bool:
        """Whether it has not ended: until then it is in its model's queue, also while it is computed."""
        for model in models:
            for priority in PRIORITIES:
                subject = subjects.turn(model, priority, client, turn)
                with contextlib.suppress(ServerError):  # no such model
                    if await last_stored(self._nc, subjects.turns_stream(model), subject) is not None:
                        return True
        return False

    async def _cancel(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        client = self._client(self._account(request))
        try:
            await client.cancel(turn=request.path_params["turn"])
        except InvalidName as error:
            raise ApiError(404, str(error), code="no_such_turn") from None
        except PublishError as error:
            raise unavailable(error) from None
        await Response(status_code=204)(request.scope, receive, send)

    # --- The rest ---

    async def _models(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        self._account(request)
        await self._looked.wait()
        found = {"object": "list", "data": [*self._listed().values()]}
        await _json(found)(request.scope, receive, send)

    async def _model(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        self._account(request)
        await self._looked.wait()
        name = request.path_params["model"]
        if not name:
            await self._models(request, receive, send)
            return
        if (found := self._listed().get(name)) is None:
            raise no_such_model(name)
        await _json(found)(request.scope, receive, send)

    def _listed(self) -> dict[str, dict[str, Any]]:
        return self._listing.of(self.workers, (AUTO, *self._routes.policies))

    async def _live(self, request: HttpRequest) -> Response:
        if (problem := trouble(self._nc) or self._rounds.trouble()) is not None:
            return _json({"status": problem}, status=503)
        return _json({"status": "live"})

    async def _ready(self, request: HttpRequest) -> Response:
        if (problem := trouble(self._nc)) is not None:
            return _json({"status": problem}, status=503)
        if not self._nc.is_connected:
            return _json({"status": "not connected to NATS"}, status=503)
        return _json({"status": "ready", "workers": sum(one.is_serving for one in self.workers)})

    async def _openapi(self, request: HttpRequest) -> Response:
        return _json(document(self._version, keys_are_wanted=self._keys.are_wanted))

    async def _page(self, request: HttpRequest) -> Response:
        name = request.url.path.lstrip("/") or "index.html"
        return FileResponse(PAGE / name, headers=SECURITY | {"Cache-Control": "no-cache"})


class _Endpoint:
    """An ASGI application of a handler: its errors become the API's, a client that has gone is no error."""

    def __init__(self, handle: Callable[[HttpRequest, Receive, Send], Awaitable[None]]) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HttpRequest(scope, receive)
        try:
            await self._handle(request, receive, send)
        except ApiError as error:
            await _refused(error)(scope, receive, send)
        except (ServerError, nats.errors.Error) as error:
            await _refused(unavailable(error))(scope, receive, send)
        except ClientGone:
            log.info("⊘ client gone path=%s", scope["path"])


def _needs(request: HttpRequest, wanted: Request) -> Needs:
    return Needs.of(
        wanted.history,
        raw=isinstance(wanted, CompletionRequest),
        priority=priority_of(request.headers),
        conversation=beginning_of(wanted, request.headers.get("turnpike-conversation")),
    )


def _headers(answer: Answer, decision: Decision, wanted: Request) -> list[tuple[bytes, bytes]]:
    decision = answer.decision if isinstance(answer, Elsewhere) else decision
    found = {
        "turnpike-turn": answer.turn.id,
        "turnpike-conversation": answer.turn.conversation,
        "turnpike-model": decision.model,
        "turnpike-route": f"{decision.policy}: {decision.reason}" if decision.policy else decision.reason,
    }
    if isinstance(wanted, ChatRequest) and wanted.tools:
        found["turnpike-left-out"] = "tools"
    return [(name.encode(), value.encode()) for name, value in found.items()]


def _json(value: Any, headers: list[tuple[bytes, bytes]] | None = None, status: int = 200) -> Response:
    response = Response(msgspec.json.encode(value), status, media_type="application/json")
    response.raw_headers.extend(headers or [])
    return response


def _refused(error: ApiError) -> Response:
    headers = (
        [(b"retry-after", str(max(1, round(error.retry_after))).encode())] if error.retry_after is not None else []
    )
    if not error.may_retry:
        headers.append((b"x-should-retry", b"false"))  # OpenAI's libraries ask again after a 408 or 500 else
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return _json(error.body, headers, error.status)


async def _not_found(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    what = f"{request.method} {request.url.path[:100]}"
    if status == 405:
        return _json(ApiError(405, f"{what} is not allowed", code="method_not_supported").body, headers, 405)
    return _json(ApiError(status, f"there is no {what}", code="not_found").body, headers, status)
