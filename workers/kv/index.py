"""What is parked in RAM and on disk, what of it fits a prompt, and who goes first. Pure: it decides, others act."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

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


def checksum(tokens: bytes, state: bytes | bytearray) -> str:
    """The SHA-256 of a state and its tokens, in hexadecimal digits."""
    digest = hashlib.sha256(tokens)
    digest.update(state)
    return digest.hexdigest()


@dataclass(frozen=True)
class Key:
    """Whose conversation."""

    client: str
    conversation: str


@dataclass(frozen=True)
class KvEntry:
    """A sequence's KV state away from the context. `tokens` are packed; `num_canonical` of them were computed in the
    deterministic mode's fixed chunks."""

    key: Key
    tokens: bytes
    num_bytes: int
    num_canonical: int = 0

    @property
    def num_tokens(self) -> int:
        return len(self.tokens) // TOKEN_BYTES

    @property
    def worth(self) -> float:
        """Seconds to compute it again for each byte, but for the engine's rate, which is the same for all: to two
        digits, below which it is the same."""
        ratio = self.num_tokens / max(1, self.num_bytes)
        return round(ratio, 1 - math.floor(math.log10(ratio))) if ratio else 0.0


@dataclass
class Tier:
    """What is kept in one place, within a cap of bytes; the least worth goes first, the longest unused among equals."""

    max_bytes: int
    _kept: dict[Key, KvEntry] = field(default_factory=dict)
    """In the order of their last use."""
    num_bytes: int = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[KvEntry]:
        """The longest unused first."""
        return iter(list(self._kept.values()))

    def __getitem__(self, key: Key) -> KvEntry:
        return self._kept[key]

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def put(self, offloaded: KvEntry) -> list[KvEntry]:
        """Keeps it as the latest used; what has to go for it, which may be itself."""
        self.remove(offloaded.key)
        self._kept[offloaded.key] = offloaded
        self.num_bytes += offloaded.num_bytes
        gone = []
        while self.num_bytes > self.max_bytes:
            victim = min(self._kept.values(), key=lambda one: one.worth)  # the first of equals: the longest unused
            gone.append(self.remove(victim.key))
        return [one for one in gone if one is not None]

    def use(self, key: Key) -> None:
        self._kept[key] = self._kept.pop(key)

    def remove(self, key: Key) -> KvEntry | None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.num_bytes -= found.num_bytes
        return found


@dataclass(frozen=True)
class Found:
    """A parked state that begins as a prompt does, and how many of its tokens are of use."""

    offloaded: KvEntry
    num_tokens: int


def find(
    kept: Iterable[KvEntry],
    tokens: bytes,
    client: str,
    *,
    share_across_clients: bool = False,
    can_remove_part: bool = True,
    canonical_chunk: int = 0,
) -> Found | None:
    """The parked state with the longest prefix of `tokens` in common, the latest used of equals; None where none has
    any. The prompt's last token is always left to compute.

    Of a model that cannot forget a part of its state only a whole one is of use.
    """
    best: Found | None = None
    most = len(tokens) // TOKEN_BYTES - 1
    for offloaded in reversed([*kept]):
        if offloaded.key.client != client and not share_across_clients:
            continue
        # Most fail here: what is not longer than the best so far is told by one comparison.
        least = ((0 if best is None else best.num_tokens) + 1) * TOKEN_BYTES
        if offloaded.tokens[:least] != tokens[:least]:
            continue
        shared = min(common_tokens(offloaded.tokens, tokens), most)
        if canonical_chunk:
            shared = min(shared, offloaded.num_canonical) // canonical_chunk * canonical_chunk
        if not can_remove_part and shared < offloaded.num_tokens:
            continue
        if shared > 0 and (best is None or shared > best.num_tokens):
            best = Found(offloaded, shared)
    return best
