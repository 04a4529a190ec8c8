"""How many bytes per second the machine's memory can move: what a decode step's reading is held against."""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor

BANDWIDTH_BYTES = 64 * 1024 * 1024
BANDWIDTH_ROUNDS = 3


def copy_bandwidth(num_threads: int, num_bytes: int = BANDWIDTH_BYTES, rounds: int = BANDWIDTH_ROUNDS) -> float:
    """Bytes per second, read and written ones, of the best of a few copies by all threads: the COPY of STREAM
    (McCalpin 1995), what a decode step's reading of the weights is held against."""
    source, target = bytearray(num_bytes), bytearray(num_bytes)
    source_at, target_at = (ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in (source, target))
    share = num_bytes // num_threads

    def copy(index: int) -> None:
        # ctypes lets go of the GIL for it.
        ctypes.memmove(target_at + index * share, source_at + index * share, share)

    best = float("inf")
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in range(rounds + 1):  # the first one touches the pages
            started = time.perf_counter()
            list(pool.map(copy, range(num_threads)))
            best = min(best, time.perf_counter() - started)
    return 2 * share * num_threads / best
