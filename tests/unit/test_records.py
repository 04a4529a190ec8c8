from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from broker.connection import Address
from producers.load.command import continue_and_show
from producers.load.resuming import CannotContinue
from producers.records.figures import Bounds, summarize
from producers.records.files import RecordError, Recording, read_run, read_runs
from producers.records.lines import Continued, Ended, Header, TurnRecord
from telemetry.resources import process_memory


def turn(**fields: object) -> TurnRecord:
    common: dict[str, object] = {"number": 0, "conversation": 0, "index": 0, "turn": "t", "model": "m"}
    common |= {"sent_at": 10.0, "ended_at": 12.0, "outcome": "stop"}
    return msgspec.convert({"kind": "turn"} | common | fields, TurnRecord)


def test_a_runs_figures_by_hand() -> None:
    records = [
        turn(
            arrivals=((10.5, 1), (11.0, 1), (11.5, 1)),
            scheduled_at=9.5,
            prompt_tokens=100,
            cached_tokens=60,
            completion_tokens=3,
            prefill_seconds=2.0,
            decode_seconds=1.0,
        ),
        turn(outcome="deadline", is_failed=True),
    ]
    summary = summarize(records, 4.0, Bounds(ttft_seconds=1.0))
    assert (summary.num_turns, summary.num_failed) == (2, 1)
    assert summary.ttft_p50_seconds == 0.5
    assert summary.scheduled_ttft_p99_seconds == 1.0
    assert summary.tpot_p50_seconds == 0.5
    assert summary.itl_max_seconds == 0.5
    assert summary.prefill_tokens_per_second == 20.0
    assert summary.decode_tokens_per_second == 2.0
    assert summary.throughput_tokens_per_second == 0.75
    assert summary.goodput_turns_per_second == 0.25
    assert summarize(records, 4.0, Bounds(ttft_seconds=0.9)).goodput_turns_per_second == 0


def test_tokens_that_came_together_have_no_gap_between_them() -> None:
    assert list(turn(arrivals=((1.0, 2), (3.0, 3))).gaps()) == [0.0, 2.0, 0.0, 0.0]


HEADER = Header(1, "run", 5, {"warm_up_seconds": 1.0}, {}, {}, [])


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    lines = [turn(number=number, sent_at=float(number), arrivals=((1.5, 2),)) for number in range(3)]
    with Recording(path, HEADER) as recording:
        for line in lines:
            recording.write(line)
        recording.write(Ended(9.0))
    run = read_run(path)
    assert (run.header, run.turns, run.seconds) == (HEADER, lines, 9.0)
    assert run.counted() == lines[1:]
    with pytest.raises(RecordError, match="exists already"):
        Recording(path, HEADER)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_run_that_was_killed_leaves_a_valid_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "run.jsonl"
    with Recording(path, HEADER) as recording:
        for number in range(3):
            recording.write(turn(number=number, conversation=number))
    path.write_bytes(path.read_bytes()[:-cut])
    run = read_run(path)
    assert run.seconds is None
    assert [one.number for one in run.turns] == [0, 1]
    assert run.notes == ["line 4 was cut off and is left out"]
    with Recording.reopen(path, Continued(7, (1,))) as recording:
        recording.write(turn(number=9, conversation=1))
        recording.write(Ended(3.0))
    again = read_run(path)
    assert [(one.number, one.conversation) for one in again.turns] == [(0, 0), (9, 1)]
    assert again.seconds == 3.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"kind": "turn"}\n', r":1: is no line of a record"),
        ('{"kind": "ended", "seconds": 1}\n', r":1: is no header"),
        ("HEADER\nnonsense\nHEADER\n", r":3: is a second header"),
        ("\ufeffnonsense\n", r":1: is no line of a record"),
        ("HEADER\nHEADER\n", r":2: is a second header"),
        ("[" * 100_000 + "\n", r":1: is no line of a record"),
        ('{"kind": "header", "version": "2"}\n', r":1: is no line of a record"),
        ('{"kind": "header", "version": 2, "run": {}}\n', r":1: is of version 2, and this Turnpike reads up to 1"),
    ],
)
def test_a_bad_record_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(text.replace("HEADER", msgspec.json.encode(HEADER).decode()))
    with pytest.raises(RecordError, match=message):
        read_run(path)


def test_a_damaged_line_costs_one_turn_and_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Recording(path, HEADER) as recording:
        for number in range(9):
            recording.write(turn(number=number, dataset_id="a\u2028b", detail="\u0085"))
        recording.write(Ended(9.0))
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2][:30] + lines[3]  # a line that a kill cut off, and the next one behind it
    del lines[3]
    lines[4] = lines[4].replace(b"turn", b"t\xff\x00n", 1)
    lines[5] = b""
    lines[6] = lines[6].replace(b'"number":6', b'"number":null')
    lines[7] = b'{"kind":"later","seconds":1}'
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    run = read_run(path)
    assert [one.number for one in run.turns] == [0, 3, 8]
    assert {one.dataset_id for one in run.turns} == {"a\u2028b"}
    assert run.seconds == 9.0
    assert [note.partition(":")[0] for note in run.notes] == [
        "line 3 is left out", "line 5 is left out", "line 7 is left out", "and 1 more lines are left out"
    ]  # fmt: skip


def test_parts_of_a_run_are_merged_on_one_clock(tmp_path: Path) -> None:
    paths = [tmp_path / "0.jsonl", tmp_path / "1.jsonl"]
    for part, path in enumerate(paths):
        header = msgspec.structs.replace(HEADER, part=part, num_parts=2, started_at=1_000_000_000 * part)
        with Recording(path, header) as recording:
            recording.write(turn(number=part, sent_at=2.0, ended_at=3.0, arrivals=((2.5, 1),)))
            recording.write(Ended(4.0))
    (run,) = read_runs(paths)
    assert [one.sent_at for one in run.turns] == [2.0, 3.0]
    assert run.turns[1].arrivals == ((3.5, 1),)
    assert run.seconds == 5.0
    with pytest.raises(RecordError, match="is another record of run 'run'"):
        read_runs([_copied(paths[0], tmp_path / "a"), _copied(paths[0], tmp_path / "b")])


def _copied(path: Path, to: Path) -> Path:
    to.write_text(path.read_text().replace('"num_parts":2', '"num_parts":1'))
    return to


def test_a_run_without_turns_has_no_rates() -> None:
    summary = summarize([], 1.0)
    assert summary.ttft_p50_seconds is None
    assert summary.prefill_tokens_per_second is None


def test_our_own_memory_is_measured_and_a_missing_process_has_none(tmp_path: Path) -> None:
    own = process_memory(os.getpid())
    assert own is not None
    assert own.rss_bytes > 10_000_000
    assert own.pss_bytes is None or 0 < own.pss_bytes <= own.rss_bytes
    assert process_memory(1, tmp_path) is None


@pytest.mark.parametrize("settings", [{"concurrency": "four"}, {"model": "m", "concurrency": 0}, {}])
async def test_a_run_whose_settings_are_odd_is_not_gone_on_with(tmp_path: Path, settings: dict[str, object]) -> None:
    path = tmp_path / "run.jsonl"
    with Recording(path, msgspec.structs.replace(HEADER, settings=settings)):
        pass
    with pytest.raises(CannotContinue, match="its settings are not understood"):
        await continue_and_show(Address.parse("nats://127.0.0.1:1"), path, asyncio.Event(), as_json=True)
