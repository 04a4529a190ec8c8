"""What peers ask on `kv.<name>`, answered by whoever gives states under that name: a worker, or a board for one."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec
import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker import codec, subjects
from broker.errors import InvalidMessage
from broker.messages import FetchClose, FetchOpen, FetchPart, FetchRefused, FetchRequest, Opened
from workers.health import guarded
from workers.kv.giver import Giver

log = logging.getLogger(__name__)


class Answering:
    """Answers for one giver, each request in a task of the group that it was started with."""

    def __init__(self, nc: NatsConnection, name: str, giver: Giver) -> None:
        """`name` is the one under which the directory has what is given."""
        self._nc = nc
        self._name = name
        self._giver = giver
        self._subscription: Subscription | None = None
        self._group: asyncio.TaskGroup | None = None

    async def start(self, group: asyncio.TaskGroup) -> None:
        """From now on."""
        self._group = group
        self._subscription = await self._nc.subscribe(subjects.kv(self._name), cb=self._on_request)

    async def stop(self) -> None:
        """Gives nothing more; who reads just now computes instead."""
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()
        self._group = None
        self._giver.close_all()

    async def _on_request(self, message: Msg) -> None:
        try:
            request = codec.decode(message.data, FetchRequest, message.headers)
        except InvalidMessage as error:
            log.warning("fetch request not understood error=%s", error)
            with contextlib.suppress(nats.errors.Error):  # so that nobody waits for it
                await message.respond(codec.encode(FetchRefused("not_understood")))
            return
        if self._group is None:
            return
        match request:
            case FetchOpen():
                self._group.create_task(guarded("giving a state", self._answer_open(message, request)))
            case FetchPart():
                self._group.create_task(guarded("giving a state", self._answer_part(message, request)))
            case FetchClose():
                self._giver.close(request.transfer)

    async def _answer_open(self, message: Msg, request: FetchOpen) -> None:
        answer = await self._giver.open(request)
        payload = codec.encode(answer)
        if len(payload) > self._nc.max_payload and isinstance(answer, Opened):
            # Megabytes of text: the prompt is then made from the text that the turn has anyway.
            payload = codec.encode(msgspec.structs.replace(answer, remembered=None))
        with contextlib.suppress(nats.errors.Error):
            await message.respond(payload)

    async def _answer_part(self, message: Msg, request: FetchPart) -> None:
        answer = await self._giver.part(request)
        with contextlib.suppress(nats.errors.Error):
            await message.respond(codec.encode(answer))
