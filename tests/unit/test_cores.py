"""How many cores there are for a process, and who else uses them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from broker.errors import SettingsError
from workers.kept import MAX_KEPT
from workers.machine.cores import Measured, Usage, measured_alone, num_cores
from workers.settings import WorkerSettings


def tree(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, errors="surrogateescape")
    return root / "proc", root / "cgroup"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "max 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "900000 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/a/b\n", "cgroup/a/b/cpu.max": "max 100000", "cgroup/a/cpu.max": "100000 100000"}, 1),
        ({"proc/self/cgroup": "0::/kubepods/x\n", "cgroup/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "3:cpu,cpuacct:/a\n", "cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "-1"}, 4),
        (
            {
                "proc/self/cgroup": "4:memory:/a\n3:cpu,cpuacct:/a\n",
                "cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "50000",
                "cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "nonsense\n"}, 4),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "200000 0\n"}, 4),
        ({"proc/self/cgroup": "0::/b\udcfc\n", "cgroup/cpu.max": "200000 100000\n"}, 2),
        (
            {
                "proc/self/cgroup": "3:cpu:/a\n",
                "cgroup/cpu/a/cpu.cfs_quota_us": "50000",
                "cgroup/cpu/a/cpu.cfs_period_us": "0",
            },
            4,
        ),
    ],
)
def test_a_quota_of_the_cgroup_or_of_one_around_it_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert num_cores(*tree(tmp_path, files), allowed=4) == expected


def test_more_threads_than_cores_are_refused_with_the_number_that_there_is() -> None:
    WorkerSettings(threads=num_cores()).check()
    with pytest.raises(SettingsError) as raised:
        WorkerSettings(threads=num_cores() + 1, threads_batch=num_cores() + 2).check()
    why = f"must be at most {num_cores()}, the cores that this process may use"
    assert raised.value.problems == [f"--threads: {why}", f"--threads-batch: {why}"]


def test_what_others_use_is_what_the_machine_does_besides_us(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    cpus = sorted(os.sched_getaffinity(0))
    proc = tmp_path / "proc"
    proc.mkdir()

    def usage(at: float, busy_seconds: float, own: float) -> Usage:
        lines = [f"cpu{cpu} {int(busy_seconds * ticks)} 0 0 999 999 0 0 0 77 0" for cpu in cpus]
        (proc / "stat").write_text("cpu 1 2 3\n" + "\n".join(lines) + "\ncpu9999 500000 0 0 0\nintr 5\n")
        return Usage(at, Usage.now(proc).busy, own)

    before, after = usage(10.0, 5.0, 1.0), usage(12.0, 7.0, 2.0)
    others = after.others_since(before)
    assert others == pytest.approx((2.0 * len(cpus) - 1.0) / 2.0)
    (proc / "stat").unlink()
    assert Usage.now(proc).others_since(before) is None


def test_a_measurement_beside_a_busy_neighbour_is_made_again_at_the_next_start(tmp_path: Path) -> None:
    path, measured = tmp_path / "data" / "threads.json", []
    crowded, alone = {1: 0.1, 2: 0.5}, {1: 0.1, 2: 0.06}

    def start(seconds: dict[int, float], others: float) -> Measured[dict[int, float]]:
        usages = iter([Usage(10.0, 5.0, 1.0), Usage(12.0, 5.0 + 2.0 + 2 * others, 3.0)])

        def measure() -> dict[int, float]:
            measured.append(seconds)
            return seconds

        return measured_alone(measure, dict[int, float], path, "key", lambda: next(usages))

    crowd = "now, beside others on 0.8 cores: measured again at the next start"
    assert start(crowded, 0.8) == Measured(crowded, crowd, is_alone=False)
    assert start(alone, 0.1) == Measured(alone, "now")
    assert start(crowded, 0.0) == Measured(alone, "at an earlier start")
    assert len(measured) == 2


def test_where_somebody_waits_nothing_is_measured_beside_a_busy_neighbour(tmp_path: Path) -> None:
    path, usual = tmp_path / "threads.json", {4: 0.0}

    def start(others: float) -> Measured[dict[int, float]]:
        usages = iter([Usage(10.0, 5.0, 1.0), Usage(12.0, 7.0 + 2 * others, 3.0)])
        return measured_alone(
            lambda: {1: 0.5},
            dict[int, float],
            path,
            "key",
            lambda: next(usages),
            usual,
            others_at_first=lambda: others,
        )

    assert start(0.8) == Measured(usual, "at no start yet, as others have 0.8 cores now", is_alone=False)
    assert not path.exists()
    assert start(0.0) == Measured({1: 0.5}, "now")
    assert start(0.8) == Measured({1: 0.5}, "at an earlier start")


def test_who_is_in_a_hurry_takes_what_was_measured_beside_others_and_nobody_else_does(tmp_path: Path) -> None:
    path = tmp_path / "threads.json"

    def start(seconds: float, others: float, *, is_urgent: bool) -> Measured[dict[int, float]]:
        usages = iter([Usage(10.0, 5.0, 1.0), Usage(12.0, 7.0 + 2 * others, 3.0)])
        look, kind = (lambda: next(usages)), dict[int, float]
        return measured_alone(lambda: {1: seconds}, kind, path, "key", look, is_urgent=is_urgent)

    assert start(0.5, 0.8, is_urgent=True).found == {1: 0.5}
    known = Measured({1: 0.5}, "at an earlier start, beside others", is_alone=False)
    assert start(0.6, 0.0, is_urgent=True) == known
    assert start(0.7, 0.0, is_urgent=False) == Measured({1: 0.7}, "now")
    assert start(0.8, 0.0, is_urgent=True) == Measured({1: 0.7}, "at an earlier start")


def test_of_many_measurements_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "threads.json"
    path.write_bytes(msgspec.json.encode({str(number): {1: 0.5} for number in range(MAX_KEPT)}))
    measured_alone(lambda: {1: 0.5}, dict[int, float], path, "new", lambda: Usage(0.0, None, 0.0))
    kept = [*msgspec.json.decode(path.read_bytes())]
    assert (len(kept), kept[0], kept[-1]) == (MAX_KEPT, "1", "new")


def test_a_file_of_measurements_that_cannot_be_read_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "threads.json"
    for damaged in ('{"x": "y"}', "{", '{"key": {}}'):
        path.write_text(damaged)
        found = measured_alone(lambda: {1: 0.5}, dict[int, float], path, "key", lambda: Usage(0.0, None, 0.0))
        assert found == Measured({1: 0.5}, "now")
        assert msgspec.json.decode(path.read_bytes()) == {"key": {"1": 0.5}}
