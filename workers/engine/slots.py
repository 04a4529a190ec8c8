"""Which slot holds which tokens, and where a new sequence goes. Pure: it decides, the engine loop acts.

A finished turn's tokens stay in their slot until the cells are needed: the conversation's next turn then computes only
what is new. A prefix that another slot of the same client holds is copied, which shares its cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from workers.engine.checkpoints import Checkpoints

MIN_COPY_TOKENS = 16
"""Shorter prefixes are quicker computed than thought about: every prompt of a model begins with the same few."""


@dataclass
class Slot:
    """A llama.cpp `seq_id` and what is in it."""

    index: int
    tokens: list[int] = field(default_factory=list)
    """Those whose KV state is computed."""
    client: str = ""
    conversation: str = ""
    num_reserved: int = 0
    """Cells promised to the turn that is seated here; 0 when none is."""
    num_canonical: int = 0
    """Of the tokens, those computed in the deterministic mode's fixed chunks."""
    used_at: float = 0.0

    @property
    def is_active(self) -> bool:
        """Whether a turn is seated here."""
        return self.num_reserved > 0

    @property
    def num_cells(self) -> int:
        """Cells that are taken, or promised."""
        return max(self.num_reserved, len(self.tokens))


@dataclass(frozen=True)
class Seat:
    """Where a sequence goes and what it finds there.

    Evict the slots of `evicted`, then keep `num_reused` tokens of `slot`, or copy as many from `source`.
    """

    slot: int
    num_reused: int = 0
    source: int | None = None
    evicted: tuple[int, ...] = ()


def _always(slot: int, num_tokens: int) -> bool:
    return True


FIRST_LOOK = 16
"""Tokens of two lists that are compared first, and then the double of it."""


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many leading tokens two lists share. By bisection over slices, which compare at C speed, of where they part:
    what they do not share costs nothing."""
    low, high, end = 0, FIRST_LOOK, min(len(a), len(b))
    while a[low:high] == b[low:high]:
        if high >= end:
            return end
        low, high = high, 2 * high
    high = min(high, end)
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Slots:
    """All slots of a context, whose cells they share."""

    def __init__(
        self,
        num_slots: int,
        num_ctx: int,
        *,
        can_remove_part: bool = True,
        canonical_chunk: int = 0,
        share_across_clients: bool = False,
        checkpoint_bytes: int = 0,
    ) -> None:
        """`checkpoint_bytes`: the cap of what is kept for memories that cannot be cut."""
        self._slots = [Slot(index) for index in range(num_slots)]
        self._num_ctx = num_ctx
        self._can_remove_part = can_remove_part
        self.canonical_chunk = canonical_chunk
        """Of the deterministic mode; 0: prompts are computed in chunks of any size."""
        self._share_across_clients = share_across_clients
        # Cells elsewhere are summed in another order: not the same to the bit.
        self.checkpoints = Checkpoints(0 if canonical_chunk or can_remove_part else checkpoint_bytes)

    def __getitem__(self, index: int) -> Slot:
        return self._slots[index]

    @property
    def num_active(self) -> int:
        """Slots that a turn is seated in."""
        return sum(slot.is_active for slot in self._slots)

    @property
    def num_cells_used(self) -> int:
        """Cells that are taken, or promised, in all slots: those that slots share are counted for each."""
        return sum(slot.num_cells for slot in self._slots)

    def seat(
        self,
        tokens: list[int],
        num_cells: int,
        client: str,
        conversation: str,
        is_whole: Callable[[int, int], bool] = _always,
    ) -> Seat | None:
        """The best seat for a prompt that may grow to `num_cells`; None when it has to wait for a slot or for cells.

        At least the prompt's last token is always computed: its logits choose the first token of the answer.
        `is_whole` says of a slot and a number of its tokens whether they can be gone on from; where they cannot, its
        checkpoints say from where.
        """
        promised = sum(slot.num_cells for slot in self._slots if slot.is_active)
        if self.num_active == len(self._slots) or promised + num_cells > self._num_ctx:
            return None
        reusable = {slot.index: self._reusable(slot, tokens, client, is_whole) for slot in self._slots}
        own = max(
            (slot for slot in self._slots if not slot.is_active and slot.conversation == conversation and slot.tokens),
            key=lambda slot: reusable[slot.index],
            default=None,
        )
        donor = max(self._slots, key=lambda slot: reusable[slot.index])
        if own is not None and reusable[own.index] and reusable[own.index] >= reusable[donor.index]:
            return self._with_room(Seat(own.index, reusable[own.index]), num_cells)
        target = self._emptiest(keep=donor.index if reusable[donor.index] >= MIN_COPY_TOKENS else None)
        if target is None:
            return None
        if target.index == donor.index:
            return self._with_room(Seat(target.index, reusable[donor.index]), num_cells)
        if reusable[donor.index] >= MIN_COPY_TOKENS and not self.canonical_chunk:
            seat = Seat(target.index, reusable[donor.index], donor.index, (target.index,) if target.tokens else ())
        else:
            seat = Seat(target.index, 0, None, (target.index,) if target.tokens else ())
        return self._with_room(seat, num_cells) or self._without_donor(seat, num_cells)

    def seat_empty(self, num_cells: int) -> Seat | None:
        """A slot with nothing in it, for a state that comes from elsewhere; None when it has to wait."""
        target = self._emptiest(keep=None)
        if target is None:
            return None
        return self._with_room(Seat(target.index, evicted=(target.index,) if target.tokens else ()), num_cells)

    def _without_donor(self, seat: Seat, num_cells: int) -> Seat | None:
        """A copy keeps its source resident; where that leaves no room, the prefix is computed instead."""
        if seat.source is None:
            return None
        return self._with_room(Seat(seat.slot, evicted=seat.evicted), num_cells)

    def may_share(self, one: str, other: str) -> bool:
        """Whether what a client has computed is of use to another one."""
        return one == other or self._share_across_clients

    def num_reusable(
        self,
        tokens: list[int],
        client: str,
        is_whole: Callable[[int, int], bool] = _always,
        known: Mapping[int, int] = {},
    ) -> int:
        """How many of a prompt's tokens a seat would find in some slot. `known` says of some slots how many it shares
        with all that the turn there is about to compute."""
        return max(self._reusable(slot, tokens, client, is_whole, known.get(slot.index)) for slot in self._slots)

    def num_shared(self, tokens: list[int], client: str) -> int:
        """How many of a prompt's tokens some slot has, the last one not counted: whether or not they can be reused."""
        return max(self._shared(slot, tokens, client) for slot in self._slots)

    def _shared(self, slot: Slot, tokens: list[int], client: str) -> int:
        if not slot.tokens or not self.may_share(slot.client, client):
            return 0
        return min(common_prefix(slot.tokens, tokens), len(tokens) - 1)

    def _reusable(
        self,
        slot: Slot,
        tokens: list[int],
        client: str,
        is_whole: Callable[[int, int], bool],
        known: int | None = None,
    ) -> int:
        shared = self._shared(slot, tokens, client) if known is None else min(known, len(slot.tokens))
        if self.canonical_chunk:
            # Only what a cold start would have computed by the same calls.
            shared = min(shared, slot.num_canonical) // self.canonical_chunk * self.canonical_chunk
        if not shared:
            return 0
        # In the deterministic mode a cut window would not be what a cold start has, cell for cell.
        may_cut = self._can_remove_part or not self.canonical_chunk
        if (may_cut or shared == len(slot.tokens)) and is_whole(slot.index, shared):
            return shared
        found = self.checkpoints.best(slot.index, shared)
        return found.num_tokens if found is not None else 0

    def _emptiest(self, keep: int | None) -> Slot | None:
        """An empty slot, else the idle one that was used longest ago; the donor of a prefix only when no other is."""
        idle = [slot for slot in self._slots if not slot.is_active]
        return min(idle, key=lambda slot: (slot.index == keep, bool(slot.tokens), slot.used_at), default=None)

    def _with_room(self, seat: Seat, num_cells: int) -> Seat | None:
        """The seat with what else must be evicted for it, or None when even that is not enough.

        Shared cells are counted once for each slot that shares them: a bound, not a guess.
        """
        staying = [
            slot
            for slot in self._slots
            if slot.index not in (seat.slot, *seat.evicted) and (slot.tokens or slot.is_active)
        ]
        used = sum(slot.num_cells for slot in staying)
        evicted = list(seat.evicted)
        for slot in sorted(staying, key=lambda slot: slot.used_at):
            if used + num_cells <= self._num_ctx:
                break
            if not slot.is_active and slot.index != seat.source:
                evicted.append(slot.index)
                used -= slot.num_cells
        if used + num_cells > self._num_ctx:
            return None
        return Seat(seat.slot, seat.num_reused, seat.source, tuple(evicted))

    def take(self, seat: Seat, tokens: list[int], num_cells: int, client: str, conversation: str) -> None:
        """Notes that the seat was taken: evictions done, prefix in place."""
        for index in seat.evicted:
            self.clear(index)
        slot = self._slots[seat.slot]
        assert not slot.is_active
        if seat.source is None:
            self.checkpoints.cut(seat.slot, seat.num_reused)
        else:
            self.checkpoints.share(seat.source, seat.slot, seat.num_reused)
        slot.tokens = tokens[: seat.num_reused]
        slot.num_canonical = min(slot.num_canonical, seat.num_reused) if seat.source is None else 0
        slot.client, slot.conversation, slot.num_reserved = client, conversation, num_cells

    def note(self, index: int, tokens: list[int], num_computed: int) -> None:
        """The turn that is seated there has computed so many of its tokens: another one may share them."""
        known = self._slots[index].tokens
        del known[num_computed:]
        assert not known or known[-1] == tokens[len(known) - 1], "a slot holds what was computed there"
        known += tokens[len(known) : num_computed]

    def cut(self, index: int, num_tokens: int) -> None:
        """The slot has only so many of its tokens from now on."""
        slot = self._slots[index]
        slot.tokens, slot.num_canonical = slot.tokens[:num_tokens], min(slot.num_canonical, num_tokens)
        self.checkpoints.cut(index, num_tokens)

    def release(self, index: int, tokens: list[int], num_canonical: int, now: float) -> None:
        """The turn is over; the slot keeps `tokens`, whose state is computed."""
        slot = self._slots[index]
        assert slot.is_active
        slot.tokens, slot.num_canonical, slot.num_reserved, slot.used_at = tokens, num_canonical, 0, now
        self.checkpoints.cut(index, len(tokens))

    def rename(self, client: str, conversation: str, name: str, tokens: list[int]) -> None:
        """The slot that keeps these tokens of a conversation is of one of another name from now on."""
        for slot in self._slots:
            is_it = (slot.client, slot.conversation, slot.is_active) == (client, conversation, False)
            if is_it and slot.tokens and slot.tokens == tokens[: len(slot.tokens)]:
                slot.conversation = name

    def idle(self) -> list[Slot]:
        """Slots that keep a conversation whose turn is over, the longest unused first."""
        return sorted((one for one in self._slots if one.tokens and not one.is_active), key=lambda one: one.used_at)

    def clear(self, index: int) -> None:
        """Notes that nothing is in the slot any more."""
        self._slots[index] = Slot(index)
        self.checkpoints.cut(index, 0)
