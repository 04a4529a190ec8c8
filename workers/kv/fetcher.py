"""Fetches a conversation's state from the worker that has it, where that is quicker than computing it here.

The directory says who has which conversation. Whoever gets a turn that another worker is ahead with asks that one to
open the state: it tells the length, the tokens and their SHA-256. The bytes then come in parts, a few at a time, as the
fetching side asks for them. Whatever goes wrong, or takes longer than computing would, means computing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, replace
from typing import Protocol

import nats.errors

from broker.errors import ServerError
from broker.messages import MAX_PART_BYTES, CutPoint, FetchPart, Holding, Opened, RecomputedFor, StatePart, Turn
from workers.kv.beginnings import Beginnings, beginning_of
from workers.kv.cache import MIN_OFFLOADED_TOKENS, OffloadCache
from workers.kv.checks import StateLayout, WrongState
from workers.kv.engine_port import EnginePort, num_tokens_here
from workers.kv.index import Key, KvEntry
from workers.prompts.history import History
from workers.prompts.off_loop import MAX_READ, off_loop, size_of

WINDOW = 8
"""Parts that are asked for at once."""
SETUP_SECONDS = 0.02
"""What a transfer costs however short it is."""
FIRST_BYTES_PER_SECOND = 50e6
"""What is expected until one was measured: half of what gigabit Ethernet gives."""
FORGIVING = 1.1
PATIENCE = 1.5
"""A transfer that takes longer than so many times what computing would is given up."""
_SMOOTHING = 0.3

log = logging.getLogger(__name__)


class TransferFailed(Exception):
    """The state did not come; the turn is computed instead. `cause` says what that is counted as."""

    def __init__(self, reason: str, cause: RecomputedFor = "killed") -> None:
        self.cause = cause
        super().__init__(reason)


class Lookup(Protocol):
    """Where a conversation is. Implemented by workers.kv.directory.Directory."""

    async def look_up(self, key: Key) -> Holding | None:
        """Who has it; None where nobody has said so. Raises ServerError."""
        ...


class PeerClient(Protocol):
    """Asks other workers. Implemented by workers.kv.peers.NatsPeerClient."""

    async def open(self, worker: str, key: Key) -> Opened:
        """What the peer has of a conversation, held for us. Raises TransferFailed."""
        ...

    async def part(self, worker: str, request: FetchPart) -> StatePart:
        """Some bytes of an open state. Raises TransferFailed."""
        ...

    async def close(self, worker: str, transfer: str) -> None:
        """Says that no more of it is wanted; nobody answers."""
        ...


class TransferRate:
    """How fast states come from peers: expected at first, then as it was measured."""

    def __init__(self, max_bytes_per_second: float) -> None:
        self._first = self.bytes_per_second = min(FIRST_BYTES_PER_SECOND, max_bytes_per_second)

    def seconds(self, num_bytes: int) -> float:
        """What fetching so many bytes is expected to take."""
        return SETUP_SECONDS + num_bytes / self.bytes_per_second

    def learn(self, num_bytes: int, seconds: float) -> None:
        """A transfer of so many bytes took so long."""
        rate = num_bytes / max(seconds, 1e-6)
        self.bytes_per_second += _SMOOTHING * (rate - self.bytes_per_second)

    def forgive(self) -> None:
        """A network that was slow once is not slow for ever: it is tried again some day."""
        self.bytes_per_second = min(FORGIVING * self.bytes_per_second, self._first)


@dataclass
class Offer:
    """What a peer has of a turn's conversation, opened for us."""

    holding: Holding
    opened: Opened | None = None
    cause: RecomputedFor = "cheaper"
    """What it is counted as where it is not fetched."""
    is_beginning: bool = False
    """It is another conversation's, that begins alike."""


@dataclass(frozen=True)
class _Wanted:
    """How much of an opened state is fetched, and which of its checkpoints are in that."""

    num_bytes: int
    cuts: tuple[CutPoint, ...]


def _cause(holding: Holding, cause: RecomputedFor) -> RecomputedFor:
    """What computing is counted as: of a worker that made room for another model it was that, but for another file."""
    return "swapped" if holding.is_swapped and cause != "fingerprint" else cause


class Fetcher:
    """Finds what peers offer for a turn, and fetches it into the cache."""

    def __init__(
        self,
        worker: str,
        directory: Lookup,
        peers: PeerClient,
        engine: EnginePort,
        cache: OffloadCache,
        layout: StateLayout,
        history: History,
        *,
        max_bytes_per_second: float,
    ) -> None:
        """`worker` is this one's name: what it has itself needs no fetching."""
        self._worker = worker
        self._directory = directory
        self._peers = peers
        self._engine = engine
        self._cache = cache
        self._layout = layout
        self._history = history
        self._rate = TransferRate(max_bytes_per_second)
        self._beginnings = Beginnings()

    async def find(self, client: str, turn: Turn) -> Offer | None:
        """A peer that is ahead of us with the turn's conversation, and what it offers; None where there is none.

        Its memory of the conversation becomes ours, so that the prompt is made of the very tokens that it computed. A
        new conversation may be offered another one that begins alike.
        """
        if await off_loop(size_of(turn), lambda: self._history.is_current(client, turn), at_most=MAX_READ):
            return None
        key = Key(client, turn.conversation)
        holding = await self._held(key) if len(turn.messages) > 1 else None
        if holding is None:
            return await self._beginning(client, turn)
        if holding.worker == self._worker:
            # An earlier process of this name made room for another model, and nobody has kept it.
            return Offer(holding, cause="swapped") if holding.is_swapped else None
        offer = await self._opened(key, holding)
        if offer.opened is not None and offer.opened.remembered is not None:
            self._history.adopt(client, turn.conversation, offer.opened.remembered)
        return offer

    async def _held(self, key: Key) -> Holding | None:
        try:
            return await self._directory.look_up(key)
        except ServerError as error:
            log.warning("no directory error=%s", error)
            return None

    async def _beginning(self, client: str, turn: Turn) -> Offer | None:
        """What a peer has of another conversation that begins as this one does, where this worker has seen none."""
        name = beginning_of(turn)
        if name is None or not self._beginnings.is_new(client, name):
            return None
        holding = await self._held(Key(client, name))
        if holding is None or holding.conversation is None or holding.worker == self._worker:
            return None
        offer = await self._opened(Key(client, holding.conversation), holding)
        return replace(offer, is_beginning=True)

    async def _opened(self, key: Key, holding: Holding) -> Offer:
        """What the peer has, opened where it is of use and worth fetching."""
        offer = Offer(holding, cause=_cause(holding, "cheaper"))
        num_saved = holding.num_tokens - num_tokens_here(self._engine, self._cache, key)
        try:
            self._layout.check_announced(holding)
            if not self._is_worth(num_saved, holding.num_bytes):
                self._rate.forgive()
                return offer
            opened = await self._peers.open(holding.worker, key)
            self._layout.check_opened(opened, self._cache.max_bytes)
        except (TransferFailed, WrongState) as error:
            log.info("nothing fetched peer=%s reason=%s", holding.worker, error)
            offer.cause = _cause(holding, error.cause)
        else:
            offer.opened = opened
        return offer

    def _is_worth(self, num_tokens: int, num_bytes: int) -> bool:
        """Whether there is room for so many bytes, and fetching them is sooner done than computing so many tokens."""
        if num_bytes > self._cache.max_bytes or num_tokens < MIN_OFFLOADED_TOKENS:
            return False
        return self._rate.seconds(num_bytes) < self._compute_seconds(num_tokens)

    def _compute_seconds(self, num_tokens: int) -> float:
        return num_tokens / (self._engine.snapshot.prefill_tokens_per_second or 1e9)

    async def fetch(self, offer: Offer, key: Key, prompt: bytes, num_here: int) -> float | None:
        """Brings an offered state into the cache where it is still worth it; the seconds that it took, None where it
        was not fetched. `prompt` is packed, and `num_here` of its tokens need no computing anyway."""
        opened = offer.opened
        if opened is None:
            return None
        started = time.perf_counter()
        wanted, num_saved = self._wanted(opened, prompt, num_here)
        try:
            if wanted is None:
                return None
            async with asyncio.timeout(max(PATIENCE * self._compute_seconds(num_saved), SETUP_SECONDS)):
                state = await self._read(offer.holding.worker, opened.transfer, wanted.num_bytes)
                check = self._layout.check_content
                await asyncio.to_thread(check, opened.tokens, state, opened.sha256, wanted.cuts, opened.cuts_sha256)
        except TimeoutError:
            log.info("fetching given up, computing is quicker peer=%s", offer.holding.worker)
            self._rate.learn(opened.num_bytes, 2 * (time.perf_counter() - started))
            return None
        except (TransferFailed, WrongState) as error:
            offer.cause = _cause(offer.holding, error.cause)
            log.info("fetching failed peer=%s reason=%s", offer.holding.worker, error)
            return None
        finally:
            with contextlib.suppress(nats.errors.Error):
                await self._peers.close(offer.holding.worker, opened.transfer)
        entry = KvEntry(key, opened.tokens, len(state), opened.num_canonical, wanted.cuts)
        self._cache.offload(entry, state, "peer")
        seconds = time.perf_counter() - started
        self._rate.learn(len(state), seconds)
        log.info("fetched peer=%s tokens=%d bytes=%d", offer.holding.worker, entry.num_tokens, len(state))
        return seconds

    def _wanted(self, opened: Opened, prompt: bytes, num_here: int) -> tuple[_Wanted | None, int]:
        """What of an opened state is worth fetching, with its checkpoints or without them, and the tokens that it
        saves; None where neither is."""
        for cuts in (opened.cuts, ()) if opened.cuts else ((),):
            num_saved = self._cache.num_usable(opened.tokens, prompt, cuts) - num_here
            wanted = _Wanted(opened.num_bytes + sum(one.num_bytes for one in cuts), cuts)
            if self._is_worth(num_saved, wanted.num_bytes):
                return wanted, num_saved
        return None, 0

    async def _read(self, worker: str, transfer: str, num_bytes: int) -> bytearray:
        state = bytearray(num_bytes)
        offsets = iter(range(0, num_bytes, MAX_PART_BYTES))

        async def read_some() -> None:
            for offset in offsets:  # shared by all readers: each takes the next
                size = min(MAX_PART_BYTES, num_bytes - offset)
                part = await self._peers.part(worker, FetchPart(transfer, offset, size))
                if len(part.data) != size:
                    raise TransferFailed(f"{len(part.data)} bytes came instead of {size}")
                state[offset : offset + size] = part.data

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(WINDOW):
                    group.create_task(read_some())
        except* TransferFailed as errors:
            raise errors.exceptions[0] from None
        return state
