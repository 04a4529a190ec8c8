"""What a turn takes of its client's limits, from its beginning until it has ended: whoever still reads, or has left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from starlette.types import Message, Send

from broker import codec, subjects
from broker.answer import Answer
from broker.errors import InvalidMessage, ServerError
from broker.jetstream import last_stored
from broker.messages import Chunk, Done, End, Failed
from broker.replies import read_end
from producers.gateway.keys import Account
from producers.routing.lengths import PARTS, about

LOOK_SECONDS = 5.0
"""Between two looks for an end that did not arrive."""

log = logging.getLogger(__name__)


class Held:
    """The places of one request's turns. Each is given back once."""

    def __init__(self, answers: Sequence[Answer], settle: Callable[[Answer], None]) -> None:
        self._left = list(answers)
        self._settle = settle

    def give_back(self) -> None:
        """The request is over."""
        self._give_back(self._left)

    def given_back_before_the_last(self, send: Send) -> Send:
        """`send`, before whose last message those that have ended give their places back: who has a whole answer may
        ask for the next one at once."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._give_back([answer for answer in self._left if not answer.may_run])
            await send(message)

        return sending

    def _give_back(self, answers: Sequence[Answer]) -> None:
        self._left = [answer for answer in self._left if answer not in answers]
        for answer in answers:
            self._settle(answer)


class Places:
    """The turns of clients that have limits. One that is left before its end keeps its place while it runs, and costs
    what it has cost."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Waits for the ends of turns that were left, until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None

    def held(self, account: Account, client: str, answers: Sequence[Answer], *, priority: str) -> Held:
        """Takes the places of a request's turns; raises ApiError where the account may have no more."""
        account.begin(time.monotonic(), len(answers))
        return Held(answers, lambda answer: self._end(account, client, answer, priority))

    def _end(self, account: Account, client: str, answer: Answer, priority: str) -> None:
        """The request is over; the turn, where it is not, is waited for."""
        if not answer.may_run or not account.has_limits or self._group is None:
            account.end(cost_of(answer, answer.end), time.monotonic())
        else:
            self._group.create_task(self._settle(account, client, answer, priority))

    async def _settle(self, account: Account, client: str, answer: Answer, priority: str) -> None:
        num_later, end = 0, None
        try:
            num_later, end = await self._until_ended(client, answer, priority)
        except Exception:
            log.exception("! turn not accounted turn=%s", answer.turn.id)
        finally:
            account.end(cost_of(answer, end, num_later), time.monotonic())

    async def _until_ended(self, client: str, answer: Answer, priority: str) -> tuple[int, End | None]:
        """How many tokens came meanwhile, and the end; None where the turn is gone without one."""
        ended = asyncio.Event()
        num_tokens = 0

        async def on_reply(message: Msg) -> None:
            nonlocal num_tokens
            with contextlib.suppress(InvalidMessage):
                arrived = codec.decode_reply(message.data, message.headers)
                if isinstance(arrived, Chunk):
                    num_tokens += len(arrived.tokens)
                elif isinstance(arrived, Done | Failed):
                    ended.set()

        subscription = await self._nc.subscribe(subjects.live(client, answer.turn.id), cb=on_reply)
        try:
            num_missing = 0
            while True:
                with contextlib.suppress(ServerError, InvalidMessage):
                    is_queued = await self._is_queued(client, answer, priority)
                    if (end := await read_end(self._nc, client, answer.turn.id)) is not None:
                        return num_tokens, end
                    num_missing += not is_queued
                    if num_missing > 1:
                        return num_tokens, None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), LOOK_SECONDS)
                ended.clear()
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _is_queued(self, client: str, answer: Answer, priority: str) -> bool:
        """Whether it has not ended: until then it is in its model's queue, also while it is computed."""
        subject = subjects.turn(answer.model, priority, client, answer.turn.id)
        return await last_stored(self._nc, subjects.turns_stream(answer.model), subject) is not None


def cost_of(answer: Answer, end: End | None, num_later: int = 0) -> int:
    """In tokens: those that were computed of the prompt, and those that were generated.

    A turn that failed has no usage: what was sent of it counts, and of one that was begun and had its deadline pass the
    prompt: as its worker has counted it, or by its length.
    """
    turn = answer.turn
    match end:
        case Done(usage=usage):
            return usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens
        case Failed(code="deadline") if answer.started is not None:
            parts = {name: getattr(turn, name) for name in PARTS}
            num_prompt = answer.started.prompt_tokens or about(turn.messages, raw=turn.raw, tools=turn.tools, **parts)
            return answer.num_tokens + num_later + num_prompt
    return answer.num_tokens + num_later
