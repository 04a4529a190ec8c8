"""The index of a KV cache tier: which states it has, which of them a prompt continues, and what is evicted first.

A state that cannot be cut anywhere has checkpoints with it, whose bytes follow its own: there it can be cut.
Pure: it decides, the cache and the disk act.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from broker.messages import CutPoint
from workers.engine.protocol import State

TOKEN_BYTES = 4


def packed(tokens: Iterable[int]) -> bytes:
    """Tokens as bytes, four each: what compares two conversations at memcmp's speed."""
    return array("i", tokens).tobytes()


def common_tokens(one: bytes, other: bytes) -> int:
    """How many leading tokens two packed lists share, by bisection."""
    low, high = 0, min(len(one), len(other)) // TOKEN_BYTES
    if one[: high * TOKEN_BYTES] == other[: high * TOKEN_BYTES]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if one[low * TOKEN_BYTES : middle * TOKEN_BYTES] == other[low * TOKEN_BYTES : middle * TOKEN_BYTES]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True)
class Key:
    """Whose conversation."""

    client: str
    conversation: str


@dataclass(frozen=True)
class KvEntry:
    """A conversation's KV state away from the context: what is known of it, not its bytes."""

    key: Key
    tokens: bytes
    """Packed."""
    num_bytes: int
    """With its checkpoints'."""
    num_canonical: int = 0
    """Of the tokens, those that were computed in the deterministic mode's fixed chunks."""
    cuts: tuple[CutPoint, ...] = ()
    """In order of position, each before the last token."""
    used_at: float | None = field(default=None, compare=False)
    """When its conversation had its last turn, in seconds since the epoch; None where that is not known."""

    @property
    def last_used(self) -> float:
        """`used_at`, or now."""
        return time.time() if self.used_at is None else self.used_at

    @property
    def num_tokens(self) -> int:
        """How many tokens the state is of."""
        return len(self.tokens) // TOKEN_BYTES

    @property
    def without_cuts(self) -> KvEntry:
        """The same without checkpoints."""
        return replace(self, num_bytes=self.num_bytes - sum(one.num_bytes for one in self.cuts), cuts=())

    @property
    def worth(self) -> float:
        """Tokens for each byte: in proportion to the seconds that a byte saves, as all are computed at the same rate.
        Rounded to two digits, so that states of nearly the same worth are evicted by their last use."""
        ratio = self.num_tokens / max(1, self.num_bytes)
        return round(ratio, 1 - math.floor(math.log10(ratio))) if ratio else 0.0

    def goes_on_from(self, other: KvEntry) -> bool:
        """Whether it is of the same conversation, longer, and of as much use as the other wherever that one is."""
        is_longer = len(self.tokens) > len(other.tokens) and self.num_canonical >= other.num_canonical
        return is_longer and self.key == other.key and self.tokens.startswith(other.tokens)


def split(state: State, cuts: Iterable[CutPoint]) -> tuple[memoryview, list[memoryview]]:
    """A state's own bytes and those of each of its checkpoints, which follow them. Views, not copies."""
    whole, found = memoryview(state), []
    for one in reversed([*cuts]):
        whole, checkpoint = whole[: len(whole) - one.num_bytes], whole[len(whole) - one.num_bytes :]
        found.append(checkpoint)
    return whole, found[::-1]


def num_usable(shared: int, num_tokens: int, cuts: Iterable[CutPoint], *, can_remove_part: bool) -> int:
    """How many of the first `shared` tokens of a state of `num_tokens` can be gone on from: all where it can be cut
    anywhere, or has no others; else as many as the last checkpoint before them has."""
    if can_remove_part or shared == num_tokens:
        return shared
    return max((one.num_tokens for one in cuts if one.num_tokens <= shared), default=0)


@dataclass
class Tier:
    """The states of one place, within a cap of bytes. What has the least worth is evicted first; of equals, what was
    not used for longest."""

    max_bytes: int
    _entries: dict[Key, KvEntry] = field(default_factory=dict)
    """In the order of their last use."""
    num_bytes: int = 0
    """Of all entries."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[KvEntry]:
        """The longest unused first."""
        return iter(list(self._entries.values()))

    def __getitem__(self, key: Key) -> KvEntry:
        return self._entries[key]

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def put(self, entry: KvEntry) -> list[KvEntry]:
        """Adds an entry as the latest used, in place of one of the same key; what is evicted for it, which may be
        itself."""
        self.remove(entry.key)
        self._entries[entry.key] = entry
        self.num_bytes += entry.num_bytes
        evicted = []
        while self.num_bytes > self.max_bytes:
            victim = min(self._entries.values(), key=lambda one: one.worth)  # the first of equals: the longest unused
            evicted.append(self.remove(victim.key))
        return [one for one in evicted if one is not None]

    def use(self, key: Key) -> None:
        """Makes it the latest used. It must be here."""
        self._entries[key] = self._entries.pop(key)

    def shorten(self, entry: KvEntry) -> None:
        """Takes note that what is here under the same key has become that. Its last use is the same."""
        self.num_bytes += entry.num_bytes - self._entries[entry.key].num_bytes
        self._entries[entry.key] = entry

    def remove(self, key: Key) -> KvEntry | None:
        """What was here under that key."""
        found = self._entries.pop(key, None)
        if found is not None:
            self.num_bytes -= found.num_bytes
        return found


@dataclass(frozen=True)
class PrefixMatch:
    """A state that begins as a prompt does, and how many of its tokens are of use."""

    entry: KvEntry
    num_tokens: int


def find(
    entries: Iterable[KvEntry],
    tokens: bytes,
    client: str,
    *,
    share_across_clients: bool = False,
    can_remove_part: bool = True,
    canonical_chunk: int = 0,
) -> PrefixMatch | None:
    """The state with the longest prefix in common with `tokens`, the latest used of equals; None where none has any.
    The prompt's last token is always left to compute.

    `entries` are in the order of their last use. Of a model that cannot remove a part of its state a whole one is of
    use, or what comes before a checkpoint; with `canonical_chunk` only whole chunks of so many tokens, all computed in
    fixed chunks.
    """
    best: PrefixMatch | None = None
    most = len(tokens) // TOKEN_BYTES - 1
    for entry in reversed([*entries]):
        if entry.key.client != client and not share_across_clients:
            continue
        # Most fail here: what is not longer than the best so far is told by one comparison.
        least = ((0 if best is None else best.num_tokens) + 1) * TOKEN_BYTES
        if entry.tokens[:least] != tokens[:least]:
            continue
        shared = min(common_tokens(entry.tokens, tokens), most)
        if canonical_chunk:
            shared = min(shared, entry.num_canonical) // canonical_chunk * canonical_chunk
        shared = num_usable(shared, entry.num_tokens, entry.cuts, can_remove_part=can_remove_part)
        if shared > 0 and (best is None or shared > best.num_tokens):
            best = PrefixMatch(entry, shared)
    return best
