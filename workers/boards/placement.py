"""Which models a board should have: decided by every board for itself, by what all of them can see. No I/O, no clock.

The boards are shared out among the models that wait, the most urgent first. That is a function of the view alone, so
boards that see the same decide the same, and each does its own part of it; where two see differently, claims decide.
docs/placement.md has the rules in words, and what they come to beside other servers' rules.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.messages.boards import ALWAYS, AVAILABLE, BROKEN, DRAINING, IN_MEMORY, LOADING, NEVER, SERVING, ModelOnBoard
from workers.boards.view import Rules, Step, View, Waiting, free_copy

__all__ = ["DEFAULT_RULES", "Rules", "Step", "View", "Waiting", "all_steps", "next_step"]

DEFAULT_RULES = Rules()


def next_step(view: View, board: str, rules: Rules = DEFAULT_RULES) -> Step:
    """What this board should do now. A board that is loading or draining is left to finish that first."""
    return _Placing(view, rules, board).steps().get(board, Step())


def all_steps(view: View, rules: Rules = DEFAULT_RULES) -> dict[str, Step]:
    """By board, what those should do that have anything to do."""
    return _Placing(view, rules, None).steps()


@dataclass(frozen=True)
class _Need:
    """A model that should be loaded once more."""

    model: str
    num_copies: int
    """There are, or are coming."""
    num_interactive: float
    num_batch: float
    """Turns that wait for this copy: of those that wait for the model its share."""
    late_seconds: float
    """Since its load should have begun; negative before."""
    waited_seconds: float
    """By all that wait for it together, by weight."""
    why: str

    @property
    def is_demanded(self) -> bool:
        return self.num_interactive + self.num_batch > 0

    @property
    def is_extra(self) -> bool:
        """A further copy, or one that nobody waits for."""
        return self.num_copies > 0 or not self.is_demanded


@dataclass(frozen=True)
class _Place:
    """A board that can take a model, and which models would have to go."""

    board: str
    victims: tuple[ModelOnBoard, ...]
    rank: tuple[float, ...]
    """The least is the best one."""


class _Placing:
    """One view's decision."""

    def __init__(self, view: View, rules: Rules, own: str | None) -> None:
        self._rules, self._waiting = rules, view.waiting
        self._boards = {one.board: one for one in sorted(view.boards, key=lambda one: one.board)}
        self._clocks = {name: state.sent_at or view.now for name, state in self._boards.items()}
        """Each board's own, as of what it said: none has to be right, and all boards reckon alike."""
        self._on = {name: {one.model: one for one in state.models} for name, state in self._boards.items()}
        self._copies: dict[str, set[str]] = {}
        """Where each model serves, loads or is about to: not where it is leaving."""
        self._taken: dict[str, dict[int, str]] = {}
        """Of each model, which board has claimed which copy."""
        self._busy: set[str] = set()
        """Boards that are changing, or have been given something to do."""
        self._steps: dict[str, Step] = {}
        for name, models in self._on.items():
            for one in models.values():
                if one.state in (LOADING, SERVING):
                    self._copies.setdefault(one.model, set()).add(name)
                if one.state in (LOADING, DRAINING):
                    self._busy.add(name)
        for (model, copy), claim in view.claims.items():
            self._count_claim(model, copy, claim.board, own)

    def _count_claim(self, model: str, copy: int, board: str, own: str | None) -> None:
        if board not in self._boards:
            return  # it died: nobody loads by this claim
        self._taken.setdefault(model, {})[copy] = board
        entry = self._on[board].get(model)
        # What this board itself has claimed and not begun is of its life before: it asks because it is doing nothing.
        if entry is not None and entry.state in (AVAILABLE, BROKEN) and board != own:
            self._copies.setdefault(model, set()).add(board)
            self._busy.add(board)

    def steps(self) -> dict[str, Step]:
        """Orders first, then what is needed by urgency, then what may rest."""
        for name in self._boards:
            self._obey_pins(name)
        for need in self._needs():
            self._place(need)
        for name in self._boards:
            self._let_rest(name)
        return self._steps

    # --- What is needed ----------------------------------------------------------------------------------------------

    def _needs(self) -> list[_Need]:
        found = []
        for model, waiting in self._waiting.items():
            if waiting.num_turns:
                found += self._needs_of(model, waiting)
        drain = max((self._drain_seconds(one) for name in self._boards for one in self._resident(name)), default=0.0)

        def urgency(need: _Need) -> tuple[bool, float, str]:
            is_due = need.late_seconds + drain >= 0
            return not is_due, -need.late_seconds if is_due else -self._worth_loading(need), need.model

        found.sort(key=urgency)
        there = {model for model, boards in self._copies.items() if boards}
        wanted = there | {need.model for need in found}
        missing = [one for one in self._rules.preloads if one not in wanted]
        return found + [_Need(one, 0, 0.0, 0.0, float("-inf"), 0.0, "preload") for one in missing]

    def _needs_of(self, model: str, waiting: Waiting) -> list[_Need]:
        """The first copy, or one more where the backlog of those that are there is long."""
        num_copies = len(self._copies.get(model, ()))
        if num_copies == 0:
            late, waited = self._late_seconds(model, waiting), self._waited_seconds(waiting)
            return [_Need(model, 0, waiting.num_interactive, waiting.num_batch, late, waited, "waiting")]
        if self._saved_by_copy(model, waiting, num_copies) <= self._rules.copy_loads * self._load_seconds(model):
            return []
        shares = waiting.num_interactive / (num_copies + 1), waiting.num_batch / (num_copies + 1)
        return [_Need(model, num_copies, *shares, float("-inf"), 0.0, "copy")]

    def _saved_by_copy(self, model: str, waiting: Waiting, num_copies: int) -> float:
        """Seconds that turns would wait less, all together: those that are left once it is loaded, and as many more as
        came in the latest seconds, if they came at even distances."""
        load, seconds = self._load_seconds(model), self._turn_seconds(model) / self._num_slots(model)
        there = [(name, one) for name in self._copies[model] if (one := self._on[name].get(model)) is not None]
        serving = sum(load for _, one in there if one.state == SERVING)
        loading = sum(min(load, self._clocks[name] - one.since) for name, one in there if one.state == LOADING)
        foresight = self._rules.foresight_seconds
        age = max(foresight, waiting.oldest_interactive_seconds, waiting.oldest_batch_seconds, 1e-3)
        num_turns = waiting.num_turns * (1 + foresight / age)
        left = max(0.0, num_turns - (serving + max(0.0, loading)) / seconds)
        return left * left * seconds / (2 * num_copies * (num_copies + 1))

    def _late_seconds(self, model: str, waiting: Waiting) -> float:
        """By its oldest turn; while the model was there, or finished its turns in hand, they waited for each other."""
        gone = min(
            (
                max(0.0, self._clocks[name] - one.since - self._drain_seconds(one))
                for name, models in self._on.items()
                if (one := models.get(model)) is not None and one.used_at > 0 and one.state in (AVAILABLE, DRAINING)
            ),
            default=float("inf"),
        )
        late = float("-inf")
        if waiting.num_interactive:
            late = min(waiting.oldest_interactive_seconds, gone) - self._rules.interactive_seconds
        if waiting.num_batch:
            late = max(late, min(waiting.oldest_batch_seconds, gone) - self._rules.batch_seconds)
        return late

    def _waited_seconds(self, waiting: Waiting) -> float:
        """As if they had come at even distances; what is known is the oldest one's age."""
        interactive = waiting.oldest_interactive_seconds * (waiting.num_interactive + 1) / 2
        batch = waiting.oldest_batch_seconds * (waiting.num_batch + 1) / 2
        return interactive + self._rules.batch_weight * batch

    # --- What things are worth ---------------------------------------------------------------------------------------

    def _worth_loading(self, need: _Need, drain_seconds: float = 0.0) -> float:
        """Turns, by weight, that it would answer in a second from now on: load and drain count as much as answers."""
        first_seconds = self._load_seconds(need.model) + drain_seconds
        return self._worth(need.model, need.num_interactive, need.num_batch, first_seconds)

    def _worth_keeping(self, one: ModelOnBoard) -> float:
        """The same of a model that is there: it answers at once. Turns in hand are like those that wait."""
        waiting = self._waiting.get(one.model, Waiting())
        num_copies = max(1, len(self._copies.get(one.model, ())))
        interactive, batch = waiting.num_interactive / num_copies, waiting.num_batch / num_copies
        in_hand = self._rules.hand_weight * one.num_in_hand
        if batch and not interactive:
            batch += in_hand
        else:
            interactive += in_hand
        return self._worth(one.model, interactive, batch, 0.0)

    def _worth(self, model: str, interactive: float, batch: float, first_seconds: float) -> float:
        """Interactive ones come first, so that batch turns behind them take nothing from their worth."""
        seconds, num_slots = self._turn_seconds(model), self._num_slots(model)

        def rate(weighted: float, count: float) -> float:
            return weighted / (first_seconds + seconds * max(1.0, count / num_slots))

        both = interactive + self._rules.batch_weight * batch
        return max(rate(interactive, interactive), rate(both, interactive + batch))

    def _entries(self, model: str) -> list[ModelOnBoard]:
        return [one for models in self._on.values() if (one := models.get(model)) is not None]

    def _turn_seconds(self, model: str) -> float:
        known = [one.turn_seconds for one in self._entries(model) if one.turn_seconds is not None]
        return max(0.01, sum(known) / len(known)) if known else self._rules.turn_seconds

    def _load_seconds(self, model: str) -> float:
        """On the board that is quickest with it."""
        return min((one.load_seconds for one in self._entries(model)), default=0.0)

    def _num_slots(self, model: str) -> int:
        return max([1, *(one.num_slots for one in self._entries(model))])

    def _drain_seconds(self, one: ModelOnBoard) -> float:
        """Until it has gone, at most; never more than two thirds of what an interactive turn may wait."""
        if not one.num_in_hand:
            return 0.0
        known = [known.longest_turn_seconds for known in self._entries(one.model)]
        seconds = max([one for one in known if one is not None], default=0.0) or (
            self._rules.drain_turns * self._turn_seconds(one.model)
        )
        return min(seconds + self._rules.notice_seconds, 2 / 3 * self._rules.interactive_seconds)

    # --- Where it goes -----------------------------------------------------------------------------------------------

    def _place(self, need: _Need) -> None:
        places = [place for name in self._boards if (place := self._place_on(name, need)) is not None]
        if not places:
            return
        best = min(places, key=lambda place: (place.rank, place.board))
        why = "overdue" if need.late_seconds >= 0 else need.why
        self._give(best.board, need.model, tuple(one.model for one in best.victims), why)

    def _give(self, board: str, model: str, unload: tuple[str, ...], why: str) -> None:
        taken = self._taken.setdefault(model, {})
        own = [copy for copy, holder in sorted(taken.items()) if holder == board]
        copy = own[0] if own else free_copy(taken)
        taken[copy] = board
        self._copies.setdefault(model, set()).add(board)
        for name in unload:
            self._copies.get(name, set()).discard(board)
        self._steps[board] = Step(model, copy, unload, why)
        self._busy.add(board)

    def _place_on(self, name: str, need: _Need) -> _Place | None:
        """None where it cannot go there, or what is there has to stay."""
        state, entry = self._boards[name], self._on[name].get(need.model)
        if name in self._busy or entry is None or not self._is_loadable(name, entry):
            return None
        if state.memory_pressure > self._rules.max_memory_pressure:
            return None
        if state.is_throttled and need.is_extra:
            return None
        victims = self._victims(name, entry, need)
        if victims is None:
            return None
        kind = max((self._kind_of(one) for one in victims), default=-1)
        in_hand = sum(one.num_in_hand for one in victims)
        if kind < 2:  # the longest unused one goes, of those with something in hand the one that is done first
            order: tuple[float, ...] = (in_hand, -min((self._idle_seconds(name, one) for one in victims), default=0.0))
        else:
            order = (max(map(self._worth_keeping, victims)), max(one.since for one in victims) - self._clocks[name])
        return _Place(name, victims, (state.is_throttled, kind, *order, entry.load_seconds))

    def _is_loadable(self, name: str, one: ModelOnBoard) -> bool:
        if one.pin == NEVER:
            return False
        return one.state in (AVAILABLE, BROKEN) and one.retry_at <= self._clocks[name]

    def _resident(self, name: str) -> list[ModelOnBoard]:
        return [one for one in self._on[name].values() if one.state in IN_MEMORY]

    def _missing_bytes(self, name: str, entry: ModelOnBoard) -> int:
        """Of memory, for that model besides those that are there; none where it fits."""
        used = sum(one.planned_bytes for one in self._resident(name))
        return entry.planned_bytes + used - self._boards[name].memory_bytes

    def _victims(self, name: str, entry: ModelOnBoard, need: _Need) -> tuple[ModelOnBoard, ...] | None:
        """Who goes for it, as few as will do; None where no allowed ones are enough."""
        resident = self._resident(name)
        missing = self._missing_bytes(name, entry)
        if missing <= 0:
            return ()
        may_go = [one for one in resident if self._may_go(name, one, need)]
        may_go.sort(key=lambda one: (self._kind_of(one), self._worth_keeping(one), -self._idle_seconds(name, one)))
        chosen: list[ModelOnBoard] = []
        for one in may_go:
            if missing <= 0:
                break
            chosen.append(one)
            missing -= one.planned_bytes
        if missing > 0:
            return None
        for one in sorted(chosen, key=lambda one: -self._kind_of(one)):
            if missing + one.planned_bytes <= 0:  # a later one was large enough without it
                chosen.remove(one)
                missing += one.planned_bytes
        return tuple(chosen)

    def _may_go(self, name: str, one: ModelOnBoard, need: _Need) -> bool:
        if one.state != SERVING or one.pin == ALWAYS:
            return False
        drain = self._drain_seconds(one)
        is_due = need.late_seconds + drain >= 0
        is_idle = self._kind_of(one) == 0
        stays = self._rules.residency_loads * one.load_seconds
        if not is_idle or need.is_extra:
            stays = max(stays, self._rules.residency_seconds)
        if self._clocks[name] + drain * is_due - one.since < stays:
            return False
        if is_idle:
            if need.is_extra:  # a sole copy that was used lately will be again
                is_wanted = one.model in self._rules.preloads and len(self._copies.get(one.model, ())) < 2
                return not is_wanted and self._idle_seconds(name, one) >= stays
            return need.late_seconds >= 0 or need.waited_seconds >= self._rules.patience_loads * self._load_seconds(
                need.model
            )
        if not need.is_demanded:
            return False
        return is_due or self._worth_loading(need, drain) > self._rules.hysteresis * self._worth_keeping(one)

    def _kind_of(self, one: ModelOnBoard) -> int:
        """0 it does nothing, 1 it has turns in hand, 2 batch turns wait for it, 3 interactive ones."""
        waiting = self._waiting.get(one.model, Waiting())
        if waiting.num_interactive:
            return 3
        if waiting.num_batch:
            return 2
        return 1 if one.num_in_hand else 0

    def _idle_seconds(self, name: str, one: ModelOnBoard) -> float:
        return self._clocks[name] - max(one.used_at, one.since)

    # --- Pins and rest -----------------------------------------------------------------------------------------------

    def _obey_pins(self, name: str) -> None:
        if name in self._busy:
            return
        refused = tuple(one.model for one in self._resident(name) if one.pin == NEVER)
        if refused:
            for model in refused:
                self._copies.get(model, set()).discard(name)
            self._steps[name] = Step(unload=refused, why="never here")
            self._busy.add(name)
            return
        state = self._boards[name]
        for entry in state.models:
            if entry.pin != ALWAYS or not self._is_loadable(name, entry):
                continue
            resident = self._resident(name)
            missing = self._missing_bytes(name, entry)
            unload = []
            for one in sorted(resident, key=lambda one: (self._kind_of(one), -self._idle_seconds(name, one))):
                if missing > 0 and one.pin != ALWAYS:
                    unload.append(one.model)
                    missing -= one.planned_bytes
            if missing <= 0:
                self._give(name, entry.model, tuple(unload), "pinned")
                return

    def _let_rest(self, name: str) -> None:
        """Of a board that has nothing to load: what was kept alive long enough, and what memory is short for."""
        if name in self._busy:
            return
        is_pressed = self._boards[name].memory_pressure > self._rules.max_memory_pressure
        idle = [one for one in self._resident(name) if self._kind_of(one) == 0 and one.pin != ALWAYS]
        if is_pressed and idle:
            longest = min(idle, key=lambda one: (-self._idle_seconds(name, one), one.model))
            self._steps[name] = Step(unload=(longest.model,), why="memory pressure")
            return
        alive = self._rules.keep_alive_seconds
        if alive is None:
            return
        resting = tuple(
            one.model
            for one in idle
            if self._idle_seconds(name, one) >= alive and one.model not in self._rules.preloads
        )
        if resting:
            self._steps[name] = Step(unload=resting, why="idle")
