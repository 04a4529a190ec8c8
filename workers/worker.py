"""The worker: broker ↔ engine loop. Pulls turns, seats them, streams their answers, settles them, drains."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec
import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg

from broker import codec, connection, dead_letters, discovery, replies, subjects, topology
from broker.delivery import Delivery
from broker.discovery import AWAY_SECONDS
from broker.errors import Fenced, InvalidMessage, InvalidName, PublishError, ServerError, TurnRejected
from broker.messages import (
    Cancel,
    DeadLetter,
    Done,
    End,
    Failed,
    NodeState,
    RecomputedFor,
    Replay,
    ReplayRequest,
    Sampling,
    Timings,
    TokenLogprob,
    Turn,
    Usage,
)
from broker.priorities import BATCH, INTERACTIVE, PRIORITIES, Priority
from broker.queued import stopped
from broker.recorder import Recorder
from broker.replies import ReplyWriter, write_end
from broker.subjects import TurnAddress
from workers.cancels import Cancels
from workers.engine.events import Event, Finished, Generated, Job, Lost, Rejected, Seated
from workers.engine.loop import EngineLoop
from workers.engine.power import Power
from workers.health import ROUND_SECONDS, Watch, WorkerLost
from workers.kv.cache import MIN_OFFLOADED_TOKENS, OffloadCache
from workers.kv.index import Key, packed
from workers.kv.transfer import Handoff, Offer
from workers.metrics import TurnNotes, WorkerMetrics
from workers.presence import Presence
from workers.prompts.history import History, Prompt, without_oldest
from workers.pulling import TurnPuller
from workers.turns.work import Work

DEATH_STARTS = 3
MAX_FAULTS = 3
"""Deliveries; from the next one on a fault of ours is the turn's end."""
FAULT_SECONDS = 2.0
HAND_BACK_SECONDS = 1.0
ROOM_TOKENS = 256
"""What is left for the answer where a conversation's oldest turns are dropped."""
REPLAY_MARGIN_BYTES = 4096
NODE_SECONDS = 10.0
"""How long what the sidecar said of the node holds."""
MAX_POINTS = 5_000
"""What a worker keeps while nobody takes its points: over an hour of seconds, in a few megabytes."""
LAST_POINTS_SECONDS = 1.0
"""How long a worker that stops waits for a server that does not take its last points."""
_SMOOTHING = 0.2

log = logging.getLogger(__name__)


class GrammarCompiler(Protocol):
    """Checks a turn's grammar and returns it as GBNF. workers.grammars.checker does."""

    async def gbnf(self, sampling: Sampling, client: str = "") -> str | None: ...


@dataclass(frozen=True)
class WorkerOptions:
    """Who a worker is and how it streams."""

    name: str
    model: str
    """The token in subjects; `model_name` is for people."""
    model_name: str = ""
    quantization: str = ""
    node: str = "unknown"
    version: str = "0.0.0"
    fingerprint: str = ""
    """Of the model file."""
    coalesce_seconds: float = 0.05
    """Chunks gather what comes within so long of the one before; 0 sends each token."""
    pull_seconds: float = 2.0
    """How long a pull stays open: also how long a drain waits for the open one, which must not be cancelled."""
    overflow: Literal["error", "drop"] = "error"
    """Of a conversation longer than the context."""
    state_fingerprint: str = ""
    """Of the model file and all else that decides how a KV state is laid out."""
    fetch_bytes_per_second: float = 0.0
    """At most so fast are states given to other workers; 0: none is given or fetched."""
    park_seconds: float = 60.0
    """How long what is in memory may take to disk, at the end."""
    wait_seconds: float = 0.0
    """For the model's stream and consumers, at the start."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What it takes to repeat what is measured here: build, CPU, board, settings."""
    can: tuple[str, ...] = (discovery.CHAT, discovery.RAW, discovery.SCORE)
    may_differ: bool = False
    """It may serve the model from another file than its other workers."""
    look_seconds: float = 0.25
    """How long the model's other workers have to answer at the start."""
    leave_seconds: float = 0.5
    """How long an idle worker that stops takes turns of those who chose it before they heard: asking around takes a
    quarter of a second."""


class Worker:
    """One model's worker on one connection."""

    def __init__(
        self,
        nc: NatsConnection,
        loop: EngineLoop,
        history: History,
        grammars: GrammarCompiler,
        options: WorkerOptions,
        *,
        cache: OffloadCache,
        metrics: WorkerMetrics,
        power: Power,
    ) -> None:
        """`cache`, `metrics.on_step` and `power` are those that the loop was made with."""
        self._nc = nc
        self._loop = loop
        self._cache = cache
        self._metrics = metrics
        self._power = power
        self._history = history
        self._grammars = grammars
        self._options = options
        self._ack_wait = topology.ACK_WAIT_SECONDS
        self._work: dict[str, Work] = {}
        self._jobs = itertools.count()
        self._deliveries: set[Delivery] = set()
        self._puller = TurnPuller(nc, options.model, self._num_slots, options.pull_seconds, can_preempt=cache.is_on)
        self._cancels = Cancels(nc, options.model, self._work, loop.cancel, self._stopped)
        self._handoff = Handoff(
            nc,
            options.name,
            options.model,
            options.state_fingerprint,
            loop,
            cache,
            history,
            max_bytes_per_second=options.fetch_bytes_per_second,
        )
        self._recorder = Recorder(nc, options.node, max_buffered=MAX_POINTS)
        self._watch = Watch(nc, loop)
        self._node = NodeState()
        self._node_at = 0.0
        self._cached_share: float | None = None
        self._num_failed = 0
        self._mean_seconds = 10.0
        self._mean_tokens: float | None = None
        self._lost: str | None = None
        self._presence = Presence(nc, self._metadata(), self._load, look_seconds=options.look_seconds)
        self.is_serving = asyncio.Event()
        """Set once turns are pulled."""

    # --- Life ---

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop`, then drains: says so, stops pulling, finishes what is seated, hands back the rest.

        Cancelling it hands everything back at once. Raises NotReady, OtherFile, WorkerLost.
        """
        self._ack_wait = await topology.require(self._nc, self._options.model, self._options.wait_seconds)
        await self._presence.start(version=self._options.version, may_differ=self._options.may_differ)
        loop = asyncio.get_running_loop()

        def deliver(events: list[Event]) -> None:
            with contextlib.suppress(RuntimeError):  # the asyncio loop is closed: nobody is left to tell
                loop.call_soon_threadsafe(self._route, events, stop)

        self._loop.start(deliver)
        replays = await self._nc.subscribe("replay.>", queue="workers", cb=self._on_replay)
        node = await self._nc.subscribe(subjects.node(self._options.node), cb=self._on_node)
        log.info("serving model=%s worker=%s slots=%d", self._options.model, self._options.name, self._num_slots)
        is_drained = False
        closing = asyncio.Event()
        try:
            async with self._cancels, asyncio.TaskGroup() as beats:
                beating = [
                    beats.create_task(work) for work in (self._keep_alive(), self._tell_seconds(), self._watch.run())
                ]
                self._record_event("worker started")
                await self._handoff.start(beats)
                async with asyncio.TaskGroup() as group:

                    def take(delivery: Delivery) -> None:
                        group.create_task(self._handle(delivery))

                    pulls = [
                        group.create_task(self._puller.run(priority, stop, take, closing)) for priority in PRIORITIES
                    ]
                    self._presence.serve()
                    self.is_serving.set()
                    await stop.wait()
                    log.info("draining running=%d", len(self._work))
                    self.is_serving.clear()
                    await self._presence.leave()
                    # Who chose this worker's model before that was heard is still served.
                    loop.call_later(self._options.leave_seconds if self._lost is None else 0.0, closing.set)
                    await asyncio.gather(*pulls)
                await self._handoff.stop()
                is_drained = True
                for task in beating:
                    task.cancel()
        finally:
            await self._presence.stop()
            self._watch.end()
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await replays.unsubscribe()
                await node.unsubscribe()
                self._record_event("worker stopped")
                await asyncio.wait_for(self._recorder.flush(), LAST_POINTS_SECONDS)
            await asyncio.to_thread(self._offload_what_is_left, is_drained)
        if self._lost:
            raise WorkerLost(f"the engine died: {self._lost}")

    def _offload_what_is_left(self, is_drained: bool) -> None:
        """To disk, where there is one and nobody is in a hurry."""
        self._loop.stop()
        if self._lost is None and is_drained and self._cache.has_disk:
            self._loop.offload_all()
            if num_kept := self._cache.flush(self._options.park_seconds):
                log.info("on disk conversations=%d", num_kept)

    def stuck_reason(self) -> str | None:
        """Why the process should be started anew; None for a worker that is merely busy, or cut off from its server."""
        return self._watch.trouble()

    def unready_reason(self) -> str | None:
        """Why no turn is taken just now."""
        if not self.is_serving.is_set():
            return "not serving"
        return None if self._nc.is_connected else "not connected to NATS"

    @property
    def _num_slots(self) -> int:
        return self._loop.engine.num_slots

    def _metadata(self) -> dict[str, str]:
        options = self._options
        return {
            "worker": options.name,
            "model": options.model,
            "model_name": options.model_name,
            "quantization": options.quantization,
            "num_ctx": str(self._loop.engine.max_sequence_tokens),
            "node": options.node,
            "pid": str(os.getpid()),
            "facts": json.dumps(dict(options.facts)),
            "fingerprint": options.fingerprint,
            "file_bytes": options.facts.get("file_bytes", ""),
            "can": " ".join(options.can),
        }

    def _load(self) -> discovery.Load:
        state = self._loop.snapshot
        puller = self._puller
        return discovery.Load(
            num_slots=self._num_slots,
            num_active=puller.num_held,
            num_pending=puller.num_pending,
            expected_wait_seconds=self._expected_wait(INTERACTIVE),
            batch_wait_seconds=self._expected_wait(BATCH),
            num_pending_batch=puller.pending[BATCH],
            state=self._presence.state,
            prefill_tokens_per_second=state.prefill_tokens_per_second,
            decode_tokens_per_second=state.decode_tokens_per_second,
            cached_share=self._cached_share,
            num_failed=self._num_failed,
            celsius=self._node.celsius,
            is_throttled=self._node.is_throttled,
        )

    def _expected_wait(self, priority: Priority) -> float:
        if self._presence.state == discovery.DRAINING:
            return AWAY_SECONDS
        return self._puller.num_ahead(priority) * self._mean_seconds / self._num_slots

    def _route(self, events: list[Event], stop: asyncio.Event) -> None:
        for event in events:
            if isinstance(event, Lost):
                self._lost = event.reason
                for work in self._work.values():
                    work.events.put_nowait(event)
                stop.set()
            elif (concerned := self._work.get(event.job)) is not None:
                concerned.events.put_nowait(event)

    async def _keep_alive(self) -> None:
        """Every third of ack_wait, for every turn in hand: a live worker's turn is never given to another."""
        while True:
            connection.check(self._nc)
            self._watch.rounds.begin("the loop that keeps turns alive", self._ack_wait / 3 + ROUND_SECONDS)
            await asyncio.sleep(self._ack_wait / 3)
            for delivery in list(self._deliveries):
                with contextlib.suppress(nats.errors.Error):  # cut off: the next beat may get through
                    await delivery.in_progress()

    # --- Telemetry ---

    async def _tell_seconds(self) -> None:
        """A point for each second of the engine, and all points on their way."""
        while True:
            connection.check(self._nc)
            self._watch.rounds.begin("the loop that tells of each second", ROUND_SECONDS)
            await asyncio.sleep(1)
            if time.perf_counter() - self._node_at > NODE_SECONDS:
                self._node, self._power.watts = NodeState(), None
            self._recorder.record(
                self._metrics.second(
                    self._loop.snapshot,
                    self._cache.state,
                    self._handoff.given_bytes,
                    self._recorder.num_dropped,
                )
            )
            await self._recorder.flush()

    def _record_event(self, kind: str) -> None:
        options = self._options
        text = f"{options.name} with {options.model_name or options.model} on {options.node}"
        self._recorder.record(self._metrics.event(self._recorder.unique(time.time_ns()), kind, text))

    async def _on_node(self, message: Msg) -> None:
        with contextlib.suppress(InvalidMessage):
            self._node = codec.decode(message.data, NodeState, message.headers, optional=NodeState.__struct_fields__)
            self._power.watts, self._node_at = self._node.watts, time.perf_counter()

    # --- One turn ---

    async def _handle(self, delivery: Delivery) -> None:
        """A turn from its delivery to its settlement. Whatever goes wrong here goes wrong for this turn alone."""
        started = time.perf_counter()
        self._deliveries.add(delivery)
        try:
            await self._serve(delivery)
        except asyncio.CancelledError:
            if not delivery.is_settled:
                await delivery.hand_back()
            raise
        except (nats.errors.Error, ServerError, PublishError) as error:
            log.warning("↻ turn left to redelivery subject=%s error=%s", delivery.subject, error)
        except Exception as error:
            log.exception("! turn failed subject=%s", delivery.subject)
            if not delivery.is_settled:
                await self._retry(delivery, error)
        finally:
            self._deliveries.discard(delivery)
            self._puller.free(delivery)
            self._mean_seconds = _smoothed(self._mean_seconds, time.perf_counter() - started)

    async def _retry(self, delivery: Delivery, error: Exception) -> None:
        """After a fault of ours, which may pass: once more, but not for ever, as somebody waits for an end."""
        if delivery.num_delivered > MAX_FAULTS:
            address = subjects.parse_turn(delivery.subject)
            detail = f"{type(error).__name__}, {delivery.num_delivered} times over: the worker's log says where"
            failed = self._failed("internal_error", detail, retryable=True)
            with contextlib.suppress(nats.errors.Error, ServerError, PublishError):
                await self._dead_letter(delivery, address, failed)
                await self._settle(delivery, address, failed, None, TurnNotes())
        if not delivery.is_settled:
            await delivery.retry(FAULT_SECONDS)

    async def _serve(self, delivery: Delivery) -> None:
        try:
            address = subjects.parse_turn(delivery.subject)
        except InvalidName:
            # Nobody to answer: not a subject that a producer may publish to.
            log.warning("! turn dropped subject=%r", delivery.subject[:200])
            await delivery.ack()
            return
        if delivery.num_delivered > 1 and await replies.read_end(self._nc, address.client, address.turn):
            await delivery.ack()
            return
        try:
            turn = codec.decode(delivery.payload, Turn, delivery.headers)
            if turn.id != address.turn:
                raise InvalidMessage("id", f"{turn.id!r} is not the subject's turn {address.turn!r}")
        except InvalidMessage as error:
            failed = Failed("invalid_message", str(error), worker=self._options.name)
            await self._dead_letter(delivery, address, failed)
            await self._settle(delivery, address, failed, None, TurnNotes())
            return
        # Not the turn's id: a worker that was frozen finds its turn delivered anew, to itself among others, before
        # the fence tells it that it has lost it.
        work = Work(delivery, address, turn, job=f"{turn.id}/{next(self._jobs)}")
        self._work[work.job] = work
        try:
            end = await self._answer(work)
        except Fenced:
            log.warning("⊘ turn given up, another worker has it turn=%s", turn.id)
            delivery.forget()
            return
        finally:
            del self._work[work.job]
            self._loop.cancel(work.job)
        if end is None:
            await delivery.hand_back()
        else:
            await self._settle(delivery, address, end, turn, work.notes)

    async def _answer(self, work: Work) -> End | None:
        """Computes and streams; the end to write, or None when the turn is to be handed back."""
        turn, delivery = work.turn, work.delivery
        if (cancel := await self._cancels.of(work)) is not None:
            return self._stopped(cancel, max(0.0, time.time() - delivery.stored_at))
        if turn.deadline is not None and time.time() >= turn.deadline:
            return self._failed("deadline", "the deadline passed while the turn was queued")
        offer = await self._handoff.find(work.address.client, turn)
        try:
            job, prompt = await self._job(work)
        except TurnRejected as error:
            return self._failed(error.code, error.detail, error.retryable)
        if (late := self._too_late(turn, prompt)) is not None:
            return late
        writer = ReplyWriter(self._nc, work.address, self._options.name)
        sampling = turn.sampling
        # A grammar's state is not in the chunks: with one, the answer starts anew.
        can_resume = turn.kind == "generate" and sampling.grammar is None and sampling.json_schema is None
        started = await writer.start(self._options.fingerprint, can_resume=can_resume)
        job = dataclasses.replace(job, resumed=writer.resumed_tokens)
        work.notes.num_resumed_tokens = len(writer.resumed_tokens)
        if started.num_starts > DEATH_STARTS:
            failed = self._failed("poison", f"the turn was begun {started.num_starts - 1} times and never finished")
            await self._dead_letter(delivery, work.address, failed, writer.workers)
            return failed
        log.info(
            "→ turn=%s client=%s prompt_tokens=%d resumed_tokens=%d attempt=%d",
            turn.id,
            work.address.client,
            len(job.prompt),
            len(job.resumed),
            started.attempt,
        )
        await self._prefetch(work, job, offer)
        self._loop.submit(job)
        if work.cancel is not None:
            # It came before the loop knew the turn.
            self._loop.cancel(work.job)
        if self._lost:
            return None
        try:
            return await self._stream(work, prompt, writer, offer)
        except asyncio.CancelledError:
            with contextlib.suppress(nats.errors.Error, ServerError, Fenced, TimeoutError):
                await asyncio.wait_for(writer.hand_back(), HAND_BACK_SECONDS)
            raise

    async def _prefetch(self, work: Work, job: Job, offer: Offer | None) -> None:
        """Reads the conversation's state from disk, or from another worker, where that has more of it than memory,
        before the engine hears of the turn: no step waits for a disk or a network."""
        offload_cache = self._cache
        if not offload_cache.has_disk and offer is None:
            return
        key = Key(job.client, job.conversation)
        tokens = packed([*job.prompt, *job.resumed])
        resident = self._loop.snapshot.resident.get(key, 0)
        found = offload_cache.on_disk(tokens, job.client, resident + MIN_OFFLOADED_TOKENS)
        if found is not None:
            await asyncio.to_thread(offload_cache.load, found)
        if offer is not None:
            in_ram = offload_cache.find(tokens, job.client)
            num_here = max(resident, in_ram.num_tokens if in_ram is not None else 0)
            work.notes.fetch_seconds = await self._fetch(work, offer, key, tokens, num_here)

    async def _fetch(self, work: Work, offer: Offer, key: Key, tokens: bytes, num_here: int) -> float | None:
        """Until it is there, given up, or the turn is cancelled."""
        fetching = asyncio.ensure_future(self._handoff.fetch(offer, key, tokens, num_here))
        work.on_cancel = fetching.cancel
        try:
            if work.cancel is None:
                await asyncio.wait({fetching})
        finally:
            fetching.cancel()
            work.on_cancel = None
        return fetching.result() if fetching.done() and not fetching.cancelled() else None

    async def _prompt(self, work: Work) -> Prompt:
        """The turn's prompt, without its oldest turns where it is too long and the setting says so."""
        turn, client = work.turn, work.address.client
        prompt = await self._history.prompt(client, turn)
        limit = self._loop.engine.max_sequence_tokens
        while len(prompt.tokens) >= limit - (ROOM_TOKENS if work.notes.num_dropped else 0):
            shorter = without_oldest(turn.messages) if self._options.overflow == "drop" and not turn.raw else None
            if shorter is None:
                if len(prompt.tokens) < limit:
                    break  # the last turn fits, if without room to spare
                raise TurnRejected(
                    "prompt_too_long", f"messages: {len(prompt.tokens)} tokens, and the context holds {limit}"
                )
            work.notes.num_dropped += len(turn.messages) - len(shorter)
            turn = msgspec.structs.replace(turn, messages=shorter)
            prompt = await self._history.prompt(client, turn)
        return prompt

    async def _job(self, work: Work) -> tuple[Job, Prompt]:
        turn, client = work.turn, work.address.client
        prompt = await self._prompt(work)
        limit = self._loop.engine.max_sequence_tokens
        if not prompt.tokens and not turn.continuations:
            raise TurnRejected("empty_prompt", "messages: the prompt has no tokens, and the model adds none of its own")
        continuations = []
        for text in turn.continuations:
            tokens, begin = self._history.continuation(prompt, text)
            if len(tokens) > limit:
                raise TurnRejected(
                    "prompt_too_long", f"continuations: {len(tokens)} tokens, and the context holds {limit}"
                )
            if not tokens:
                raise TurnRejected("empty_prompt", "continuations: one is empty, and so is the prompt")
            # With nothing in front of it a first token has no probability: those behind it are scored.
            continuations.append((tuple(tokens), max(begin, 1)))
        max_tokens = min(turn.sampling.max_tokens, limit - len(prompt.tokens))
        if continuations:
            max_tokens = max(len(tokens) for tokens, _ in continuations) - len(prompt.tokens)
        job = Job(
            id=work.job,
            client=client,
            conversation=turn.conversation,
            prompt=prompt.tokens,
            max_tokens=max(max_tokens, 1),
            is_batch=work.address.priority == BATCH,
            sampling=turn.sampling,
            gbnf=await self._grammars.gbnf(turn.sampling, client),
            continuations=tuple(continuations),
        )
        return job, prompt

    async def _stream(self, work: Work, prompt: Prompt, writer: ReplyWriter, offer: Offer | None) -> End | None:
        text: list[str] = [writer.resumed_text]
        tokens: list[int] = list(writer.resumed_tokens)
        queue_wait = max(0.0, time.time() - work.delivery.stored_at)
        async for batch in self._gathered(work):
            piece = "".join(event.text for event in batch if isinstance(event, Generated))
            new = tuple(token for event in batch if isinstance(event, Generated) for token in event.tokens)
            logprobs: tuple[TokenLogprob, ...] = tuple(
                logprob for event in batch if isinstance(event, Generated) for logprob in event.logprobs
            )
            text.append(piece)
            tokens += new
            match batch[-1]:
                case Lost():
                    return None
                case Rejected(code=code, detail=detail, retryable=retryable):
                    return self._failed(code, detail, retryable, writer.attempt)
                case Seated():
                    queue_wait = max(0.0, time.time() - work.delivery.stored_at)
                case _:
                    pass
            if piece or new:
                work.notes.first_token_at = work.notes.first_token_at or time.time()
                await writer.write(piece, new, logprobs)
            if isinstance(end := batch[-1], Finished):
                work.notes.joules = end.joules
                if work.cancel is not None and work.cancel.reason == "deadline" and end.reason == "cancelled":
                    return self._failed(
                        "deadline", "the deadline passed while the turn was computed", False, writer.attempt
                    )
                answer = "".join(text)
                self._mean_tokens = _smoothed(self._mean_tokens, len(tokens))
                cancel = time.perf_counter() - work.cancelled_at if work.cancel is not None else 0.0
                if end.reason != "cancelled" and not work.turn.continuations and not work.turn.raw:
                    client = work.address.client
                    name = self._history.remember(client, work.turn, prompt, list(end.tokens), answer)
                    if name != work.turn.conversation:
                        self._loop.rename(Key(client, work.turn.conversation), name, list(end.tokens))
                    await self._handoff.announce(client, name, len(end.tokens) - 1)
                return Done(
                    finish_reason=end.reason,
                    text=answer,
                    tokens=tuple(tokens),
                    usage=_usage(end, prompt, work.notes, offer),
                    timings=Timings(
                        queue_wait, end.prefill_seconds, end.decode_seconds, cancel, work.notes.fetch_seconds or 0.0
                    ),
                    worker=self._options.name,
                    attempt=writer.attempt,
                    num_chunks=writer.num_chunks,
                    scores=end.scores,
                )
        raise AssertionError("the events ended without an end")

    async def _gathered(self, work: Work) -> AsyncIterator[list[Event]]:
        """Events in batches: the first tokens at once, later ones gathered over the coalescing time."""
        sent_at: float | None = None
        while True:
            try:
                async with asyncio.timeout(self._until_deadline(work)):
                    batch = [await work.events.get()]
            except TimeoutError:
                yield [Rejected(work.job, "deadline", "the deadline passed while the turn was computed")]
                return
            if sent_at is not None and not _is_final(batch[-1]):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(
                        max(0.0, sent_at + self._options.coalesce_seconds - time.perf_counter())
                    ):
                        while not _is_final(batch[-1]):
                            batch.append(await work.events.get())
            while not work.events.empty() and not _is_final(batch[-1]):
                batch.append(work.events.get_nowait())
            if any(isinstance(event, Generated) for event in batch):
                sent_at = time.perf_counter()
            yield batch
            if _is_final(batch[-1]):
                return

    def _too_late(self, turn: Turn, prompt: Prompt) -> Failed | None:
        """Says at once that the deadline cannot be met, by the measured rates and the length of answers lately."""
        state = self._loop.snapshot
        if turn.deadline is None or not state.prefill_tokens_per_second or not state.decode_tokens_per_second:
            return None
        num_tokens = min(turn.sampling.max_tokens, self._mean_tokens if self._mean_tokens is not None else 1.0)
        needed = (len(prompt.tokens) - prompt.num_known) / state.prefill_tokens_per_second
        needed += num_tokens / state.decode_tokens_per_second
        left = turn.deadline - time.time()
        if needed <= left:
            return None
        detail = f"the answer would take about {needed:.1f} s, and the deadline is in {max(0.0, left):.1f} s"
        retry_after = self._expected_wait(INTERACTIVE)
        return Failed("overloaded", detail, True, self._options.name, retry_after=retry_after)

    def _until_deadline(self, work: Work) -> float | None:
        return None if work.turn.deadline is None else max(0.0, work.turn.deadline - time.time())

    # --- Ends ---

    async def _settle(
        self, delivery: Delivery, address: TurnAddress, end: End, turn: Turn | None, notes: TurnNotes
    ) -> None:
        """The end first, the acknowledgement after it: a death between the two costs a redelivery, not an answer."""
        is_ours = await write_end(self._nc, address, end)
        await delivery.ack()
        if is_ours:
            now = self._recorder.unique(time.time_ns())
            self._recorder.record(self._metrics.turn(now, delivery, turn, end, notes))
            self._count(end)
        match end:
            case Done(finish_reason=reason, usage=usage):
                log.info("← turn=%s reason=%s tokens=%d", address.turn, reason, usage.completion_tokens)
            case Failed(code=code):
                log.info("! turn=%s code=%s", address.turn, code)

    def _count(self, end: End) -> None:
        if isinstance(end, Failed):
            self._num_failed += 1
        elif end.usage.prompt_tokens:
            self._cached_share = _smoothed(self._cached_share, end.usage.cached_tokens / end.usage.prompt_tokens)

    def _failed(self, code: str, detail: str, retryable: bool = False, attempt: int = 0) -> Failed:
        return Failed(code, detail, retryable, self._options.name, attempt)

    def _stopped(self, cancel: Cancel, queue_wait: float) -> End:
        """The end of a turn that was stopped before it was begun."""
        return stopped(cancel, queue_wait, self._options.name)

    async def _dead_letter(
        self, delivery: Delivery, address: TurnAddress, failed: Failed, workers: tuple[str, ...] = ()
    ) -> None:
        letter = DeadLetter(
            delivery.subject,
            f"{failed.code}: {failed.detail}",
            delivery.num_delivered,
            delivery.payload,
            delivery.headers.get(codec.CONTENT_TYPE),
            workers,
        )
        await dead_letters.bury(self._nc, letter, address.model, delivery.sequence)

    # --- Readers ---

    async def _on_replay(self, message: Msg) -> None:
        """A reader missed something: what is stored from there on, as much as fits into one message."""
        try:
            client, turn = subjects.parse_replay(message.subject)
            request = codec.decode(message.data, ReplayRequest, message.headers)
            stored = await replies.read_replies(self._nc, client, turn)
        except (InvalidName, InvalidMessage, ServerError) as error:
            log.warning("replay not answered subject=%r error=%s", message.subject[:200], error)
            return
        room = self._nc.max_payload - REPLAY_MARGIN_BYTES
        wanted = [one.payload for one in stored if one.reply.index >= request.index]
        sent: list[bytes] = []
        for payload in wanted:
            room -= len(payload) + 8
            if room < 0:
                break
            sent.append(payload)
        with contextlib.suppress(nats.errors.Error):
            await message.respond(codec.encode(Replay(tuple(sent), len(sent) == len(wanted))))


def _usage(end: Finished, prompt: Prompt, notes: TurnNotes, offer: Offer | None) -> Usage:
    """What was computed again is what this worker, or the one before it, had computed of the prompt once."""
    known: int = prompt.num_known
    cause: RecomputedFor = "evicted"
    if offer is not None and end.cached_in != "peer":
        known, cause = max(known, offer.holding.num_tokens), offer.cause
    if notes.num_resumed_tokens:
        known, cause = end.num_prompt_tokens, "killed"
    elif notes.num_dropped:
        known, cause = end.num_prompt_tokens, "overflow"
    # An answer's last token may never have been computed: it was chosen, and the answer was over.
    recomputed = max(0, min(known, end.num_prompt_tokens) - 1 - end.num_cached)
    return Usage(
        end.num_prompt_tokens,
        end.num_cached,
        end.num_generated,
        end.cached_in,
        recomputed,
        cause if recomputed else None,
        notes.num_dropped,
    )


def _smoothed(mean: float | None, value: float) -> float:
    """The exponentially weighted mean with one value more."""
    return value if mean is None else mean + _SMOOTHING * (value - mean)


def _is_final(event: Event) -> bool:
    return isinstance(event, Finished | Rejected | Lost)
