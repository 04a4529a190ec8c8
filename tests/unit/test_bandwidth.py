"""How fast memory is read, and what a decode's reading is a share of."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier

import pytest

from broker.messages import Point
from workers.engine.events import LoopSnapshot
from workers.engine.protocol import Span
from workers.engine.scheduler import Step
from workers.kv.cache import OffloadCache
from workers.machine.bandwidth import (
    LEAST_BYTES,
    ReadBandwidth,
    buffer_bytes,
    cache_bytes,
    compare,
    numbers_of_threads,
    read_bandwidth,
)
from workers.reporting.facts import memory_facts
from workers.reporting.metrics import Shape, WorkerMetrics

SIZE = 12 * 4096
MIB = 1 << 20


def test_each_number_of_threads_reads_all_of_it_at_once_each_its_own_share() -> None:
    noted: list[tuple[int, int, bytes]] = []
    together = {num: Barrier(num, timeout=10) for num in (1, 2, 3)}

    def read(address: int, num_bytes: int) -> object:
        noted.append((address, num_bytes, ctypes.string_at(address, num_bytes)))
        return together[SIZE // num_bytes].wait()

    read_bandwidth(3, SIZE, read=read, rounds=1)
    assert [num_bytes for _, num_bytes, _ in noted] == [SIZE] + [SIZE // 2] * 2 + [SIZE // 3] * 3
    begin = noted[0][0]
    for shares in (noted[1:3], noted[3:]):
        ends = sorted((address - begin, address - begin + num_bytes) for address, num_bytes, _ in shares)
        assert [first for first, _ in ends] == [0, *(end for _, end in ends[:-1])]
        assert ends[-1][1] == SIZE
    assert all(0 not in content for *_, content in noted), "pages of the kernel's zeros come from the cache"


def test_the_best_pass_counts_and_of_the_threads_those_that_read_fastest() -> None:
    def clock() -> Iterator[float]:
        now = 0.0
        # A pass of one thread, of two, of three: the best of each takes 2, 1 and 1.25 seconds.
        for seconds in (4.0, 2.0, 1.0, 5.0, 1.25, 1.25):
            yield now
            now += seconds
            yield now

    times = clock()
    found = read_bandwidth(3, SIZE, read=lambda address, num_bytes: None, rounds=2, clock=lambda: next(times))
    assert found.by_threads == {1: SIZE / 2, 2: SIZE, 3: SIZE / 1.25}
    assert (found.num_threads, found.bytes_per_second) == (2, SIZE)
    pi = ReadBandwidth({1: 9.3e9, 2: 13.2e9, 4: 11.6e9})
    assert pi.describe() == "13.2GB/s threads=2 (GB/s by threads 1:9.3 2:13.2 4:11.6)"
    assert memory_facts(pi) == {"read_peak_bytes_per_second": "13200000000", "read_peak_threads": "2"}


def test_this_machine_can_be_measured() -> None:
    found = read_bandwidth(2, SIZE)
    assert list(found.by_threads) == [1, 2]
    assert found.bytes_per_second > 1e6


def test_all_of_both_halves_is_compared() -> None:
    buffer = ctypes.create_string_buffer(b"a" * 100, 100)
    address = ctypes.addressof(buffer)
    assert compare(address, 100) == 0
    for at in (0, 49, 50, 99):
        buffer[at] = b"b"
        assert compare(address, 100) != 0
        buffer[at] = b"a"


def test_boards_are_tried_with_every_number_and_large_machines_with_few() -> None:
    assert [numbers_of_threads(most) for most in (1, 4)] == [[1], [1, 2, 3, 4]]
    assert numbers_of_threads(48) == [*range(1, 9), 16, 32, 48]


def cache(root: Path, cpu: int, index: int, level: str, size: str, shared: str) -> None:
    folder = root / f"cpu{cpu}" / "cache" / f"index{index}"
    folder.mkdir(parents=True)
    for name, text in (("level", level), ("size", size), ("shared_cpu_list", shared)):
        (folder / name).write_text(f"{text}\n")


def test_last_caches_count_once_each_and_only_those_of_our_own_cores(tmp_path: Path) -> None:
    for cpu in range(4):
        cache(tmp_path, cpu, 0, "2", "512K", str(cpu))
        cache(tmp_path, cpu, 1, "3", "32M", "0-1" if cpu < 2 else "2-3")
    assert cache_bytes(range(4), tmp_path) == 64 * MIB
    assert cache_bytes([0, 1], tmp_path) == 32 * MIB
    (tmp_path / "cpu0" / "cache" / "index1" / "size").write_text("?")
    (tmp_path / "cpu1" / "cache" / "index1" / "size").unlink()
    assert cache_bytes([0, 1], tmp_path) == 1 * MIB
    assert cache_bytes([9], tmp_path) == 0


@pytest.mark.parametrize(
    ("available", "caches", "expected"),
    [
        (8 << 30, 0, LEAST_BYTES),
        (8 << 30, 2 * MIB, LEAST_BYTES),
        (8 << 30, 64 * MIB, 256 * MIB),
        (200 * MIB, 64 * MIB, 50 * MIB),
        (1 * MIB, 0, 16 * MIB),
    ],
)
def test_far_more_is_read_than_the_caches_hold_and_never_most_of_memory(
    available: int, caches: int, expected: int
) -> None:
    assert buffer_bytes(available, caches) == expected


# --- The share of it, in telemetry ---


def second(shape: Shape) -> Point:
    metrics = WorkerMetrics({"node": "n", "model": "m", "quantization": "q", "worker": "w"}, 1, 1, shape)
    metrics.on_step(Step((), (Span(0, 99, (1,), 99),), num_decoding=1), 0.5)
    found = metrics.second(LoopSnapshot(), OffloadCache(0).stats, 0, 0)
    assert found is not None
    return found


def test_a_seconds_decode_is_told_with_what_it_is_a_share_of() -> None:
    fields = second(Shape(3000, 10, 16_000.0)).fields
    assert fields["read_bytes_per_second"] == (3000 + 100 * 10) / 0.5
    assert fields["read_peak_bytes_per_second"] == 16_000.0
    assert fields["read_ratio"] == 0.5
    assert "peak_bytes_per_second" not in fields, "what older releases told under that name was of a copy"


def test_without_a_peak_there_is_no_share() -> None:
    fields = second(Shape(3000, 10)).fields
    assert fields["read_bytes_per_second"] == 8000
    assert fields.keys().isdisjoint({"read_peak_bytes_per_second", "read_ratio"})
