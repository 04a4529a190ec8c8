"""A conversation's state from the worker that has it to the one that has its turn.

A directory in a NATS KV bucket says who has which conversation. Whoever gets a turn that another worker is ahead with
opens a transfer: the peer copies the state out of its context, or finds it parked, and tells its length, its tokens and
their SHA-256. The state then comes in parts that the taker asks for, a few at a time, so that it is the taker who says
how fast, and the giver no faster than its limit. Whatever goes wrong, or takes longer than computing would, means
computing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker import codec, publishing, subjects
from broker.errors import InvalidMessage, PublishError, ServerError
from broker.jetstream import last_stored
from broker.messages import (
    MAX_PART_BYTES,
    FetchClose,
    FetchOpen,
    FetchPart,
    FetchRefused,
    FetchRequest,
    Holding,
    Opened,
    RecomputedFor,
    StatePart,
    Turn,
    new_id,
)
from workers.engine.loop import EngineLoop
from workers.engine.protocol import State
from workers.health import guarded
from workers.kv.cache import MIN_OFFLOADED_TOKENS, OffloadCache
from workers.kv.index import TOKEN_BYTES, Key, KvEntry, checksum, common_tokens
from workers.prompts.history import History

WINDOW = 8
"""Parts that are asked for at once."""
OPEN_SECONDS = 5.0
"""For a peer to answer: its engine's step may have to end first."""
PART_SECONDS = 5.0
TELL_SECONDS = 1.0
"""For the directory to take an entry: an answer's end waits for it."""
IDLE_SECONDS = 15.0
"""After which a transfer that nobody reads is forgotten."""
MAX_TRANSFERS = 4
MAX_ANNOUNCED = 1000
"""Of the conversations found on disk at the start."""
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


class Throttle:
    """So many bytes a second, in the order of asking."""

    def __init__(self, bytes_per_second: float) -> None:
        self._seconds_per_byte = 1 / bytes_per_second
        self._free_at = 0.0

    def delay(self, num_bytes: int, now: float) -> float:
        """Seconds to wait before so many bytes may go."""
        begin = max(now, self._free_at)
        self._free_at = begin + num_bytes * self._seconds_per_byte
        return begin - now


@dataclass
class Offer:
    """What a peer has of a turn's conversation, opened for us."""

    holding: Holding
    opened: Opened | None = None
    cause: RecomputedFor = "cheaper"
    """What it is counted as where it is not taken."""


@dataclass
class _Transfer:
    """A state on its way out. Its bytes stay here while it is read, whatever becomes of the original."""

    state: State
    used_at: float


class Handoff:
    """One worker's part in it: gives what it has, finds and takes what it needs."""

    def __init__(
        self,
        nc: NatsConnection,
        worker: str,
        model: str,
        fingerprint: str,
        loop: EngineLoop,
        cache: OffloadCache,
        history: History,
        *,
        max_bytes_per_second: float,
    ) -> None:
        """`fingerprint` is of the model file and all else that decides how a state is laid out. No bytes a second: no
        handing over at all."""
        self._nc = nc
        self._worker = worker
        self._model = model
        self._fingerprint = fingerprint
        self._loop = loop
        self._cache = cache
        self._history = history
        self._max_bytes_per_second = max_bytes_per_second
        self._throttle = Throttle(max_bytes_per_second or math.inf)
        self._transfers: dict[str, _Transfer] = {}
        self._num_opening = 0
        self._subscription: Subscription | None = None
        self._group: asyncio.TaskGroup | None = None
        self._first_bytes_per_second = min(FIRST_BYTES_PER_SECOND, max_bytes_per_second)
        self._bytes_per_second = self._first_bytes_per_second
        self.given_bytes = 0
        """Sent to peers since the start."""

    @property
    def is_on(self) -> bool:
        # A model that cannot forget a part of its state has states of all lengths: none could be checked by its own.
        return self._max_bytes_per_second > 0 and self._cache.is_on and self._loop.engine.can_remove_part

    # --- Life ---

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Gives from now on; what there is to do for it is done in `group`."""
        if self.is_on:
            self._group = group
            self._subscription = await self._nc.subscribe(subjects.kv(self._worker), cb=self._on_request)
            group.create_task(guarded("the directory", self._announce_parked(self._cache.keys())))

    async def stop(self) -> None:
        """Gives nothing more; who reads just now computes instead."""
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()
        self._group = None
        self._transfers.clear()

    # --- The directory ---

    async def announce(self, client: str, conversation: str, num_tokens: int) -> None:
        """Says that the conversation is here, so long."""
        if self.is_on and num_tokens >= MIN_OFFLOADED_TOKENS:
            holding = Holding(
                self._worker, self._fingerprint, num_tokens, self._loop.calibration.state_bytes(num_tokens)
            )
            subject = subjects.held(self._model, client, conversation)
            try:
                await publishing.publish(self._nc, subject, codec.encode(holding), timeout=TELL_SECONDS)
            except PublishError as error:
                # Whoever has the next turn computes what is here: slower, not wrong.
                log.info("not in the directory conversation=%s error=%s", conversation, error)

    async def _announce_parked(self, keys: Iterable[Key]) -> None:
        """What an earlier process of ours left on disk, unless another worker is further by now."""
        for key in list(keys)[-MAX_ANNOUNCED:]:
            offloaded = self._cache.held(key)
            with contextlib.suppress(ServerError, nats.errors.Error):
                known = await self._look_up(key)
                if offloaded is not None and (known is None or known.num_tokens <= offloaded.num_tokens):
                    await self.announce(key.client, key.conversation, offloaded.num_tokens)

    async def _look_up(self, key: Key) -> Holding | None:
        stored = await last_stored(self._nc, subjects.KV_HELD, subjects.held(self._model, key.client, key.conversation))
        if stored is None or not stored.payload:
            return None
        try:
            return codec.decode(stored.payload, Holding, stored.headers)
        except InvalidMessage as error:
            log.warning("directory entry not understood error=%s", error)
            return None

    # --- Taking ---

    async def find(self, client: str, turn: Turn) -> Offer | None:
        """A peer that is ahead of us with the turn's conversation, and what it offers; None where there is none.

        Its memory of the conversation becomes ours, so that the prompt is made of the very tokens that it computed.
        """
        key = Key(client, turn.conversation)
        if not self.is_on or len(turn.messages) < 2 or self._history.is_current(client, turn):
            return None
        try:
            holding = await self._look_up(key)
        except ServerError as error:
            log.warning("no directory error=%s", error)
            return None
        if holding is None or holding.worker == self._worker:
            return None
        offer = Offer(holding)
        if holding.fingerprint != self._fingerprint:
            offer.cause = "fingerprint"
        elif self._saves(holding.num_tokens - self._num_here(key), holding.num_bytes):
            try:
                offer.opened = await self._open(key, holding)
            except TransferFailed as error:
                log.info("nothing fetched peer=%s reason=%s", holding.worker, error)
                offer.cause = error.cause
        else:
            # A network that was slow once is not for ever: it is tried again some day.
            self._bytes_per_second = min(FORGIVING * self._bytes_per_second, self._first_bytes_per_second)
        if offer.opened is not None and offer.opened.remembered is not None:
            self._history.adopt(client, turn.conversation, offer.opened.remembered)
        return offer

    def _num_here(self, key: Key) -> int:
        offloaded = self._cache.held(key)
        return max(self._loop.snapshot.resident.get(key, 0), offloaded.num_tokens if offloaded is not None else 0)

    def _compute_seconds(self, num_tokens: int) -> float:
        return num_tokens / (self._loop.snapshot.prefill_tokens_per_second or 1e9)

    def _saves(self, num_tokens: int, num_bytes: int) -> bool:
        """Whether there is room for so many bytes, and fetching them is sooner done than computing so many tokens."""
        if num_bytes > self._cache.max_bytes:
            return False
        fetching = SETUP_SECONDS + num_bytes / self._bytes_per_second
        return num_tokens >= MIN_OFFLOADED_TOKENS and fetching < self._compute_seconds(num_tokens)

    async def _open(self, key: Key, holding: Holding) -> Opened:
        answer = await self._ask(holding.worker, FetchOpen(key.client, key.conversation), OPEN_SECONDS, Opened)
        num_tokens = len(answer.tokens) // TOKEN_BYTES
        if (
            answer.fingerprint != self._fingerprint
            or len(answer.tokens) % TOKEN_BYTES
            or not 0 < answer.num_bytes == self._loop.calibration.state_bytes(num_tokens) <= self._cache.max_bytes
        ):
            raise TransferFailed("what the peer has is not of this model's shape", "fingerprint")
        return answer

    async def fetch(self, offer: Offer, key: Key, prompt: bytes, num_here: int) -> float | None:
        """Takes the state where it is still worth it, and parks it; the seconds that it took, None where it was not
        taken. `prompt` is packed, and `num_here` of its tokens need no computing anyway."""
        opened = offer.opened
        if opened is None:
            return None
        started = time.perf_counter()
        num_saved = common_tokens(opened.tokens, prompt) - num_here
        try:
            if not self._saves(num_saved, opened.num_bytes):
                return None
            async with asyncio.timeout(max(PATIENCE * self._compute_seconds(num_saved), SETUP_SECONDS)):
                state = await self._read(offer.holding.worker, opened)
                digest = await asyncio.to_thread(checksum, opened.tokens, state)
            if digest != opened.sha256:
                raise TransferFailed("the checksum is wrong")
        except TimeoutError:
            log.info("fetching given up, computing is quicker peer=%s", offer.holding.worker)
            self._learn(opened.num_bytes, 2 * (time.perf_counter() - started))
            return None
        except TransferFailed as error:
            offer.cause = error.cause
            log.info("fetching failed peer=%s reason=%s", offer.holding.worker, error)
            return None
        finally:
            with contextlib.suppress(nats.errors.Error):
                await self._nc.publish(subjects.kv(offer.holding.worker), codec.encode(FetchClose(opened.transfer)))
        offloaded = KvEntry(key, opened.tokens, opened.num_bytes, opened.num_canonical)
        self._cache.offload(offloaded, state, "peer")
        seconds = time.perf_counter() - started
        self._learn(opened.num_bytes, seconds)
        log.info("fetched peer=%s tokens=%d bytes=%d", offer.holding.worker, offloaded.num_tokens, opened.num_bytes)
        return seconds

    def _learn(self, num_bytes: int, seconds: float) -> None:
        rate = num_bytes / max(seconds, 1e-6)
        self._bytes_per_second += _SMOOTHING * (rate - self._bytes_per_second)

    async def _read(self, worker: str, opened: Opened) -> bytearray:
        state = bytearray(opened.num_bytes)
        offsets = iter(range(0, opened.num_bytes, MAX_PART_BYTES))

        async def read_some() -> None:
            for offset in offsets:  # shared by all readers: each takes the next
                size = min(MAX_PART_BYTES, opened.num_bytes - offset)
                request = FetchPart(opened.transfer, offset, size)
                part = await self._ask(worker, request, PART_SECONDS, StatePart)
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

    async def _ask[T: Opened | StatePart](self, worker: str, request: FetchRequest, timeout: float, kind: type[T]) -> T:
        try:
            answer = await self._nc.request(subjects.kv(worker), codec.encode(request), timeout=timeout)
            # What a later release remembers may be of messages that are not ours: the state is of use all the same.
            found = codec.decode(answer.data, kind | FetchRefused, answer.headers, optional=("remembered",))
        except (nats.errors.Error, TimeoutError) as error:
            raise TransferFailed(f"the peer does not answer: {str(error) or type(error).__name__}") from None
        except InvalidMessage as error:
            raise TransferFailed(f"the peer's answer is not understood: {error}") from None
        if isinstance(found, FetchRefused):
            raise TransferFailed(found.reason, "evicted" if found.reason == "gone" else "cheaper")
        assert isinstance(found, kind)
        return found

    # --- Giving ---

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
                self._transfers.pop(request.transfer, None)

    async def _answer_open(self, message: Msg, request: FetchOpen) -> None:
        answer: Opened | FetchRefused
        self._forget_idle()
        key = Key(request.client, request.conversation)
        if not self._has_room(self._loop.calibration.state_bytes(self._num_here(key))):
            answer = FetchRefused("busy")
        else:
            self._num_opening += 1
            try:
                answer = await self._begin(key) or FetchRefused("gone")
            finally:
                self._num_opening -= 1
        payload = codec.encode(answer)
        if len(payload) > self._nc.max_payload and isinstance(answer, Opened):
            # Megabytes of text: the prompt is then made from the text that the turn has anyway.
            payload = codec.encode(msgspec.structs.replace(answer, remembered=None))
        with contextlib.suppress(nats.errors.Error):
            await message.respond(payload)

    def _has_room(self, num_bytes: int) -> bool:
        """States that are read stay in memory beside those that are parked: few, and half as many bytes at most."""
        if not self._transfers and not self._num_opening:
            return True
        num_held = sum(len(one.state) for one in self._transfers.values())
        is_few = len(self._transfers) + self._num_opening < MAX_TRANSFERS
        return is_few and num_held + num_bytes <= self._cache.max_bytes // 2

    async def _begin(self, key: Key) -> Opened | None:
        """Finds the state where it is longest, and holds it for its reader."""
        offload_cache = self._cache
        offloaded = offload_cache.held(key)
        num_resident = self._loop.snapshot.resident.get(key, 0)
        found = None
        if num_resident >= max(MIN_OFFLOADED_TOKENS, offloaded.num_tokens if offloaded is not None else 0):
            found = await asyncio.wrap_future(self._loop.export(key))
        found = found or await asyncio.to_thread(offload_cache.copy_of, key)
        if found is None:
            return None
        what, state = found
        digest = await asyncio.to_thread(checksum, what.tokens, state)
        transfer = new_id()
        self._transfers[transfer] = _Transfer(state, time.monotonic())
        remembered = self._history.recall(key.client, key.conversation)
        return Opened(transfer, self._fingerprint, what.tokens, len(state), what.num_canonical, digest, remembered)

    def _forget_idle(self) -> None:
        until = time.monotonic() - IDLE_SECONDS
        for name, transfer in list(self._transfers.items()):
            if transfer.used_at < until:
                del self._transfers[name]

    async def _answer_part(self, message: Msg, request: FetchPart) -> None:
        answer: StatePart | FetchRefused = FetchRefused("gone")
        if (transfer := self._transfers.get(request.transfer)) is not None:
            await asyncio.sleep(self._throttle.delay(request.size, time.monotonic()))
            transfer.used_at = time.monotonic()
            end = request.offset + request.size
            answer = StatePart(request.offset, bytes(memoryview(transfer.state)[request.offset : end]))
            self.given_bytes += len(answer.data)
        with contextlib.suppress(nats.errors.Error):
            await message.respond(codec.encode(answer))
