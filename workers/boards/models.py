"""The models of a board: what each of them is just now, and what becomes of it. No process is started here."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from broker.messages.boards import ALWAYS, AVAILABLE, BROKEN, DRAINING, LOADING, SERVING, ModelOnBoard
from workers.boards.line import FromWorker
from workers.boards.loading import share_done
from workers.boards.offers import Offer
from workers.boards.view import Waiting

FIRST_WAIT_SECONDS = {True: 10.0, False: 1.0}
"""Before a model is tried again that could not be loaded, and one whose worker died while it served; doubled each
time."""
MAX_WAIT_SECONDS = 600.0
STEADY_SECONDS = 60.0
"""A worker that has served for so long begins anew."""
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
"""By which a process ends through its own doing: of one that loads its file's, others kill by other signals."""
MAX_PASSING = 3
"""So often in a row a worker may die, or find no room, before its model's turns are told that it cannot be loaded."""
UNLOADABLE_SECONDS = 3600.0
"""For a model that cannot be loaded as its file is: said again at each look, until the file is another."""
GONE_SECONDS = 60.0
"""For so long it is told why a model failed whose file has gone since."""
MAX_REASON = 512

log = logging.getLogger(__name__)


class Process(Protocol):
    """`Child`."""

    @property
    def told(self) -> FromWorker:
        """The worker's latest words."""
        ...

    @property
    def is_leaving(self) -> bool:
        """Whether it was told to go."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why it should be killed."""
        ...

    @property
    def is_loading(self) -> bool:
        """Whether it has not served yet."""
        ...

    @property
    def last_words(self) -> str:
        """Why it ended."""
        ...


@dataclass
class ModelHere:
    """One model that this board may load."""

    offer: Offer
    since: float
    """When it came into its state, in seconds since the epoch."""
    state: str = AVAILABLE
    process: Process | None = None
    planned_bytes: int = 0
    """Of the worker that there is."""
    used_at: float = 0.0
    reason: str = ""
    retry_at: float = 0.0
    num_failures: int = 0
    """In a row."""
    is_passing: bool = False
    """What was wrong last may not be the next time: its turns wait for that."""
    num_slots: int = 0
    turn_seconds: float | None = None
    longest_turn_seconds: float | None = None
    latest: FromWorker = field(default_factory=FromWorker)
    """What its worker said last."""
    served_at: float = 0.0
    waiting: Waiting = field(default_factory=Waiting)
    """Turns in its queue, as they were seen last."""
    can: tuple[str, ...] | None = None
    """As its worker told; None before the first."""
    expected: Mapping[str, float] = field(default_factory=dict)
    """Seconds that the phases of its load should take."""
    loaded: float | None = None
    """How much of its load is done, 0 to 1; None where nobody knows."""
    phase_at: float = 0.0

    @property
    def model(self) -> str:
        """Its name."""
        return self.offer.model

    @property
    def is_resident(self) -> bool:
        """Whether it takes memory."""
        return self.process is not None

    def can_load(self, now: float) -> bool:
        """Whether it may be tried."""
        return self.process is None and self.offer.plan is not None and self.retry_at <= now

    def offered(self, offer: Offer, now: float) -> None:
        """As its file is found to be. Another file than before may be tried at once."""
        is_other = (offer.digest, offer.stamp) != (self.offer.digest, self.offer.stamp)
        self.offer, self.can = offer, None if is_other else self.can
        if offer.plan is None:
            self.retry_at = now + UNLOADABLE_SECONDS
            self.is_passing = False
            if self.process is None:
                # A file that was removed for what was wrong with it: that says more than that it is not here.
                if offer.stamp or self.state != BROKEN or not self.num_failures:
                    self.reason = offer.reason[:MAX_REASON]
                self._become(BROKEN, now)
        elif self.process is None and (is_other or not self.reason or self.retry_at > now + MAX_WAIT_SECONDS):
            self.reason, self.retry_at, self.num_failures = "", 0.0, 0
            self._become(AVAILABLE, now)

    def gone(self, now: float) -> bool:
        """Its file is not here any more. Whether it can be forgotten: why it has just failed is told for a while."""
        if self.process is None and self.offer.plan is not None and self.retry_at > now:
            self.offer, self.retry_at = replace(self.offer, plan=None), now + GONE_SECONDS
            self._become(BROKEN, now)
        return self.process is None and self.retry_at <= now

    def queued(self, waiting: Waiting) -> None:
        """So many turns wait for it."""
        self.waiting = waiting

    def refused(self, reason: str, now: float, seconds: float) -> None:
        """It was not started, and why; nothing is wrong with its file. To be tried again after so long."""
        self._failed(is_passing=True)
        self.reason, self.retry_at = reason[:MAX_REASON], now + seconds
        self._become(BROKEN, now)

    def allowed(self) -> None:
        """It may be tried at once, whatever became of it before: an operator says so."""
        if self.offer.plan is not None:
            self.retry_at = 0.0

    def began(self, process: Process, now: float, expected: Mapping[str, float] | None = None) -> None:
        """Its worker was started, whose load should take so many seconds by phase."""
        self.process, self.latest = process, FromWorker()
        self.expected, self.loaded, self.phase_at = expected or {}, None, now
        self.planned_bytes, self.reason, self.retry_at = self.offer.planned_bytes, "", 0.0
        self._become(LOADING, now)

    def heard(self, now: float) -> bool:
        """Takes note of what its worker says; whether it has just begun to serve."""
        if self.process is None:
            return False
        told, before = self.process.told, self.latest
        if told.num_in_hand or told.num_settled != before.num_settled:
            self.used_at = now
        self.latest = told
        if told.state == LOADING:
            self._count_load(told, before, now)
        self.num_slots = told.num_slots or self.num_slots
        self.can = self.can if told.can is None else told.can
        if told.turn_seconds is not None:
            self.turn_seconds, self.longest_turn_seconds = told.turn_seconds, told.longest_turn_seconds
        begins = self.state == LOADING and told.state == SERVING and not self.process.is_leaving
        if begins:
            self.served_at = now
        if self.process.is_leaving or told.state == DRAINING:
            self._become(DRAINING, now)
        elif told.state == SERVING:
            self._become(SERVING, now)
        return begins

    def _count_load(self, told: FromWorker, before: FromWorker, now: float) -> None:
        """It never goes back."""
        if told.phase != before.phase:
            self.phase_at = now
        share = share_done(self.expected, told, now - self.phase_at, self.offer.file_bytes)
        if share is not None:
            self.loaded = max(self.loaded or 0.0, share)

    def ended(self, code: int, now: float, *, was_cut_off: bool = False) -> str | None:
        """Its worker is gone; why, where that was not asked for. What it says at its start is its file's fault, unless
        the server was away meanwhile."""
        process, self.process, self.planned_bytes, self.latest = self.process, None, 0, FromWorker()
        assert process is not None
        if process.is_leaving or code == 0:  # told to go, by us or by somebody else
            if not process.is_loading:  # it has served, and went in peace
                self.num_failures = 0
            self._become(AVAILABLE, now)
            return None
        if not process.is_loading and now - self.served_at >= STEADY_SECONDS:
            self.num_failures = 0
        wait = FIRST_WAIT_SECONDS[process.is_loading] * 2**self.num_failures
        is_files_fault = process.is_loading and (code == 1 or -code in CRASHES)
        self._failed(is_passing=was_cut_off or not is_files_fault)
        self.retry_at = now + min(wait, MAX_WAIT_SECONDS)
        words = process.trouble or process.last_words
        self.reason = (words if code == 1 and process.is_loading else f"{how_it_ended(code)}: {words}")[:MAX_REASON]
        self._become(BROKEN, now)
        return self.reason

    def _failed(self, *, is_passing: bool) -> None:
        self.num_failures = min(self.num_failures + 1, 16)
        self.is_passing = is_passing and self.num_failures <= MAX_PASSING

    def _become(self, state: str, now: float) -> None:
        if state != self.state:
            self.state, self.since = state, now

    def as_told(self, load_seconds: float, pin: str | None) -> ModelOnBoard:
        """For the others."""
        told = self.latest
        is_loading = self.state == LOADING
        return ModelOnBoard(
            self.model,
            self.state,
            self.planned_bytes if self.is_resident else self.offer.planned_bytes,
            load_seconds,
            file_bytes=self.offer.file_bytes,
            read_bytes=min(told.read_bytes, self.offer.file_bytes) if is_loading else 0,
            loaded=self.loaded if is_loading else None,
            since=self.since,
            used_at=self.used_at,
            num_in_hand=told.num_in_hand,
            pin=pin,
            turn_seconds=self.turn_seconds,
            longest_turn_seconds=self.longest_turn_seconds,
            num_slots=self.num_slots or self.offer.num_slots,
            num_waiting=self.waiting.num_interactive,
            num_waiting_batch=self.waiting.num_batch,
            reason=self.reason,
            retry_at=self.retry_at if self.state == BROKEN else 0.0,
            num_failures=self.num_failures,
            is_passing=self.state == BROKEN and self.is_passing,
            num_ctx=self.offer.num_ctx,
            can=self.offer.can if self.can is None else self.can,
            file=self.offer.file,
        )


def how_it_ended(code: int) -> str:
    """A process, by its exit code."""
    if code >= 0:
        return f"its worker ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its worker was ended by {name}"


def to_unload(
    model: ModelHere, there: Iterable[ModelHere], memory_bytes: int, pins: Mapping[str, str | None]
) -> tuple[str, ...] | None:
    """Which models go for one that an operator wants here, those that do nothing and were used least lately first; None
    where those that may go are not enough."""
    resident = [one for one in there if one.is_resident and one.model != model.model]
    missing = model.offer.planned_bytes + sum(one.planned_bytes for one in resident) - memory_bytes
    gone = []
    for one in sorted(resident, key=lambda one: (one.latest.num_in_hand > 0, one.used_at)):
        if missing <= 0:
            break
        if pins.get(one.model) != ALWAYS:
            gone.append(one.model)
            missing -= one.planned_bytes
    return None if missing > 0 else tuple(gone)


def take_offers(here: dict[str, ModelHere], found: Mapping[str, Offer], now: float) -> None:
    """The models of a board as their files are found to be: those that are new come in, those that have gone go."""
    for name, offer in found.items():
        if name not in here:
            log.info("offered model=%s", name)
            here[name] = ModelHere(offer, now)
        here[name].offered(offer, now)
    for name in [name for name, one in here.items() if name not in found and one.gone(now)]:
        del here[name]
