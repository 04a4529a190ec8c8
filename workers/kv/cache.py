"""The KV cache's tiers below the context: RAM, and files where there are any. From the engine's thread and asyncio's.

The engine loop offloads what it evicts and restores what a turn continues, both by a copy in memory. What RAM has no
room for goes to disk, written by a thread of its own; what a turn continues from disk is read before the engine hears
of the turn. So no step waits for a disk. The board's memory is written to when the worker stops, and read as a disk is.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from broker.errors import TurnpikeError
from broker.messages import CachedIn, CutPoint
from workers.engine.protocol import State
from workers.kv.board_store import BoardStore
from workers.kv.disk import Disk
from workers.kv.index import TOKEN_BYTES, Key, KvEntry, PrefixMatch, Tier, common_tokens, find, num_usable, split

MIN_OFFLOADED_TOKENS = 32
"""Less is not worth a place, a file or a transfer."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheStats:
    """What is in the tiers, for telemetry."""

    num_in_ram: int = 0
    ram_bytes: int = 0
    num_on_disk: int = 0
    disk_bytes: int = 0
    num_evicted: int = 0
    """States that were dropped since the start: for the caps, or as they could not be written or read."""


class OffloadCache:
    """All tiers. A conversation may be in several places; what is longest counts."""

    def __init__(
        self,
        max_bytes: int,
        disk: Disk | None = None,
        *,
        board: BoardStore | None = None,
        share_across_clients: bool = False,
        can_remove_part: bool = True,
        canonical_chunk: int = 0,
    ) -> None:
        """`max_bytes` of RAM; with 0 nothing is offloaded. What RAM has no room for goes to `disk`; what is left at the
        end to the `board`, which has it before a disk does. The last three are as workers.kv.index.find has them."""
        self._lock = threading.Lock()
        self._ram = Tier(max_bytes)
        self._states: dict[Key, State] = {}
        self._disk = disk
        self._files: tuple[Disk, ...] = tuple(one for one in (board, disk) if one is not None)
        self.board = board
        """What keeps what is left at the end; None without a board."""
        self._writing: dict[Key, tuple[KvEntry, State]] = {}
        self._writer = ThreadPoolExecutor(1, "offload") if disk is not None else None
        self._share = share_across_clients
        self._can_remove_part = can_remove_part
        self._canonical_chunk = canonical_chunk
        self._num_evicted = 0
        self._origins: dict[Key, CachedIn] = {}

    @property
    def is_on(self) -> bool:
        """Whether anything is kept at all."""
        return self._ram.max_bytes > 0

    @property
    def has_files(self) -> bool:
        """Whether there is a tier below RAM."""
        return bool(self._files)

    @property
    def max_bytes(self) -> int:
        """Of RAM."""
        return self._ram.max_bytes

    @property
    def stats(self) -> CacheStats:
        """Of just now."""
        with self._lock:
            disk = self._disk
            return CacheStats(
                len(self._ram),
                self._ram.num_bytes,
                len(disk.tier) if disk else 0,
                disk.tier.num_bytes if disk else 0,
                self._num_evicted,
            )

    def offload(self, entry: KvEntry, state: State, origin: CachedIn = "ram") -> None:
        """Keeps a state in RAM; `origin` is where it came from, for the turn that finds it. One that goes on from it
        stays in its place: an older state of a conversation may leave the context after a newer one has come."""
        if self._disk is None:
            entry, state = self._with_room(entry, state)
        entry = replace(entry, used_at=entry.last_used)
        with self._lock:
            if entry.key in self._ram and self._ram[entry.key].goes_on_from(entry):
                self._ram.use(entry.key)
                return
            self._states[entry.key] = state
            self._origins[entry.key] = origin
            for evicted in self._ram.put(entry):
                self._move_to_disk(evicted, self._states.pop(evicted.key))

    def _with_room(self, entry: KvEntry, state: State) -> tuple[KvEntry, State]:
        """Before a conversation goes, checkpoints do: the longest unused ones first, at last those of the state that
        comes, which is returned. What is left is copied while nobody waits for it."""
        while (found := self._too_long(entry)) is not None:
            if found is entry:
                return entry.without_cuts, bytes(split(state, entry.cuts)[0])
            with self._lock:
                long = self._states[found.key] if self._is_in_ram(found) else None
            if long is None:
                continue
            short = bytes(split(long, found.cuts)[0])
            with self._lock:
                if self._is_in_ram(found):
                    self._ram.shorten(found.without_cuts)
                    self._states[found.key] = short
        return entry, state

    def _is_in_ram(self, entry: KvEntry) -> bool:
        return entry.key in self._ram and self._ram[entry.key] is entry

    def _too_long(self, entry: KvEntry) -> KvEntry | None:
        """Whose checkpoints have to go for that state to have room; None for nobody's."""
        with self._lock:
            if entry.key in self._ram and self._ram[entry.key].goes_on_from(entry):
                return None
            replaced = self._ram[entry.key].num_bytes if entry.key in self._ram else 0
            if self._ram.num_bytes - replaced + entry.num_bytes <= self._ram.max_bytes:
                return None
            others = (one for one in self._ram if one.cuts and one.key != entry.key)
            return next(others, entry if entry.cuts else None)

    def _move_to_disk(self, evicted: KvEntry, state: State) -> None:
        """What has left RAM; dropped where there is no disk, or too much waits for it."""
        self._origins.pop(evicted.key, None)
        if self._is_in_files(evicted):
            return
        if self._writer is None or not self._writer_has_room(evicted):
            self._num_evicted += 1
            return
        self._writing[evicted.key] = (evicted, state)
        self._writer.submit(self._write, evicted, state)

    def _is_in_files(self, entry: KvEntry) -> bool:
        """Whether a state that goes on from it is there, or on its way there."""
        return any(one.goes_on_from(entry) for one in self._in_files(entry.key))

    def _in_files(self, key: Key) -> list[KvEntry]:
        """What of a conversation is in files or on its way there."""
        found = [self._writing[key][0]] if key in self._writing else []
        return found + [one.tier[key] for one in self._files if key in one.tier]

    def _writer_has_room(self, entry: KvEntry) -> bool:
        """What waits to be written is in memory too: no more of it than a quarter of what RAM may hold."""
        waiting = sum(one.num_bytes for one, _ in self._writing.values())
        return waiting + entry.num_bytes <= max(self._ram.max_bytes // 4, entry.num_bytes)

    def _write(self, entry: KvEntry, state: State) -> None:
        assert self._disk is not None
        try:
            path = self._disk.write(entry, state)
            with self._lock:
                self._num_evicted += self._disk.keep(entry, path)
        except OSError as error:
            log.warning("not parked on disk bytes=%d error=%s", entry.num_bytes, error)
            with self._lock:
                self._num_evicted += 1
        finally:
            with self._lock:
                if self._writing.get(entry.key, (None, None))[1] is state:
                    del self._writing[entry.key]

    # --- What a turn continues ---

    def find(self, tokens: bytes, client: str) -> PrefixMatch | None:
        """The state in RAM with the longest prefix in common with packed tokens; None where none has any."""
        with self._lock:
            return self._find(self._ram, tokens, client)

    def _find(self, entries: Iterable[KvEntry], tokens: bytes, client: str) -> PrefixMatch | None:
        return find(
            entries,
            tokens,
            client,
            share_across_clients=self._share,
            can_remove_part=self._can_remove_part,
            canonical_chunk=self._canonical_chunk,
        )

    def num_usable(self, state_tokens: bytes, prompt: bytes, cuts: Iterable[CutPoint]) -> int:
        """How many of a prompt's tokens a state of these tokens saves that can be cut there: those that both begin
        with, or fewer where part of it could not be removed."""
        shared, num_tokens = common_tokens(state_tokens, prompt), len(state_tokens) // TOKEN_BYTES
        return num_usable(shared, num_tokens, cuts, can_remove_part=self._can_remove_part)

    def num_shared(self, tokens: bytes, client: str) -> int:
        """How many of a prompt's packed tokens some state in RAM begins with: whether or not it can be cut there."""
        with self._lock:
            found = find(self._ram, tokens, client, share_across_clients=self._share)
        return found.num_tokens if found is not None else 0

    def take(self, key: Key, *, keep: bool) -> tuple[KvEntry, State, CachedIn] | None:
        """What there is of a conversation in RAM by now, and where it came from; None where it has gone since it was
        found. With `keep` it stays."""
        with self._lock:
            if key not in self._ram:
                return None
            entry = self._ram[key]
            if keep:
                self._ram.use(key)
                return entry, self._states[key], self._origins[key]
            self._ram.remove(key)
            return entry, self._states.pop(key), self._origins.pop(key)

    def find_on_disk(self, tokens: bytes, client: str, better_than: int) -> PrefixMatch | None:
        """The best in files, or on its way there, where it has more of the prompt than `better_than` tokens."""
        if not self._files:
            return None
        with self._lock:
            written = itertools.chain.from_iterable(one.tier for one in self._files)
            entries = [*written, *(entry for entry, _ in self._writing.values())]
            in_ram = self._find(self._ram, tokens, client)
            found = self._find(entries, tokens, client)
        best = max(better_than, in_ram.num_tokens if in_ram else 0)
        return found if found is not None and found.num_tokens > best else None

    def entry_of(self, key: Key) -> KvEntry | None:
        """What of a conversation is here, in RAM, in files or on its way there: the longest."""
        with self._lock:
            entries = [self._ram[key]] if key in self._ram else []
            entries += self._in_files(key)
        return max(entries, key=lambda one: one.num_tokens, default=None)

    def keys(self) -> list[Key]:
        """Of all conversations here, the longest unused first."""
        with self._lock:
            entries = [*itertools.chain.from_iterable(one.tier for one in self._files), *self._ram]
        return [*dict.fromkeys(one.key for one in entries)]

    def copy_of(self, key: Key) -> tuple[KvEntry, State] | None:
        """A conversation's state for somebody else; it stays where it is. Blocks for the disk."""
        entry = self.entry_of(key)
        if entry is None:
            return None
        with self._lock:
            if key in self._ram and self._ram[key] is entry:
                return entry, self._states[key]
            if key in self._writing and self._writing[key][0] is entry:
                return self._writing[key]
        files = self._files_of(entry)
        state = files.read(entry) if files is not None else None
        return (replace(entry, num_bytes=len(state)), state) if state is not None else None

    def load(self, found: PrefixMatch) -> bool:
        """Reads what was found in files into RAM; whether it could be. Blocks for the disk."""
        with self._lock:
            entry, waiting = self._writing.get(found.entry.key, (found.entry, None))
            files = self._files_of(entry)
        if waiting is not None:
            self.offload(entry, waiting, "disk")
            return True
        if files is None:
            return False
        if (state := files.read(entry)) is None:
            with self._lock:
                self._num_evicted += files.forget(entry)
            return False
        self.offload(replace(entry, num_bytes=len(state)), state, files.origin)
        with self._lock:
            if not files.stays_when_loaded and entry.key in self._ram:
                files.forget(entry)
        return True

    def _files_of(self, entry: KvEntry) -> Disk | None:
        """Where that very entry is."""
        return next((one for one in self._files if entry.key in one.tier and one.tier[entry.key] is entry), None)

    # --- The end ---

    def flush(self, seconds: float, resident: Iterable[tuple[KvEntry, State]] = ()) -> int:
        """Writes what is `resident` in the context, the latest used first and each as it is copied, and what is in RAM
        to files, for so long; how many conversations are there then. What the board's memory has is gone from RAM."""
        if not self._files:
            return 0
        until = time.monotonic() + seconds
        latest: dict[Key, KvEntry] = {}
        for entry, state in heapq.merge(resident, self._latest_first(), key=lambda one: -one[0].last_used):
            if time.monotonic() >= until:
                break
            if entry.key in latest and not entry.goes_on_from(latest[entry.key]):
                continue  # what the conversation was before it took another way
            latest[entry.key] = entry
            with self._lock:
                is_written = self._is_in_files(entry)
            if not is_written:
                self._keep(entry, state)
        if self._writer is not None:  # which has what RAM had no room for
            with contextlib.suppress(TimeoutError):
                self._writer.submit(int).result(timeout=max(0.0, until - time.monotonic()))
        with self._lock:
            return sum(len(one.tier) for one in self._files)

    def _latest_first(self) -> Iterator[tuple[KvEntry, State]]:
        """What is in RAM, each as it is wanted."""
        with self._lock:
            keys = [entry.key for entry in sorted(self._ram, key=lambda one: -one.last_used)]
        for key in keys:
            with self._lock:
                found = (self._ram[key], self._states[key]) if key in self._ram else None
            if found is not None:
                yield found

    def _keep(self, entry: KvEntry, state: State) -> None:
        """Writes a state where there is room for it: with the board, else on the disk."""
        for files in self._files:
            try:
                path = files.write(entry, state)
            except (OSError, TurnpikeError) as error:
                log.info("not kept where=%s bytes=%d error=%s", files.origin, entry.num_bytes, error)
                continue
            with self._lock:
                self._num_evicted += files.keep(entry, path)
                if not files.stays_when_loaded and self._is_in_ram(entry):
                    self._ram.remove(entry.key)
                    del self._states[entry.key], self._origins[entry.key]
            return
        with self._lock:
            self._num_evicted += 1

    def num_in_files(self, key: Key) -> int:
        """How many tokens of a conversation are in files that are there: others may have removed some of a board's."""
        with self._lock:
            return max((one.tier[key].num_tokens for one in self._files if one.has_file(key)), default=0)

    def close(self) -> None:
        """Ends the writer after the file at hand; what had not been begun is given up."""
        if self._writer is not None:
            self._writer.shutdown(wait=True, cancel_futures=True)
            self._num_evicted += len(self._writing)
            self._writing.clear()
