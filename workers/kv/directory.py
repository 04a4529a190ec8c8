"""Who has which conversation: a directory of all workers of a model, in the NATS KV bucket HELD."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping

import msgspec
import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import codec, publishing, subjects
from broker.errors import InvalidMessage, PublishError, ServerError
from broker.jetstream import last_stored
from broker.messages import Holding, Remembered
from workers.kv.beginnings import beginning_in
from workers.kv.cache import MIN_OFFLOADED_TOKENS
from workers.kv.checks import StateLayout
from workers.kv.engine_port import States
from workers.kv.index import Key

TELL_SECONDS = 1.0
"""For the directory to take an entry: an answer's end waits for it."""
MAX_ANNOUNCED = 1000
"""Of the conversations found in files at the start."""
SWAPPED_SECONDS = 5.0
"""For the directory to be told what a worker that makes room had."""

log = logging.getLogger(__name__)


def _nothing(client: str, conversation: str) -> Remembered | None:
    return None


class Directory:
    """The directory as one worker writes and reads it. The last to write an entry is the one that has most."""

    def __init__(
        self,
        nc: NatsConnection,
        layout: StateLayout,
        *,
        model: str,
        worker: str,
        is_on: bool,
        is_swapped: bool = False,
    ) -> None:
        """A directory that is off says and knows nothing. With `is_swapped` it is a board that has it all, while it has
        no worker of the model."""
        self._nc = nc
        self._layout = layout
        self._model = model
        self._worker = worker
        self._is_on = is_on
        self._is_swapped = is_swapped

    async def announce(self, client: str, conversation: str, num_tokens: int) -> None:
        """Says that so many tokens of a conversation are here; fewer than are worth a transfer go unsaid."""
        if not self._is_on or num_tokens < MIN_OFFLOADED_TOKENS:
            return
        await self._tell(client, conversation, self._holding(num_tokens))

    async def announce_beginning(self, client: str, beginning: str, conversation: str, num_tokens: int) -> None:
        """Says that this conversation, of so many tokens, begins so: others that do can take that from here."""
        if self._is_on and num_tokens >= MIN_OFFLOADED_TOKENS:
            holding = msgspec.structs.replace(self._holding(num_tokens), conversation=conversation)
            await self._tell(client, beginning, holding)

    def _holding(self, num_tokens: int) -> Holding:
        num_bytes = self._layout.state_bytes(num_tokens)
        return Holding(self._worker, self._layout.fingerprint, num_tokens, num_bytes, is_swapped=self._is_swapped)

    async def _tell(self, client: str, name: str, holding: Holding) -> None:
        subject = subjects.held(self._model, client, name)
        try:
            await publishing.publish(self._nc, subject, codec.encode(holding), timeout=TELL_SECONDS)
        except PublishError as error:
            # Whoever has the next turn computes what is here: slower, not wrong.
            log.info("not in the directory conversation=%s error=%s", name, error)

    async def announce_cached(self, cache: States, recall: Callable[[str, str], Remembered | None] = _nothing) -> None:
        """Announces what an earlier process left in files, unless another worker has more of it by now, and what those
        conversations begin with, where they are known by that: `recall` says what is remembered of them."""
        if not self._is_on:
            return
        for key in (await asyncio.to_thread(cache.keys))[-MAX_ANNOUNCED:]:
            entry = await asyncio.to_thread(cache.entry_of, key)
            if entry is None or entry.num_tokens < MIN_OFFLOADED_TOKENS:
                continue
            with contextlib.suppress(ServerError, nats.errors.Error):
                known, holding = await self.look_up(key), self._holding(entry.num_tokens)
                if known != holding and (known is None or known.num_tokens <= entry.num_tokens):
                    await self._tell_all(key, holding, recall)

    async def _tell_all(self, key: Key, holding: Holding, recall: Callable[[str, str], Remembered | None]) -> None:
        """Of a conversation, and of what it begins with where it is known for that. Raises ServerError."""
        await self._tell(key.client, key.conversation, holding)
        remembered = recall(key.client, key.conversation)
        name = beginning_in(remembered) if remembered is not None else None
        if name is not None and await self._is_known_for(key, name):
            holding = msgspec.structs.replace(holding, conversation=key.conversation)
            await self._tell(key.client, name, holding)

    async def _is_known_for(self, key: Key, beginning: str) -> bool:
        """Whether the directory has that conversation for what begins so."""
        known = await self.look_up(Key(key.client, beginning))
        return known is not None and known.conversation == key.conversation

    async def tell_swapped(
        self,
        held: Mapping[Key, int],
        kept: Collection[Key],
        giver: str,
        recall: Callable[[str, str], Remembered | None] = _nothing,
    ) -> None:
        """Says of conversations, which this worker had so many tokens of, that it made room for another model: `giver`
        has those that are `kept`, nobody the others. Not of what another worker has by now."""
        with contextlib.suppress(ServerError, nats.errors.Error, TimeoutError):
            async with asyncio.timeout(SWAPPED_SECONDS):
                for key, num_tokens in held.items():
                    if num_tokens < MIN_OFFLOADED_TOKENS:
                        continue
                    known = await self.look_up(key)
                    if known is None or known.worker == self._worker:
                        worker = giver if key in kept else self._worker
                        holding = msgspec.structs.replace(self._holding(num_tokens), worker=worker, is_swapped=True)
                        await self._tell_all(key, holding, recall)

    async def look_up(self, key: Key) -> Holding | None:
        """Who has the conversation, this worker perhaps; None where nobody has said so. Raises ServerError."""
        if not self._is_on:
            return None
        stored = await last_stored(self._nc, subjects.KV_HELD, subjects.held(self._model, key.client, key.conversation))
        if stored is None or not stored.payload:
            return None
        try:
            return codec.decode(stored.payload, Holding, stored.headers)
        except InvalidMessage as error:
            log.warning("directory entry not understood error=%s", error)
            return None
