"""A worker among its peers: asks them for states and answers what they ask, on `kv.<worker>`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import codec, subjects
from broker.errors import InvalidMessage
from broker.messages import FetchClose, FetchOpen, FetchPart, FetchRefused, FetchRequest, Opened, StatePart
from workers.health import guarded
from workers.kv.answering import Answering
from workers.kv.cache import OffloadCache
from workers.kv.checks import StateLayout
from workers.kv.directory import Directory
from workers.kv.engine_port import EnginePort
from workers.kv.fetcher import Fetcher, TransferFailed
from workers.kv.giver import Giver
from workers.kv.index import Key
from workers.prompts.history import History

OPEN_SECONDS = 5.0
"""For a peer to answer: its engine's step may have to end first."""
PART_SECONDS = 5.0


class NatsPeerClient:
    """Implements workers.kv.fetcher.PeerClient."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc

    async def open(self, worker: str, key: Key) -> Opened:
        """What the peer has of a conversation, held for us. Raises TransferFailed."""
        return await self._ask(worker, FetchOpen(key.client, key.conversation), OPEN_SECONDS, Opened)

    async def part(self, worker: str, request: FetchPart) -> StatePart:
        """Some bytes of an open state. Raises TransferFailed."""
        return await self._ask(worker, request, PART_SECONDS, StatePart)

    async def close(self, worker: str, transfer: str) -> None:
        """Says that no more of it is wanted; nobody answers."""
        await self._nc.publish(subjects.kv(worker), codec.encode(FetchClose(transfer)))

    async def _ask[T: Opened | StatePart](self, worker: str, request: FetchRequest, timeout: float, kind: type[T]) -> T:
        try:
            answer = await self._nc.request(subjects.kv(worker), codec.encode(request), timeout=timeout)
            # What a later release remembers may be of messages that are not ours: the state is of use all the same.
            found = codec.decode(answer.data, kind | FetchRefused, answer.headers, optional=("remembered", "cuts"))
        except (nats.errors.Error, TimeoutError) as error:
            raise TransferFailed(f"the peer does not answer: {str(error) or type(error).__name__}") from None
        except InvalidMessage as error:
            raise TransferFailed(f"the peer's answer is not understood: {error}") from None
        if isinstance(found, FetchRefused):
            raise TransferFailed(found.reason, "evicted" if found.reason == "gone" else "cheaper")
        assert isinstance(found, kind)
        return found


class Peers:
    """One worker's part in moving states: the directory, what it gives, and what it fetches."""

    def __init__(
        self,
        nc: NatsConnection,
        engine: EnginePort,
        cache: OffloadCache,
        history: History,
        *,
        model: str,
        worker: str,
        layout: StateLayout,
        max_bytes_per_second: float,
    ) -> None:
        """`layout` is what this worker's states are like. 0 bytes a second: nothing is given or fetched."""
        self._cache = cache
        self._history = history
        self._is_on = max_bytes_per_second > 0 and cache.is_on
        self.directory = Directory(nc, layout, model=model, worker=worker, is_on=self._is_on)
        self.giver = Giver(engine, cache, layout, history.recall, max_bytes_per_second=max_bytes_per_second)
        self._answering = Answering(nc, worker, self.giver)
        self.fetcher = Fetcher(
            worker,
            self.directory,
            NatsPeerClient(nc),
            engine,
            cache,
            layout,
            history,
            max_bytes_per_second=max_bytes_per_second,
        )

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Answers peers from now on, each request in a task of `group`, and tells the directory what is here."""
        if self._is_on:
            await self._answering.start(group)
            told = self.directory.announce_cached(self._cache, self._history.recall)
            group.create_task(guarded("the directory", told))

    async def stop(self) -> None:
        """Gives nothing more; who reads just now computes instead."""
        await self._answering.stop()

    async def tell_swapped(self, held: Mapping[Key, int]) -> None:
        """Of a worker with a board: tells the directory that its conversations, of so many tokens each, are with the
        board now, or with nobody where that has not kept them."""
        board = self._cache.board
        if not self._is_on or board is None or (giver := board.giver) is None:
            return
        kept = {key for key, num_tokens in held.items() if self._cache.num_in_files(key) >= num_tokens}
        told = self.directory.tell_swapped(held, kept, giver, self._history.recall)
        await guarded("the directory", told)
