"""A board's life: it looks at what waits, decides what it has loaded, and starts, watches and ends the workers.

Every board decides for itself, by what all of them see (`placement`); claims keep two from loading what one should.
Nothing is computed here: a board costs next to nothing beside the workers that it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping

from nats.aio.client import Client as NatsConnection

from broker import connection
from broker.errors import ServerError, TurnpikeError
from broker.health import Report, Rounds
from broker.messages.boards import ALWAYS, DRAINING, LOADING, SERVING, BoardState, Order
from broker.placing import SAY_SECONDS, Placement
from workers.boards.board import Board
from workers.boards.child import Child
from workers.boards.cores import shared_cores
from workers.boards.health import report
from workers.boards.models import ModelHere, take_offers, to_unload
from workers.boards.node import Node
from workers.boards.offers import Offer, tell_unread
from workers.boards.orders import Orders
from workers.boards.parking import Parking
from workers.boards.placement import next_step
from workers.boards.plain_workers import PlainWorkers
from workers.boards.presence import Presence
from workers.boards.queues import Queues
from workers.boards.reporter import TELL_SECONDS, BoardReporter
from workers.boards.spare import Spare
from workers.boards.view import Step, View, Waiting, free_copy

ROUND_SECONDS = 0.5
"""How often it looks at the queues where anything waits, or changes."""
OFFERS_SECONDS = 5.0
"""How often it looks at the files."""
NEWS_SECONDS = 0.1
"""How often turns that come have it look, at most."""
ROUNDS_PATIENCE = 120.0
REFUSED_SECONDS = 10.0
"""Before it is tried again to load what there was no room for."""
QUEUES_SECONDS = 3.0
"""For the server to say what waits."""

log = logging.getLogger(__name__)


class Supervisor:
    """Runs a board on one connection."""

    def __init__(self, nc: NatsConnection, board: Board, offers: Mapping[str, Offer]) -> None:
        """`offers` are those of a first look."""
        self._nc = nc
        self._board = board
        self._epoch = time.time() - time.monotonic()
        self._began_at = self._now()
        self._here: dict[str, ModelHere] = {}
        take_offers(self._here, offers, self._began_at)
        self._children: dict[str, Child] = {}
        self._node = Node(board.machine)
        self._presence = Presence(nc, board.name, self._began_at)
        self._claims = self._presence.claims
        self._queues = Queues(nc)
        self._plain_workers = PlainWorkers(nc)
        self._orders = Orders(board.name, self._began_at)
        self._news = asyncio.Event()
        self._doubt = asyncio.Event()
        """A model has failed: its file may be another one than was thought."""
        self._pending: Step | None = None
        """Claimed, and begun once what it unloads has gone."""
        self._decided_at = float("-inf")
        self._is_changed = False
        """A model has come or gone: what to do next is another question."""
        self._reporter = BoardReporter(nc, board.name)
        self._group = asyncio.TaskGroup()
        self._parking = Parking(board.parked, board.max_parked_bytes, self._group)
        self._spare = Spare(board, self._news.set)
        self._served: set[str] = set()
        """Models that some board has, or loads."""
        self.rounds = Rounds()
        """Where it says that it comes round."""

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then every worker drains. Cancelling it hands back at once what they have in hand. Raises
        OtherBoard, ConnectionLost."""
        async with self._presence, self._group:
            await self._queues.listen(self._queued)
            looks = (self._presence.keep_up(self._lost), self._look(), self._hear(), self._tell(), self._wake(stop))
            watches = (connection.watch(self._nc), self._plain_workers.run())
            beats = [self._group.create_task(work) for work in (*watches, *looks)]
            self._parking.began()
            try:
                while not stop.is_set():
                    await self._round()
                    await self._sleep(ROUND_SECONDS if self._is_wanted else self._queues.look_seconds)
                await self._drain()
            finally:
                await asyncio.gather(self._spare.end(), *(child.end() for child in self._children.values()))
                await self._parking.close()
                await self._presence.leave()
                await self._reporter.close(self._told(), self._claims.num_lost)
                self.rounds.end("a board's round")
            for task in beats:
                task.cancel()

    def health(self, trouble: str | None) -> Report:
        """How it and its workers are; `trouble` is what is wrong with the board itself."""
        return report(self._board.name, trouble, self._here.values(), self._children, self._now())

    def _now(self) -> float:
        """Seconds since the epoch by the clock as it was at the start: nobody's setting it makes a wait longer."""
        return self._epoch + time.monotonic()

    # --- Rounds ------------------------------------------------------------------------------------------------------

    async def _round(self) -> None:
        self.rounds.begin("a board's round", ROUNDS_PATIENCE)
        now, placement = self._now(), self._presence.placement()
        self._presence.check_alone(placement)
        self._look_at_children(now)
        is_due = time.monotonic() - self._decided_at >= ROUND_SECONDS or self._is_changed
        if self._is_changed or self._node.measured_seconds >= SAY_SECONDS:
            self._measure()
            await self._spare.keep(is_wanted=self._pending is not None)
        if is_due:
            self._decided_at, self._is_changed = time.monotonic(), False
        try:
            await self._decide(placement, is_due=is_due)
        except (ServerError, TimeoutError) as error:
            log.warning("not decided error=%s", str(error) or "the server does not answer")
        await self._parking.fit(self._node.memory_bytes - self._planned_bytes)
        self._share_cores()
        await self._presence.announce(self._told())

    @property
    def _is_changing(self) -> bool:
        return any(child.is_leaving or child.is_loading for child in self._children.values())

    @property
    def _is_wanted(self) -> bool:
        return self._is_changing or any(here.waiting.num_turns for here in self._here.values())

    def _measure(self) -> None:
        pids = [*self._spare.pids, *(child.pid for child in self._children.values())]
        self._node.measure(pids, self._parking.num_bytes, self._spare.reserved_bytes)

    async def _sleep(self, seconds: float) -> None:
        """Until there is news, or for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()

    def _look_at_children(self, now: float) -> None:
        for name, child in list(self._children.items()):
            self._heard(name, now)
            if child.trouble is not None and not child.is_killed:
                log.error("! worker stuck model=%s pid=%d: %s", name, child.pid, child.trouble)
                child.kill()

    def _heard(self, name: str, now: float) -> None:
        here, child = self._here[name], self._children[name]
        was_busy = here.latest.num_in_hand > 0
        begins = here.heard(now)
        self._reporter.heard(here)
        self._is_changed |= was_busy and not here.latest.num_in_hand  # who waits for its room need not wait longer
        if begins:
            seconds = self._reporter.serves(here)
            self._is_changed = True
            self._board.load_times.note(here.offer.digest, here.offer.file_bytes, seconds, here.latest.took)
            log.info("serving model=%s pid=%d load_seconds=%.1f", name, child.pid, seconds)
            self._parking.serving(name)

    def _share_cores(self) -> None:
        told = {name: child.told for name, child in self._children.items()}
        turns = {name: one.num_in_hand for name, one in told.items() if not one.yields}
        for name, num in shared_cores(self._node.num_cores, turns).items():
            self._children[name].limit_threads(num)

    # --- Decisions ---------------------------------------------------------------------------------------------------

    async def _decide(self, placement: Placement, *, is_due: bool) -> None:
        """Asks the server and itself where that is due: workers have news with each turn."""
        pins = self._pins(placement)
        for order in self._orders.due(placement, self._here):
            await self._obey(order, placement, pins)
        if not self._presence.is_settled:
            return
        if self._pending is not None:
            await self._go_on(self._pending)
            return
        if not is_due:
            return
        others = (one for one in placement.boards if one.board != self._board.name)
        boards = (*others, *self._plain_workers.boards, self._state(pins))
        served = {one.model for board in boards for one in board.models if one.state in (SERVING, DRAINING)}
        models = {one.model for board in boards for one in board.models}
        self._served = served | {one.model for board in boards for one in board.models if one.state == LOADING}
        async with asyncio.timeout(QUEUES_SECONDS):
            waiting = await self._queues.look(models, served)
        for name, here in self._here.items():
            here.queued(waiting.get(name, Waiting()))
        if self._is_changing or not self._plain_workers.has_looked:
            return
        view = View(self._now(), boards, waiting, placement.claims)
        await self._begin(next_step(view, self._board.name, self._board.rules))

    def _pins(self, placement: Placement) -> dict[str, str | None]:
        """By model: as operators say, else as the settings do."""
        return {
            name: placement.pin(name, self._board.name) or (ALWAYS if name in self._board.pins else None)
            for name in self._here
        }

    async def _begin(self, step: Step) -> None:
        """Claims what is to be loaded, then has what is in its way go."""
        if step.load is not None and not await self._may_load(step.load, step.copy):
            return
        for name in step.unload:
            if (child := self._children.get(name)) is not None:
                log.info("unloading model=%s why=%s for=%s", name, step.why, step.load)
                self._reporter.leaves(name, step)
                child.drain()
        if step.load is not None:
            self._pending = step
            if step.unload:
                await self._spare.begin(self._node.memory_bytes - self._planned_bytes)
            await self._go_on(step)

    @property
    def _planned_bytes(self) -> int:
        return sum(one.planned_bytes for one in self._here.values())

    async def _may_load(self, model: str, copy: int) -> bool:
        here = self._here.get(model)
        return here is not None and here.can_load(self._now()) and await self._claims.take(model, copy)

    async def _go_on(self, step: Step) -> None:
        """Loads what was claimed, once there is room."""
        assert step.load is not None
        if any(name in self._children for name in step.unload):
            return
        self._pending = None
        here, now = self._here.get(step.load), self._now()
        if here is None or not here.can_load(now):
            await self._claims.let_go(step.load)
            return
        planned = here.offer.planned_bytes + self._planned_bytes
        if planned > self._node.memory_bytes:
            await self._refuse(here, step, f"no room: {planned:,} bytes are planned, of {self._node.memory_bytes:,}")
            return
        await self._parking.fit(self._node.memory_bytes - planned)
        await self._load(here, step)

    async def _load(self, here: ModelHere, step: Step) -> None:
        planned = here.offer.planned_bytes
        log.info("loading model=%s copy=%d why=%s planned_bytes=%d", here.model, step.copy, step.why, planned)
        try:
            child = await self._spare.start(here.offer)
        except OSError as error:  # no memory for a process, no descriptors
            await self._refuse(here, step, f"its worker cannot be started: {error.strerror or error}")
            return
        self._here[here.model], self._children[here.model] = here, child  # its file may have gone meanwhile
        here.began(child, self._now(), self._board.load_times.phases(here.offer.digest, here.offer.file_bytes))
        self._reporter.began(here.model, step)
        self._group.create_task(self._live(here, child))

    async def _refuse(self, here: ModelHere, step: Step, reason: str) -> None:
        here.refused(reason, self._now(), REFUSED_SECONDS)
        log.warning("not loaded model=%s reason=%s", here.model, reason)
        self._reporter.refused(here, step, reason)
        await self._claims.let_go(here.model)

    async def _live(self, here: ModelHere, child: Child) -> None:
        """From a worker's start to its end."""
        code = await child.run()
        await self._claims.let_go(here.model)
        now = self._now()
        self._heard(here.model, now)
        del self._children[here.model]
        drain_seconds = now - here.since
        reason = here.ended(code, now, was_cut_off=connection.connected_seconds(self._nc) < child.seconds)
        self._reporter.ended(here, reason)
        if reason is None:
            log.info("unloaded model=%s pid=%d drain_seconds=%.2f", here.model, child.pid, drain_seconds)
        else:
            log.error("! %s: %s; tried again in %.0f s", here.model, reason, here.retry_at - now)
            self._parking.lost(here.model)
            self._doubt.set()
        self._is_changed = True
        self._news.set()

    async def _obey(self, order: Order, placement: Placement, pins: Mapping[str, str | None]) -> None:
        """Once. What cannot be done now is said, and not tried later."""
        here = self._here[order.model]
        log.info("order model=%s load=%s board=%s", order.model, order.load, order.board)
        if not order.load:
            await self._begin(Step(unload=(order.model,), why="ordered"))
            return
        taken = {copy for model, copy in placement.claims if model == order.model}
        if here.is_resident or (order.board is None and taken) or self._pending is not None:
            return
        unload = to_unload(here, self._here.values(), self._node.memory_bytes, pins)
        here.allowed()
        if unload is None or not here.can_load(self._now()):
            reason = here.reason or "no room beside what is pinned"
            log.warning("order not obeyed model=%s reason=%s", order.model, reason)
            return
        copy = free_copy(taken)
        await self._begin(Step(order.model, copy, unload, "ordered"))

    # --- What it says ------------------------------------------------------------------------------------------------

    def _state(self, pins: Mapping[str, str | None]) -> BoardState:
        times = self._board.load_times
        models = tuple(
            here.as_told(times.seconds(here.offer.digest, here.offer.file_bytes), pins.get(name))
            for name, here in sorted(self._here.items())
        )
        return self._node.state(self._board.name, models, self._reporter.counts, self._began_at, self._now())

    def _told(self) -> BoardState:
        return self._state(self._pins(self._presence.placement()))

    # --- Beside the rounds -------------------------------------------------------------------------------------------

    async def _wake(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._news.set()

    async def _hear(self) -> None:
        """What operators say is news; what other boards say has time until the next round."""
        known: object = None
        while True:
            await self._presence.changed(ROUNDS_PATIENCE)
            orders = dict(self._presence.placement().orders)
            if orders != known:
                known = orders
                self._news.set()

    async def _lost(self, model: str) -> None:
        """Another board has taken its copy, while this one was away: who serves it is one more, who does not stops."""
        child = self._children.get(model)
        if child is not None and not child.is_loading:
            await self._claims.move(model)
            return
        log.warning("another board loads it now model=%s", model)
        await self._claims.let_go(model)
        if self._pending is not None and self._pending.load == model:
            self._pending = None
        if child is not None:
            child.drain()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            pids = [child.pid for child in self._children.values()]
            await self._reporter.tell(self._told(), pids, self._claims.num_lost)

    def _queued(self, model: str) -> None:
        """A turn has come: for a model that nobody has, that is news."""
        is_new = time.monotonic() - self._decided_at >= NEWS_SECONDS
        if is_new and model in self._here and model not in self._served:
            self._is_changed = True
            self._news.set()

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._doubt.wait(), OFFERS_SECONDS)
            self._doubt.clear()
            try:
                found = await asyncio.to_thread(self._board.look)
            except (TurnpikeError, OSError) as error:
                tell_unread(str(error))
                continue
            take_offers(self._here, found, self._now())

    # --- The end -----------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        if self._pending is not None and self._pending.load is not None:
            await self._claims.let_go(self._pending.load)
            self._pending = None
        log.info("draining models=%s", ",".join(self._children) or "none")
        for name, child in self._children.items():
            self._reporter.leaves(name, None)
            child.drain()
        while self._children:
            self.rounds.begin("a board's round", ROUNDS_PATIENCE)
            self._look_at_children(self._now())
            await self._presence.announce(self._told())
            await self._sleep(SAY_SECONDS)
