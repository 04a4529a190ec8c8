"""What a board plans without a server or a process: memory, cores, load times, settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from broker.catalogue import sha256_of
from broker.errors import SettingsError
from broker.settings import load
from turnpike.cli.reading import read
from turnpike.cli.tree import TURNPIKE
from workers.boards import command
from workers.boards.cores import shared_cores
from workers.boards.load_times import BYTES_PER_SECOND, START_SECONDS, LoadTimes
from workers.boards.loading import MEASURE, PHASES, READ, START, WEIGHTS
from workers.boards.memory import GRAIN_BYTES, board_bytes, held_bytes, memory_pressure
from workers.boards.settings import BoardSettings, WorkersSettings, as_environment, worker_settings
from workers.engine.threads import FixedThreads, StepThreads, Threads
from workers.machine.memory import RESERVE_BYTES
from workers.settings import WorkerSettings

MIB = 2**20


# --- Cores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_cores", "turns", "expected"),
    [
        (4, {}, {}),
        (4, {"a": 3}, {"a": None}),
        (4, {"a": 3, "b": 0}, {"a": None, "b": None}),
        (4, {"a": 3, "b": 1}, {"a": 2, "b": 2}),
        (4, {"a": 1, "b": 5, "c": 2}, {"a": 1, "b": 2, "c": 1}),
        (4, {"a": 1, "b": 1, "c": 0, "d": 1}, {"a": 2, "b": 1, "c": None, "d": 1}),
        (2, {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}),
        (1, {"a": 1, "b": 1}, {"a": 1, "b": 1}),
    ],
)
def test_workers_that_compute_share_the_cores(
    num_cores: int, turns: dict[str, int], expected: dict[str, int | None]
) -> None:
    assert shared_cores(num_cores, turns) == expected


@dataclass(frozen=True)
class OneStep:
    """What threads are chosen by."""

    num_tokens: int = 1
    is_decode: bool = True
    num_prefill_tokens: int = 0
    num_decoding: int = 1


def test_a_bound_on_threads_holds_until_it_is_taken_back_and_teaches_nothing() -> None:
    step: Any = OneStep()
    threads = StepThreads(Threads(4), Threads(4))
    threads.after(step, 1.0, 0.0)
    threads.limit_to(2)
    assert threads.of(step) == 2
    for at in range(1, 9):
        threads.after(step, 5.0, float(at))  # slow, as half the threads are others'
    threads.limit_to(None)
    assert threads.of(step) == 4
    threads.limit_to(8)
    assert threads.of(step) == 4


def test_threads_that_were_asked_for_have_no_bound() -> None:
    step: Any = OneStep()
    threads = StepThreads(FixedThreads(3), FixedThreads(3))
    threads.limit_to(1)
    assert threads.of(step) == 3


# --- Memory ----------------------------------------------------------------------------------------------------------


def planted(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root / "proc", root / "cgroup"


def status(anonymous: int, files: int, shared: int) -> str:
    sizes = {"RssAnon": anonymous, "RssFile": files, "RssShmem": shared}
    return "VmRSS:\t1 kB\n" + "".join(f"{name}:\t{mib * 1024} kB\n" for name, mib in sizes.items())


def test_a_boards_memory_stays_as_it_is_while_its_models_come_and_go(tmp_path: Path) -> None:
    """A model of 600 MiB in a mapped file and 300 MiB of its own: the file still counts as available, the rest does
    not, and both are the board's."""
    proc, cgroup = planted(tmp_path / "before", {"proc/meminfo": f"MemAvailable: {4000 * 1024} kB\n"})
    before = board_bytes((), proc=proc, cgroup=cgroup)
    files = {"proc/meminfo": f"MemAvailable: {3700 * 1024} kB\n", "proc/7/status": status(290, 600, 10)}
    proc, cgroup = planted(tmp_path / "after", files)
    assert held_bytes(7, proc) == 300 * MIB
    assert board_bytes((7,), proc=proc, cgroup=cgroup) == before
    assert before == (4000 * MIB - RESERVE_BYTES) // GRAIN_BYTES * GRAIN_BYTES
    assert board_bytes((7,), 500 * MIB, proc=proc, cgroup=cgroup) == 500 * MIB
    assert board_bytes((7, 8), proc=proc, cgroup=cgroup) == before  # 8 has gone
    assert board_bytes((), proc=proc, cgroup=cgroup) < before  # what another process holds is not the board's


def test_a_cgroups_limit_counts(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": f"MemAvailable: {4000 * 1024} kB\n",
        "proc/self/cgroup": "0::/pod\n",
        "cgroup/pod/memory.max": str(1000 * MIB),
        "cgroup/pod/memory.current": str(200 * MIB),
    }
    proc, cgroup = planted(tmp_path, files)
    assert board_bytes((), proc=proc, cgroup=cgroup) == (800 * MIB - RESERVE_BYTES) // GRAIN_BYTES * GRAIN_BYTES


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 0.0),
        ({"proc/pressure/memory": "some avg10=12.50 avg60=1.00 avg300=0.00 total=9\nfull avg10=99.00\n"}, 0.125),
        (
            {
                "proc/pressure/memory": "some avg10=1.00 avg60=1.00 avg300=0.00 total=9\n",
                "proc/self/cgroup": "0::/pod\n",
                "cgroup/pod/memory.pressure": "some avg10=40.00 avg60=1.00 avg300=0.00 total=9\n",
            },
            0.4,
        ),
        ({"proc/pressure/memory": "nonsense\n", "proc/self/cgroup": "0::/../x\n"}, 0.0),
        ({"proc/pressure/memory": "some avg10=250.00 avg60=1.00 avg300=0.00 total=9\n"}, 1.0),
    ],
)
def test_pressure_is_the_machines_or_the_groups(tmp_path: Path, files: dict[str, str], expected: float) -> None:
    assert memory_pressure(*planted(tmp_path, files)) == expected


# --- Load times ------------------------------------------------------------------------------------------------------


def test_load_times_are_measured_ones_and_guesses_by_bytes_before(tmp_path: Path) -> None:
    path = tmp_path / "state" / "loads.json"
    times = LoadTimes(path)
    assert times.seconds("x", 800_000_000) == pytest.approx(START_SECONDS + 800_000_000 / BYTES_PER_SECOND)
    times.note("y", 400_000_000, START_SECONDS + 2.0)
    assert times.seconds("y", 400_000_000) == START_SECONDS + 2.0
    assert times.seconds("x", 800_000_000) == pytest.approx(START_SECONDS + 4.0)
    times.note("y", 400_000_000, START_SECONDS + 4.0)
    assert times.seconds("y", 400_000_000) == START_SECONDS + 3.0
    assert LoadTimes(path).seconds("y", 400_000_000) == START_SECONDS + 3.0
    path.write_text("no json")
    assert LoadTimes(path).seconds("y", 0) == START_SECONDS


def test_a_small_models_load_says_nothing_of_a_large_ones(tmp_path: Path) -> None:
    times = LoadTimes(tmp_path / "loads.json")
    expected = times.seconds("large", 491_000_000)
    times.note("tiny", 4_000_000, START_SECONDS + 0.44)
    assert times.seconds("large", 491_000_000) == expected, "and not a minute"


def test_so_are_those_of_its_phases(tmp_path: Path) -> None:
    path = tmp_path / "loads.json"
    times = LoadTimes(path)
    guessed = times.phases("x", 800_000_000)
    assert [*sorted(guessed)] == sorted(PHASES)
    assert sum(guessed.values()) == pytest.approx(times.seconds("x", 800_000_000))
    times.note("x", 800_000_000, 9.0, {START: 1.0, READ: 2.0, WEIGHTS: 1.0, MEASURE: 5.0})
    assert times.seconds("x", 0) == 4.0  # it is not measured again
    times.note("x", 800_000_000, 2.0, {START: 1.0, READ: 0.0, WEIGHTS: 1.0, "another release's": 9.0})
    assert LoadTimes(path).phases("x", 0) == {START: 1.0, READ: 1.0, WEIGHTS: 1.0}
    path.write_text('{"x": {"file_bytes": 5, "seconds": 3.0}}')  # of an earlier release
    assert sum(LoadTimes(path).phases("x", 5).values()) == pytest.approx(3.0)


# --- Settings --------------------------------------------------------------------------------------------------------


def parsed(*words: str) -> WorkersSettings:
    _, said = read(TURNPIKE, words)
    return said.load(WorkersSettings)


def test_one_model_is_a_worker_and_several_are_a_board() -> None:
    one = parsed("worker", "--model", "a", "--num-ctx", "512", "--worker-name", "w")
    assert not one.are_several
    assert (one.one().model, one.one().num_ctx, one.one().worker_name) == ("a", 512, "w")
    assert not parsed("worker").are_several
    assert parsed("worker").one() == WorkerSettings(log_level="INFO")
    several = parsed("worker", "--model", "a", "--model", "b", "--num-ctx", "512")
    assert several.are_several
    assert (several.board().model, several.board().num_ctx) == (("a", "b"), 512)
    assert parsed("worker", "--models", "all").are_several


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "a", "--model", "b", "--model-file", "x.gguf"), "--model-file: several models"),
        (("--model", "a", "--model", "b", "--worker-name", "w"), "--worker-name: several models"),
        (("--models", "all", "--model", "a"), "one of the two"),
        (("--model", "a", "--model", "b", "--pin", "c"), "--pin: c is none"),
        (("--model", "a", "--model", "b c"), "--model: "),
        (("--model", "a", "--model", "a"), "--model: a is given twice"),
        (("--models", "all", "--pin", "a", "--pin", "a"), "--pin: a is given twice"),
        (("--model", "a", "--model", "b", "--memory-bytes", "0"), "--memory-bytes"),
        (("--model", "a", "--model", "b", "--num-ctx", "1"), "--num-ctx"),
    ],
)
def test_what_does_not_go_together_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parsed("worker", *words)
    assert said in str(caught.value)


def test_a_worker_hears_its_boards_settings_whatever_its_environment_says(tmp_path: Path) -> None:
    board = BoardSettings(
        model=("a", "b"), num_ctx=512, deterministic=True, url="nats://u:secret@h:1", pin=("a",), health_port=80
    )
    environment = as_environment(worker_settings(board, "a", park_bytes=7, health_port=None))
    inherited = {
        "TURNPIKE_MODELS": "all",
        "TURNPIKE_MODEL": "a,b",
        "TURNPIKE_MODEL_FILE": "other.gguf",
        "TURNPIKE_HEALTH_PORT": "80",
        "TURNPIKE_PIN": "a",
        "TURNPIKE_CONFIG": "turnpike.toml",
    }
    merged = {name: text for name, text in (inherited | environment).items() if text is not None}
    assert "TURNPIKE_CONFIG" not in merged
    found = load(WorkersSettings, flags={"board_fd": "5"}, environment=merged)
    assert not found.are_several
    assert found.one() == WorkerSettings(
        model="a", num_ctx=512, deterministic=True, url="nats://u:secret@h:1", park_bytes=7, board_fd=5
    )


def test_the_hash_of_a_file_is_told_as_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (2 * MIB + 5))
    told: list[int] = []
    assert sha256_of(path, told.append) == sha256_of(path)
    assert told == [MIB, MIB, 5]


# --- Conversations over a swap ---------------------------------------------------------------------------------------


def test_a_board_whose_workers_keep_no_conversations_keeps_none_over_swaps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    kept = str(tmp_path / "kept")
    assert command._parked(Client(), "b", BoardSettings(park_bytes=0, board_dir=kept), 1000) is None
    assert not Path(kept).exists()
    assert "no conversations are kept over swaps: --park-bytes is 0" in caplog.text
    found = command._parked(Client(), "b", BoardSettings(board_dir=kept), 1000)
    assert found is not None
    assert found.worker_flags == ("--board-dir", kept)
