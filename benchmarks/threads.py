"""How many threads want decode, prompts and memory, and what does it bring to let them look for work between steps?

Without a file, of the random shape and the real models that are there. Each is measured as a worker measures it at its
start, in three rounds of mirrored order: every round is shown, and the medians count. A copy by all threads, which the
roofline was held against once, stands beside the reading.

python -m benchmarks.threads [FILE.gguf]
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.harness import CORES, Row, Weights, all_weights, machine, show
from workers.engine.calibration import measure_prefill_threads, measure_threads
from workers.engine.polling import PollCost, measure_polling, name, quietest
from workers.engine.threads import best
from workers.llama.context import ContextOptions, LlamaEngine, LlamaModel
from workers.machine.bandwidth import Read, buffer_bytes, compare, numbers_of_threads, read_bandwidth
from workers.machine.memory import available_bytes

ROUNDS = 3
LEVELS = (None, 0, 50, 100)
NUMBERS = numbers_of_threads(CORES)


def mirrored[T](values: Iterable[T]) -> list[list[T]]:
    """The order of each round."""
    forth = list(values)
    return [forth if number % 2 == 0 else forth[::-1] for number in range(ROUNDS)]


def table(title: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    found = Table(title=title, title_justify="left")
    for head in heads:
        found.add_column(head, justify="right")
    for row in rows:
        found.add_row(*row)
    Console(width=160).print(found)


def copied(num_threads: int, num_bytes: int) -> float:
    """Bytes per second, read and written ones, of the best of three copies by so many threads."""
    source, target = bytearray(num_bytes), bytearray(num_bytes)
    source_at, target_at = (ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in (source, target))
    share, best = num_bytes // num_threads, float("inf")
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in range(1 + ROUNDS):  # the first one touches the pages
            started = time.perf_counter()
            offsets = range(0, share * num_threads, share)
            list(pool.map(lambda at: ctypes.memmove(target_at + at, source_at + at, share), offsets))
            best = min(best, time.perf_counter() - started)
    return 2 * share * num_threads / best


def readers() -> dict[str, Read]:
    """Ways to read memory that are there without a compiler, each without Python's lock."""
    memchr = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)(
        ("memchr", ctypes.CDLL(None))
    )

    def numbers(address: int, size: int) -> NDArray[np.int64]:
        return np.frombuffer((ctypes.c_char * size).from_address(address), np.int64)

    return {
        "memcmp": compare,
        "memchr": lambda at, size: memchr(at, 255, size),
        "numpy max": lambda at, size: numbers(at, size).max(),
        "numpy or": lambda at, size: np.bitwise_or.reduce(numbers(at, size)),
        "numpy sum": lambda at, size: numbers(at, size).sum(),
    }


def memory() -> list[Row]:
    """Read by 1 to all threads, by several ways to read."""
    num_bytes = buffer_bytes(available_bytes())
    found = {what: read_bandwidth(CORES, num_bytes, read=read).by_threads for what, read in readers().items()}
    heads = ("read by", *(f"{num} threads" for num in NUMBERS))
    title = f"memory: GB/s of {num_bytes >> 20} MiB, the best of three passes"
    table(title, heads, ((what, *(f"{one[num] / 1e9:.2f}" for num in NUMBERS)) for what, one in found.items()))
    ours, copy = max(found["memcmp"].values()), copied(CORES, num_bytes)
    quickest = max(max(one.values()) for one in found.values())
    return [
        Row(
            "memory read, the worker's way ÷ the quickest of all ways",
            f"{ours / 1e9:.1f} GB/s",
            f"{quickest / 1e9:.1f} GB/s",
            ours / quickest,
            0.95,
        ),
        Row(
            "memory read, the best of 1, 2, … threads ÷ a copy by all, read and written bytes",
            f"{ours / 1e9:.1f} GB/s",
            f"{copy / 1e9:.1f} GB/s",
            ours / copy,
            0.0,
        ),
    ]


def of_model(weights: Weights) -> list[Row]:
    """Decode and prefill by number of threads, and decode by how they wait, with the threads that are best for it."""
    model = LlamaModel(weights.file)
    engine = LlamaEngine(model, ContextOptions(num_ctx=2048, num_slots=2))
    try:
        decode = by_threads(weights.of("decode, ms a step"), engine, measure_threads)
        prefill = by_threads(weights.of("prompts, ms a token"), engine, measure_prefill_threads)
        engine.num_threads = best(decode)
        return [
            threads_row(weights.of("decode"), decode),
            threads_row(weights.of("prompts"), prefill),
            *polling(weights, engine),
        ]
    finally:
        engine.close()
        model.close()


def by_threads(
    title: str, engine: LlamaEngine, measure: Callable[[LlamaEngine, Iterable[int]], dict[int, float]]
) -> dict[int, float]:
    """Seconds by number of threads, the medians of all rounds."""
    rounds = [measure(engine, order) for order in mirrored(NUMBERS)]
    found = {num: median(one[num] for one in rounds) for num in NUMBERS}
    rows = [[str(number), *(f"{1e3 * one[num]:.2f}" for num in NUMBERS)] for number, one in enumerate(rounds, 1)]
    rows.append(["median", *(f"{1e3 * found[num]:.2f}" for num in NUMBERS)])
    table(title, ("round", *(f"{num} threads" for num in NUMBERS)), rows)
    return found


def threads_row(what: str, seconds: Mapping[int, float]) -> Row:
    chosen = best(seconds)
    ours, all_cores = seconds[chosen], seconds[CORES]
    question = f"{what}, by {chosen} threads, as a worker chooses, ÷ by all {CORES}"
    return Row(question, f"{1e3 * ours:.2f} ms", f"{1e3 * all_cores:.2f} ms", ours / all_cores, 1.03, at_most=True)


def polling(weights: Weights, engine: LlamaEngine) -> list[Row]:
    """What it costs and brings to let threads look for work between two steps."""
    rounds = [measure_polling(engine, order) for order in mirrored(LEVELS)]
    keys = [name(level) for level in LEVELS]
    found = {
        key: PollCost(
            median(one[key].decode_seconds for one in rounds), median(one[key].python_seconds for one in rounds)
        )
        for key in keys
    }

    def cells(costs: Mapping[str, PollCost]) -> list[str]:
        return [f"{1e3 * costs[key].decode_seconds:.2f} + {1e3 * costs[key].python_seconds:.2f}" for key in keys]

    rows = [[str(number), *cells(one)] for number, one in enumerate(rounds, 1)]
    title = f"a decode step by {engine.num_threads} threads + Python's work behind it, ms, by polling level"
    table(weights.of(title), ("round", *keys), [*rows, ["median", *cells(found)]])
    chosen = name(quietest(found))
    ours, alone = found[chosen], found[name(None)]
    question = f"decode and Python behind it, polling {chosen}, as a worker chooses, ÷ as llama.cpp does by itself"
    result = ours.seconds / alone.seconds
    return [
        Row(
            weights.of(question),
            f"{1e3 * ours.seconds:.2f} ms",
            f"{1e3 * alone.seconds:.2f} ms",
            result,
            1.0,
            at_most=True,
        )
    ]


def main() -> None:
    print(machine())
    rows = memory()
    files = [Weights(Path(path), Path(path).stem) for path in sys.argv[1:]] or all_weights()
    for weights in files:
        rows += of_model(weights)
    show("threads, memory, polling", rows)


if __name__ == "__main__":
    main()
