"""A turn over HTTP: chosen for, published as its client's, and told whole or as a stream until it ends or the client is
gone."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
from nats.aio.client import Client as NatsConnection
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Send

from broker.answer import Answer
from broker.client import Client
from broker.errors import InvalidMessage, InvalidName, ServerError
from broker.messages import Sampling
from broker.messages.turns import Thinking
from producers.gateway.choosing import Chooser
from producers.gateway.clients import Clients
from producers.gateway.dialect import AnswerWriter, TurnRequest
from producers.gateway.errors import ApiError, no_such_model, unavailable
from producers.gateway.heads import deadline_of, is_said, priority_of
from producers.gateway.in_work import InWork
from producers.gateway.keys import Account
from producers.gateway.naming import beginning_of, conversation_of
from producers.gateway.patience import Patience
from producers.gateway.places import Places
from producers.gateway.reading import beside_client, cancelled_unless_ended, collect, published
from producers.gateway.responses import json_response
from producers.gateway.seen import Seen
from producers.gateway.stream import Comments, Stream
from producers.routing.asking import FallbackAnswer
from producers.routing.policies import Decision, Needs


@dataclass(frozen=True)
class _Asked:
    """A turn that is not published yet: its answer, and why that model has it."""

    wanted: TurnRequest
    answer: Answer
    decision: Decision

    def headers(self) -> list[tuple[bytes, bytes]]:
        """As of now: a turn whose model a policy chose may have gone to the next one."""
        answer, decision = self.answer, self.decision
        decision = answer.decision if isinstance(answer, FallbackAnswer) else decision
        found = {
            "turnpike-turn": answer.turn.id,
            "turnpike-conversation": answer.turn.conversation,
            "turnpike-model": decision.model,
            "turnpike-route": f"{decision.policy}: {decision.reason}" if decision.policy else decision.reason,
        }
        if self.wanted.left_out is not None:
            found["turnpike-left-out"] = self.wanted.left_out
        return [(name.encode(), value.encode()) for name, value in found.items()]

    def writer(self) -> AnswerWriter:
        """Of the answer, in the request's dialect."""
        return self.wanted.writer(self.answer.turn.id, self.decision.model)


class Turns:
    """The turns that are posted to a gateway, in whatever dialect. `thinking` is for chats that leave it open."""

    def __init__(
        self,
        nc: NatsConnection,
        clients: Clients,
        chooser: Chooser,
        seen: Seen,
        places: Places,
        in_work: InWork,
        thinking: Thinking | None,
    ) -> None:
        self._nc = nc
        self._clients = clients
        self._chooser = chooser
        self._seen = seen
        self._places = places
        self._in_work = in_work
        self._thinking = thinking

    async def answer(
        self, account: Account, request: HttpRequest, wanted: TurnRequest, receive: Receive, send: Send
    ) -> None:
        """Publishes the turn and sends its answer; raises ApiError before anything was sent, ClientGone."""
        if not self._nc.is_connected:
            raise unavailable(ServerError("the gateway is not connected to NATS just now"))
        client, priority = self._clients.of(account), priority_of(request.headers)
        asked = await self._asked(client, request, wanted)
        is_detached = is_said(request.headers, "turnpike-detached")
        account.begin(time.monotonic())
        self._in_work.begin(client, asked.answer)
        try:
            async with cancelled_unless_ended(asked.answer, is_detached=is_detached) as reading:
                await published(asked.answer, self._seen.choices)
                if wanted.is_streamed:
                    if await self._stream(asked, request, receive, send):
                        reading.detach()
                else:
                    await self._send_whole(asked, request, receive, send)
        finally:
            self._in_work.leave(asked.answer)
            self._places.settle(account, client.name, asked.answer, priority=priority)

    async def _asked(self, client: Client, request: HttpRequest, wanted: TurnRequest) -> _Asked:
        """Raises ApiError."""
        headers = request.headers
        deadline, named = deadline_of(headers), headers.get("turnpike-conversation")
        beginning, priority = beginning_of(wanted, named), priority_of(headers)
        offer, sampling = wanted.offer, self._sampling_of(wanted)
        needs = Needs.of(
            wanted.history, raw=wanted.is_raw, tools=offer.tools, priority=priority, conversation=beginning
        )
        decision = await self._chooser.first(wanted.model, needs)
        try:
            answer = client.ask(
                decision.model,
                wanted.history,
                sampling=sampling,
                conversation=conversation_of(wanted, named),
                priority=priority,
                deadline=deadline,
                raw=wanted.is_raw,
                chat_template_kwargs=wanted.template_kwargs,
                tools=offer.tools,
                tool_choice=offer.choice,
                parallel_tool_calls=offer.is_parallel,
            )
        except InvalidMessage as error:
            raise ApiError(400, str(error), param=error.field or None) from None
        except InvalidName:
            raise no_such_model(decision.model) from None
        if deadline is None:  # who gives one waits as long
            await self._chooser.check_served(decision.model)
        if (policy := decision.policy) is not None:
            answer = FallbackAnswer.instead_of(
                answer, decision, lambda tried: self._chooser.again(policy, needs, tried)
            )
        return _Asked(wanted, answer, decision)

    def _sampling_of(self, wanted: TurnRequest) -> Sampling:
        """With this gateway's word on thoughts where a chat has none, nor template variables. Raises ApiError."""
        found = wanted.sampling()
        if found.thinking is not None or wanted.template_kwargs or wanted.is_raw:
            return found
        return msgspec.structs.replace(found, thinking=self._thinking)

    async def _stream(self, asked: _Asked, request: HttpRequest, receive: Receive, send: Send) -> bool:
        """Whether the client was told to read the turn elsewhere, so that it must go on."""
        answer = asked.answer
        comments = Comments(
            details=self._seen.details if is_said(request.headers, "turnpike-details") else None,
            num_workers=lambda: self._seen.num_serving(answer.model),
            status=lambda: self._seen.boards.get(answer.model),
        )
        stream = Stream(answer, asked.writer(), comments, asked.headers, self._patience(answer))
        await stream.run(receive, send)
        return stream.is_referred

    async def _send_whole(self, asked: _Asked, request: HttpRequest, receive: Receive, send: Send) -> None:
        answer, writer = asked.answer, asked.writer()
        done, logprobs = await beside_client(self._patience(answer).bounded(collect(answer, writer)), receive)
        if isinstance(answer, FallbackAnswer):
            writer.goes_to(answer.turn.id, answer.decision.model)
        if answer.started is not None:
            writer.begun_with(answer.started.model)
        await json_response(writer.whole(done, logprobs), asked.headers())(request.scope, receive, send)

    def _patience(self, answer: Answer) -> Patience:
        def num_able() -> int:
            return self._seen.num_able(answer.model, has_begun=answer.started is not None)

        return Patience(answer, num_able, lambda: self._seen.boards.get(answer.model))
