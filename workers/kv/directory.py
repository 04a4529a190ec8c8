"""Who has which conversation: a directory of all workers of a model, in the NATS KV bucket HELD."""

from __future__ import annotations

import contextlib
import logging

import msgspec
import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import codec, publishing, subjects
from broker.errors import InvalidMessage, PublishError, ServerError
from broker.jetstream import last_stored
from broker.messages import Holding
from workers.kv.cache import MIN_OFFLOADED_TOKENS, OffloadCache
from workers.kv.checks import StateLayout
from workers.kv.index import Key

TELL_SECONDS = 1.0
"""For the directory to take an entry: an answer's end waits for it."""
MAX_ANNOUNCED = 1000
"""Of the conversations found on disk at the start."""

log = logging.getLogger(__name__)


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
    ) -> None:
        """A directory that is off says and knows nothing."""
        self._nc = nc
        self._layout = layout
        self._model = model
        self._worker = worker
        self._is_on = is_on

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
        return Holding(self._worker, self._layout.fingerprint, num_tokens, self._layout.state_bytes(num_tokens))

    async def _tell(self, client: str, name: str, holding: Holding) -> None:
        subject = subjects.held(self._model, client, name)
        try:
            await publishing.publish(self._nc, subject, codec.encode(holding), timeout=TELL_SECONDS)
        except PublishError as error:
            # Whoever has the next turn computes what is here: slower, not wrong.
            log.info("not in the directory conversation=%s error=%s", name, error)

    async def announce_cached(self, cache: OffloadCache) -> None:
        """Announces what an earlier process of ours left on disk, unless another worker has more of it by now."""
        for key in cache.keys()[-MAX_ANNOUNCED:]:
            entry = cache.entry_of(key)
            with contextlib.suppress(ServerError, nats.errors.Error):
                known = await self.look_up(key)
                if entry is not None and (known is None or known.num_tokens <= entry.num_tokens):
                    await self.announce(key.client, key.conversation, entry.num_tokens)

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
