"""Turns over HTTP: chosen for, published as their client's, and told whole or as a stream until they end or the client
is gone."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from nats.aio.client import Client as NatsConnection
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Send

from broker.answer import Answer
from broker.client import Client
from broker.errors import InvalidName, ServerError
from broker.priorities import Priority
from producers.gateway.abilities import abilities_for
from producers.gateway.choosing import Chooser
from producers.gateway.clients import Clients
from producers.gateway.dialect import After, AnswerWriter, Asked, Finished, TurnRequest
from producers.gateway.errors import ApiError, no_such_model, unavailable
from producers.gateway.heads import deadline_of, is_said, priority_of
from producers.gateway.in_work import InWork, Read
from producers.gateway.keys import Account
from producers.gateway.manners import Manners
from producers.gateway.naming import beginning_of, conversation_of
from producers.gateway.patience import Patience
from producers.gateway.places import Places
from producers.gateway.posted import shown
from producers.gateway.reading import beside_client, cancelled_unless_ended, collect, published, together
from producers.gateway.responses import json_response
from producers.gateway.seen import Seen
from producers.gateway.stream import Comments, Settle, Stream
from producers.routing.asking import FallbackAnswer
from producers.routing.lengths import parts_of
from producers.routing.policies import Decision, Needs

MAX_TURNS = 128
"""Of one request."""


@dataclass(frozen=True)
class _Taken:
    """The turns of a request that are not published yet: their answers, and why that model has them."""

    wanted: TurnRequest
    ignored: Sequence[str]
    answers: Sequence[Answer]
    decision: Decision

    def headers(self) -> list[tuple[bytes, bytes]]:
        """As of now: a turn whose model a policy chose may have gone to the next one."""
        found, decision = {}, self.decision
        if self.answers:
            first = self.answers[0]
            if isinstance(first, FallbackAnswer):
                decision = first.decision
            found = {
                "turnpike-turn": ", ".join(answer.turn.id for answer in self.answers),
                "request-id": first.turn.id,
                "x-request-id": first.turn.id,
                "turnpike-conversation": first.turn.conversation,
            }
        found["turnpike-model"] = decision.model
        found["turnpike-route"] = f"{decision.policy}: {decision.reason}" if decision.policy else decision.reason
        if self.ignored:
            found["turnpike-ignored"] = ", ".join(self.ignored)
        return [(name.encode(), value.encode()) for name, value in found.items()]

    def writer(self) -> AnswerWriter:
        """Of the answers, in the request's dialect."""
        return self.wanted.writer(self.answers[0].turn.id if self.answers else "", self.decision.model)


class _Ending:
    """What is done once all turns of a request have ended, whoever reads them then."""

    def __init__(self, taken: _Taken, client: Client, after: After | None) -> None:
        self._taken = taken
        self._client = client
        self._after = after
        self._is_settled = False

    async def settle(self, writer: AnswerWriter, finished: Sequence[Finished]) -> None:
        """For the reader, before the end is told."""
        if self._after is not None:
            await self._after(writer, finished, self._client)
        self._is_settled = True

    def close(self) -> None:
        """The reader was told how it ended, be it that it has failed."""
        self._is_settled = True

    @property
    def without_reader(self) -> Read | None:
        """How a turn that goes on, is being stopped or has just ended is read once its reader has left; None where it
        does not matter. A request with an `after` is one turn."""
        if self._after is None or self._is_settled or len(self._taken.answers) != 1:
            return None
        return self._read

    async def _read(self, answer: Answer) -> None:
        writer = self._taken.writer()
        if isinstance(first := self._taken.answers[0], FallbackAnswer):
            writer.goes_to(0, answer.turn.id, first.decision.model)
        with contextlib.suppress(ApiError):  # it failed: nothing is to be kept
            await self.settle(writer, [await collect(answer, writer)])


class Turns:
    """The turns that are posted to a gateway, in whatever dialect."""

    def __init__(
        self,
        nc: NatsConnection,
        clients: Clients,
        chooser: Chooser,
        seen: Seen,
        places: Places,
        in_work: InWork,
        manners: Manners,
    ) -> None:
        self._nc = nc
        self._clients = clients
        self._chooser = chooser
        self._seen = seen
        self._places = places
        self._in_work = in_work
        self._manners = manners

    async def answer(
        self,
        account: Account,
        request: HttpRequest,
        wanted: TurnRequest,
        ignored: Sequence[str],
        receive: Receive,
        send: Send,
        after: After | None = None,
    ) -> None:
        """Publishes the turns and sends their answers; a header names what was `ignored`, and `after` is done before
        their end is told. Raises ApiError before anything was sent, ClientGone."""
        if not self._nc.is_connected:
            raise unavailable(ServerError("the gateway is not connected to NATS just now"))
        client, priority = self._clients.of(account), priority_of(request.headers)
        taken = await self._taken(client, request, wanted, ignored)

        ending = _Ending(taken, client, after)
        is_detached = is_said(request.headers, "turnpike-detached")
        held = self._places.held(account, client.name, taken.answers, priority=priority)
        send = held.given_back_before_the_last(send)
        self._in_work.begin(client, *taken.answers)
        try:
            async with cancelled_unless_ended(*taken.answers, is_detached=is_detached) as reading:
                for answer in taken.answers:
                    await published(answer, self._seen.choices)
                if wanted.is_streamed:
                    if await self._stream(taken, request, receive, send, ending.settle):
                        reading.detach()
                    else:
                        ending.close()
                else:
                    await self._send_whole(taken, request, receive, send, ending.settle)
        except ApiError:
            ending.close()
            raise
        finally:
            self._in_work.leave(*taken.answers, read=ending.without_reader)
            held.give_back()

    async def _taken(self, client: Client, request: HttpRequest, wanted: TurnRequest, ignored: Sequence[str]) -> _Taken:
        """Raises ApiError."""
        headers = request.headers
        said, priority = headers.get("turnpike-conversation") or wanted.conversation, priority_of(headers)
        deadline = deadline_of(headers)
        all_asked, left_out = self._manners.kept(wanted.asked())
        ignored = shown([*left_out, *ignored])
        if len(all_asked) > MAX_TURNS:
            raise ApiError(400, f"{len(all_asked)} answers are asked for, and {MAX_TURNS} are allowed at once")
        if not all_asked:  # it only wants its model to be there
            decision = await self._chooser.first(wanted.model, Needs())
            await self._chooser.check_served(decision.model)
            return _Taken(wanted, ignored, (), decision)
        needs = self._needs_of(all_asked, beginning_of(said, all_asked[0].told), request)
        decision = await self._chooser.first(wanted.model, needs)
        answers = self._ask(client, all_asked, decision.model, said, priority, deadline)
        if deadline is None:  # who gives one waits as long
            await self._chooser.check_served(decision.model)
        if (policy := decision.policy) is not None:
            answers = [
                FallbackAnswer.instead_of(answer, decision, lambda tried: self._chooser.again(policy, needs, tried))
                for answer in answers
            ]
        return _Taken(wanted, ignored, answers, decision)

    def _ask(
        self,
        client: Client,
        all_asked: Sequence[Asked],
        model: str,
        said: str | None,
        priority: Priority,
        deadline: float | None,
    ) -> list[Answer]:
        """Raises ApiError."""
        prompts: list[object] = []
        answers = []
        for asked in all_asked:
            prompt = (asked.history, asked.more)
            if prompt not in prompts:
                prompts.append(prompt)
            try:
                answer = client.ask(
                    model,
                    asked.history,
                    conversation=conversation_of(said, asked.told, prompts.index(prompt)),
                    priority=priority,
                    deadline=deadline,
                    **asked.options,
                )
            except InvalidName:
                raise no_such_model(model) from None
            answers.append(answer)
        return answers

    def _needs_of(self, all_asked: Sequence[Asked], beginning: str, request: HttpRequest) -> Needs:
        """Of a model that is to answer them all: those of the longest."""
        priority = priority_of(request.headers)
        found = [
            Needs.of(
                one.history,
                raw=one.is_raw,
                kind=one.more.get("kind", "generate"),
                tools=one.offer.tools,
                priority=priority,
                conversation=beginning,
                **parts_of(one.more),
            )
            for one in all_asked
        ]
        can = frozenset().union(*(one.can for one in found), *map(abilities_for, all_asked))
        return dataclasses.replace(found[0], can=can, num_tokens=max(one.num_tokens for one in found))

    async def _stream(self, taken: _Taken, request: HttpRequest, receive: Receive, send: Send, settle: Settle) -> bool:
        """Whether the client was told to read the turns elsewhere, so that they must go on."""
        comments = Comments(
            details=self._seen.details if is_said(request.headers, "turnpike-details") else None,
            num_workers=lambda answer: self._seen.num_serving(answer.model),
            status=lambda answer: self._seen.boards.get(answer.model),
        )
        stream = Stream(taken.answers, taken.writer(), comments, taken.headers, self._patience, settle)
        await stream.run(receive, send)
        return stream.is_referred

    async def _send_whole(
        self, taken: _Taken, request: HttpRequest, receive: Receive, send: Send, settle: Settle
    ) -> None:
        writer = taken.writer()
        works = [self._patience(answer).bounded(collect(answer, writer)) for answer in taken.answers]
        finished = await beside_client(together(works), receive)
        for index, answer in enumerate(taken.answers):
            if isinstance(answer, FallbackAnswer):
                writer.goes_to(index, answer.turn.id, answer.decision.model)
            if answer.started is not None:
                writer.begun_with(index, answer.started)
        await settle(writer, finished)
        await json_response(writer.whole(finished), taken.headers())(request.scope, receive, send)

    def _patience(self, answer: Answer) -> Patience:
        def num_able() -> int:
            return self._seen.num_able(answer.model, has_begun=answer.started is not None)

        return Patience(answer, num_able, lambda: self._seen.boards.get(answer.model))
