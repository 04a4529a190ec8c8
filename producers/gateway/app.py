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

from broker import points, subjects
from broker.client import Answer, Client
from broker.discovery import WorkerInfo, departures, find_workers
from broker.errors import (
    InvalidMessage,
    InvalidName,
    PayloadTooLarge,
    PublishError,
    QueueFull,
    ServerError,
    UnservedModel,
)
from broker.messages import Done, Priority
from broker.recorder import Recorder
from broker.replies import last_stored
from producers.elsewhere import Elsewhere
from producers.gateway.answering import ClientGone, Stream, Told, beside_client, cancelled_unless_ended, collect
from producers.gateway.dialect import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    Dialect,
    Request,
    conversation_of,
    parse,
    sampling_of,
)
from producers.gateway.keys import Account, Keys
from producers.gateway.openapi import document
from producers.gateway.seen import Seen
from producers.routing import AUTO, Decision, Needs, Routes, choose

MAX_BODY_BYTES = 1024 * 1024
"""What the queue takes, its own fields aside."""
BODY_SECONDS = 30.0
REFRESH_SECONDS = 1.0
PAGE = Path(__file__).parent / "page"
PAGE_FILES = ("index.html", "app.js", "style.css")
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
        self._clients: dict[str, Client] = {}
        self._recorder = Recorder(nc, node, max_buffered=5000)
        self._looked = asyncio.Event()

    def app(self) -> ASGIApp:
        """Its routes."""
        routes = [
            Route("/v1/chat/completions", _Endpoint(self._chat), methods=["POST"]),
            Route("/v1/completions", _Endpoint(self._complete), methods=["POST"]),
            Route("/v1/models", _Endpoint(self._models), methods=["GET"]),
            Route("/v1/models/{model}", _Endpoint(self._model), methods=["GET"]),
            Route("/turns/{turn}", _Endpoint(self._follow), methods=["GET"]),
            Route("/turns/{turn}", _Endpoint(self._cancel), methods=["DELETE"]),
            Route("/health", self._ready, methods=["GET"]),
            Route("/health/live", self._live, methods=["GET"]),
            Route("/health/ready", self._ready, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
            Route("/", self._page, methods=["GET"]),
            Route("/{file}", self._page, methods=["GET"]),
        ]
        return Starlette(routes=routes, exception_handlers={404: _not_found, 405: _not_found})

    async def look(self) -> None:
        """Keeps what is known of the workers, and sends what was measured, until it is cancelled."""
        async with departures(self._nc, self._seen.leave):
            while True:
                found: list[WorkerInfo] = []
                asked_at = time.monotonic()
                with contextlib.suppress(nats.errors.Error, ServerError):
                    found = await find_workers(self._nc)
                self._seen.note(found, asked_at)
                self._looked.set()
                await self._recorder.flush()
                await asyncio.sleep(REFRESH_SECONDS)

    @property
    def workers(self) -> list[WorkerInfo]:
        return self._seen.workers

    # --- Turns ---

    async def _chat(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        account = self._account(request)
        wanted = parse(await _body(request), ChatRequest, leave_out_tools=self._leave_out_tools)
        await self._turn(account, request, wanted, receive, send)

    async def _complete(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        account = self._account(request)
        await self._turn(account, request, parse(await _body(request), CompletionRequest), receive, send)

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
            raise _unavailable(ServerError("the gateway is not connected to NATS just now"))
        needs = _needs(request, wanted)
        decision = await self._route(wanted.model, needs)
        answer = self._answer(self._client(account), request, wanted, decision)
        if decision.policy is not None:
            answer = Elsewhere(answer, decision, lambda tried: self._choose(wanted.model, needs, tried))
        is_detached = request.headers.get("turnpike-detached") == "1"
        account.begin(time.monotonic())
        num_tokens = 0
        try:
            async with cancelled_unless_ended(answer, is_detached=is_detached):
                await _published(answer)
                dialect = Dialect(answer.turn.id, decision.model, isinstance(wanted, ChatRequest))
                if wanted.stream:
                    told = Told(
                        usage=bool(wanted.stream_options and wanted.stream_options.include_usage),
                        details=self._details if request.headers.get("turnpike-details") == "1" else None,
                    )
                    await Stream(answer, dialect, told, lambda: _headers(answer, decision, wanted)).run(receive, send)
                else:
                    done, logprobs = await beside_client(collect(answer), receive)
                    if isinstance(answer, Elsewhere):
                        dialect.id, dialect.model = answer.turn.id, answer.decision.model
                    dialect.fingerprint = answer.started.model if answer.started is not None else None
                    headers = _headers(answer, decision, wanted)
                    await _json(dialect.whole(done, logprobs), headers)(request.scope, receive, send)
        finally:
            if isinstance(answer.end, Done):
                usage = answer.end.usage
                num_tokens = usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens
            account.end(num_tokens, time.monotonic())

    async def _route(self, wanted: str, needs: Needs) -> Decision:
        await self._looked.wait()
        try:
            return self._choose(wanted, needs)
        except UnservedModel as error:
            raise ApiError(
                503, f"no worker for {wanted!r}: {error}", kind="server_error", code="no_worker", retry_after=5.0
            ) from None

    def _choose(self, wanted: str, needs: Needs, without: Collection[str] = ()) -> Decision:
        """Raises UnservedModel."""
        decision = choose(self._routes, wanted, self.workers, needs, without=without)
        if decision.policy is not None:
            fields: dict[str, float | int | bool | str | None] = {"reason": decision.reason}
            tags = {"node": self._node, "policy": decision.policy, "model": decision.model}
            self._recorder.record(points.ROUTE.point(self._recorder.unique(time.time_ns()), tags, fields))
        return decision

    def _answer(self, client: Client, request: HttpRequest, wanted: Request, decision: Decision) -> Answer:
        headers = request.headers
        try:
            return client.ask(
                decision.model,
                wanted.history,
                sampling=sampling_of(wanted),
                conversation=conversation_of(wanted, headers.get("turnpike-conversation")),
                priority=_priority(headers.get("turnpike-priority")),
                deadline=_deadline(headers.get("turnpike-deadline-seconds")),
                raw=isinstance(wanted, CompletionRequest),
            )
        except InvalidMessage as error:
            raise ApiError(400, str(error), param=error.field or None) from None
        except InvalidName:
            raise _no_such_model(wanted.model) from None

    def _details(self, answer: Answer) -> dict[str, Any]:
        """What the page shows of who answered."""
        done = answer.done
        found: dict[str, Any] = {"worker": done.worker, "timings": msgspec.to_builtins(done.timings)}
        found["usage"] = msgspec.to_builtins(done.usage)
        if worker := self._seen.get(done.worker):
            found |= {"node": worker.node, "celsius": worker.load.celsius, "is_throttled": worker.load.is_throttled}
        return found

    async def _follow(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        """A turn of this client's from its beginning on, also one that has ended, as a stream of chat chunks."""
        client = self._client(self._account(request))
        turn = request.path_params["turn"]
        models = {worker.model for worker in self.workers} | set(request.query_params.getlist("model"))
        try:
            answer = client.follow(turn)
            is_there = await self._is_queued(client.name, turn, models) or await client.read(turn) is not None
        except InvalidName as error:
            raise ApiError(404, str(error), code="no_such_turn") from None
        if not is_there:
            raise ApiError(404, f"there is no turn {turn!r}, or it ended a day ago", code="no_such_turn")
        async with cancelled_unless_ended(answer, is_detached=True):
            dialect = Dialect(answer.turn.id, "unknown", is_chat=True)
            told = Told(usage=True, details=self._details)
            await Stream(answer, dialect, told, ()).run(receive, send)

    async def _is_queued(self, client: str, turn: str, models: Iterable[str]) -> bool:
        """Whether it has not ended: until then it is in its model's queue, also while it is computed."""
        for model in models:
            for priority in subjects.PRIORITIES:
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
            raise _unavailable(error) from None
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
        if (found := self._listed().get(name)) is None:
            raise _no_such_model(name)
        await _json(found)(request.scope, receive, send)

    def _listed(self) -> dict[str, dict[str, Any]]:
        """Models and policies, by what a request calls them."""
        listed: dict[str, dict[str, Any]] = {}
        serving = [one for one in self.workers if one.is_serving]
        for worker in sorted(serving, key=lambda one: (one.model, one.load.expected_wait_seconds)):
            seen = listed.setdefault(
                worker.model,
                {
                    "id": worker.model,
                    "object": "model",
                    "created": 0,
                    "owned_by": "turnpike",
                    "name": worker.model_name,
                    "quantization": worker.quantization,
                    "context_length": worker.num_ctx,
                    "expected_wait_seconds": worker.load.expected_wait_seconds,
                    "workers": 0,
                },
            )
            seen["workers"] += 1
        for policy in (AUTO, *self._routes.policies) if listed else ():
            listed[policy] = {"id": policy, "object": "model", "created": 0, "owned_by": "turnpike", "is_policy": True}
        return listed

    async def _live(self, request: HttpRequest) -> Response:
        return _json({"status": "live"})

    async def _ready(self, request: HttpRequest) -> Response:
        if not self._nc.is_connected:
            return _json({"status": "not connected to NATS"}, status=503)
        return _json({"status": "ready", "workers": sum(one.is_serving for one in self.workers)})

    async def _openapi(self, request: HttpRequest) -> Response:
        return _json(document(self._version, keys_are_wanted=self._keys.are_wanted))

    async def _page(self, request: HttpRequest) -> Response:
        name = request.path_params.get("file", "index.html")
        if name not in PAGE_FILES:
            raise HTTPException(404)
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
            await _refused(_unavailable(error))(scope, receive, send)
        except ClientGone:
            log.info("⊘ client gone path=%s", scope["path"])


async def _published(answer: Answer) -> None:
    """Raises ApiError where the queue does not take the turn."""
    try:
        await answer.publish()
    except UnservedModel as error:
        raise _no_such_model(error.model) from None
    except QueueFull as error:
        raise ApiError(429, str(error), kind="requests", code="queue_full", retry_after=5.0) from None
    except PayloadTooLarge as error:
        raise ApiError(413, str(error), code="payload_too_large") from None
    except PublishError as error:
        raise _unavailable(error) from None


async def _body(request: HttpRequest) -> bytes:
    """Bounded in bytes and in time; raises ApiError, ClientGone."""
    too_large = ApiError(413, f"the body has more than {MAX_BODY_BYTES:,} bytes", code="payload_too_large")
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise ApiError(408, f"the body took more than {BODY_SECONDS:.0f} s", code="timeout") from None


def _priority(header: str | None) -> Priority:
    match header:
        case None | "interactive":
            return "interactive"
        case "batch":
            return "batch"
    raise ApiError(400, "Turnpike-Priority: is interactive or batch", param="Turnpike-Priority")


def _deadline(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 7 * 24 * 3600:
        raise ApiError(
            400, "Turnpike-Deadline-Seconds: must be above 0 and at most a week", param="Turnpike-Deadline-Seconds"
        )
    return time.time() + seconds


def _needs(request: HttpRequest, wanted: Request) -> Needs:
    return Needs.of(
        wanted.history,
        raw=isinstance(wanted, CompletionRequest),
        priority=_priority(request.headers.get("turnpike-priority")),
        conversation=conversation_of(wanted, request.headers.get("turnpike-conversation")),
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
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return _json(error.body, headers, error.status)


def _unavailable(error: Exception) -> ApiError:
    return ApiError(503, str(error) or type(error).__name__, kind="server_error", code="unavailable", retry_after=2.0)


def _no_such_model(name: str) -> ApiError:
    return ApiError(404, f"the model {name[:100]!r} is not served here", param="model", code="model_not_found")


async def _not_found(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    what = f"{request.method} {request.url.path}"
    message = f"{what} is not allowed" if status == 405 else f"there is no {what}"
    return _json(ApiError(status, message, code="not_found").body, headers, status)
