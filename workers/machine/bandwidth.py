"""How many bytes per second the machine's memory gives to readers: what a decode step's reading is held against.

A decode step reads the weights and writes next to nothing, so it is held against reading alone, by as many threads as
read fastest: a copy counts written bytes too, which memory takes otherwise than it gives, and on a small board all
cores together read slower than two.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

LEAST_BYTES = 64 * 1024 * 1024
NUM_CACHES = 4
"""So many times what the last caches hold is read: of less, much would come from them."""
MOST_SHARE = 4
"""At most one part in so many of the memory that is available."""
ROUNDS = 3
CPUS = Path("/sys/devices/system/cpu")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_FILLED = 1

Read = Callable[[int, int], object]
"""Reads so many bytes from an address on, once, without Python's lock."""


@dataclass(frozen=True)
class ReadBandwidth:
    """How fast memory was read."""

    by_threads: dict[int, float]
    """Bytes per second of the best pass, by number of threads."""

    @property
    def num_threads(self) -> int:
        """Those that read fastest."""
        return max(self.by_threads, key=self.by_threads.__getitem__)

    @property
    def bytes_per_second(self) -> float:
        """Of those."""
        return self.by_threads[self.num_threads]

    def describe(self) -> str:
        """In words, for a log."""
        each = " ".join(f"{num}:{one / 1e9:.1f}" for num, one in self.by_threads.items())
        return f"{self.bytes_per_second / 1e9:.1f}GB/s threads={self.num_threads} (GB/s by threads {each})"


def numbers_of_threads(most: int) -> list[int]:
    """What to try: all up to eight, beyond that doubled, and the most."""
    return sorted({*range(1, min(most, 8) + 1), *(8 << n for n in range(1, 8) if 8 << n < most), most})


def cache_bytes(cpus: Iterable[int] | None = None, folder: Path = CPUS) -> int:
    """What the last caches of these CPUs (those that this process may use) hold together; 0 where the kernel does not
    tell."""
    last: dict[int, dict[str, int]] = {0: {}}
    for cpu in os.sched_getaffinity(0) if cpus is None else cpus:
        for index in folder.glob(f"cpu{cpu}/cache/index*"):
            try:
                level, size, shared = (
                    (index / name).read_text().strip() for name in ("level", "size", "shared_cpu_list")
                )
                last.setdefault(int(level), {})[shared] = int(size.rstrip("KMG")) * _UNITS.get(size[-1:], 1)
            except (OSError, ValueError):
                continue
    return sum(last[max(last)].values())


def buffer_bytes(available: int, caches: int | None = None) -> int:
    """How much to read where so much memory is available: far more than the last caches hold, which `caches` says."""
    wanted = max(LEAST_BYTES, NUM_CACHES * (cache_bytes() if caches is None else caches))
    return min(wanted, max(LEAST_BYTES // 4, available // MOST_SHARE))


def compare(address: int, num_bytes: int) -> object:
    """The C library's comparison of the one half with the other: it reads by vectors, writes nothing and computes less
    than a search or a sum does, so that it was the quickest of what is there without a compiler
    (benchmarks/threads.py)."""
    half = num_bytes // 2
    return _memcmp(address, address + half, half)


_memcmp = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(
    ("memcmp", ctypes.CDLL(None))
)


def read_bandwidth(
    most: int,
    num_bytes: int,
    *,
    read: Read = compare,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> ReadBandwidth:
    """Reads `num_bytes` by 1 to `most` threads, each its own share of them, some times each."""
    buffer = bytearray(num_bytes)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    # Untouched pages would all be the kernel's one page of zeros, and come from the cache.
    ctypes.memset(address, _FILLED, num_bytes)
    found = {}
    for num_threads in numbers_of_threads(most):
        share = num_bytes // num_threads
        with ThreadPoolExecutor(num_threads) as pool:
            best = float("inf")
            for _ in range(rounds):
                started = clock()
                list(pool.map(read, range(address, address + share * num_threads, share), repeat(share)))
                best = min(best, clock() - started)
        found[num_threads] = share * num_threads / best
    return ReadBandwidth(found)
