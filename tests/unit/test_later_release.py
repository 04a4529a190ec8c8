"""Messages and files of a release that has more fields, more kinds and more values than this one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest

from broker import codec
from broker.catalogue import CatalogueError, Locked, read_lock, write_lock
from broker.errors import InvalidMessage
from broker.messages import (
    Beacon,
    Cancel,
    Chunk,
    CutPoint,
    DeadLetter,
    Done,
    Failed,
    FetchClose,
    FetchOpen,
    FetchPart,
    FetchRefused,
    FetchRequest,
    HandedBack,
    Holding,
    Leaving,
    NodeState,
    Opened,
    Other,
    Point,
    Points,
    Remembered,
    Replay,
    ReplayRequest,
    RunEvent,
    Score,
    Started,
    StatePart,
    Timings,
    TokenLogprob,
    Usage,
)
from broker.replies import understood_end
from workers.kv.checks import StateLayout
from workers.kv.disk import Disk
from workers.kv.index import Key, KvEntry, packed
from workers.machine.cores import Measured, measured_alone
from workers.machine.cores import Usage as Spent

DONE = Done(
    "stop", "text", (1,), Usage(3, 1, 1, "ram", 1, "killed"), Timings(0, 0, 0), "w", scores=(Score(-1, 1, True),)
)
MESSAGES: list[tuple[msgspec.Struct, Any]] = [
    (Started(0, 0, "w"), None),
    (Chunk(1, 0, "x", (1,), (TokenLogprob(1, -0.5, ((1, -0.5),), b"x", (b"x",)),)), None),
    (HandedBack(2, 0), None),
    (DONE, None),
    (Failed("overloaded", "no room", True, "w", 0, 2.0), None),
    (ReplayRequest(3), ReplayRequest),
    (Replay((b"x",), True), Replay),
    (Cancel(3, "m", 1.0), Cancel),
    (DeadLetter("turn.m.batch.c.t", "poison", 3, b"x", None, ("w",)), DeadLetter),
    (Beacon(1, 2), Beacon),
    (Leaving("w"), Leaving),
    (Holding("w", "f", 3, 12), Holding),
    (FetchOpen("c", "v"), FetchRequest),
    (FetchPart("t", 0, 9), FetchRequest),
    (FetchClose("t"), FetchRequest),
    (Opened("t", "f", packed([1]), 9, 0, "0" * 64), Opened | FetchRefused),
    (Opened("t", "f", packed([1]), 9, 0, "0" * 64, cuts=(CutPoint(1, 9),)), Opened | FetchRefused),
    (StatePart(0, b"x"), StatePart | FetchRefused),
    (FetchRefused("gone"), StatePart | FetchRefused),
    (Points((Point("m", {"node": "n"}, {"x": 1.0}, 5),)), Points),
    (NodeState(3.0, False, 50.0, True), NodeState),
    (RunEvent("r", "run began", 5), RunEvent),
]


def with_more(value: Any) -> Any:
    """The same with an unknown field in every map, at any depth but in free ones."""
    if isinstance(value, dict):
        return {name: with_more(one) for name, one in value.items()} | {"later": {"unknown": [1, None]}}
    return [with_more(one) for one in value] if isinstance(value, list | tuple) else value


def later(message: msgspec.Struct, **changed: Any) -> bytes:
    fields = msgspec.to_builtins(message, builtin_types=(bytes,)) | {"v": 1} | changed
    packed_bytes: bytes = msgpack.packb(fields)
    return packed_bytes


@pytest.mark.parametrize(("message", "kind"), MESSAGES, ids=lambda one: type(one).__name__)
def test_fields_that_a_later_release_adds_are_not_looked_at(message: msgspec.Struct, kind: Any) -> None:
    fields = msgspec.to_builtins(message, builtin_types=(bytes,))
    if isinstance(message, Points):  # tags and fields of a point are free: more of those are taken
        payload = later(message, later=1, points=[["m", {"node": "n"}, {"x": 1.0}, 5, "later", {"y": 1}]])
    else:
        payload = msgpack.packb(with_more(fields) | {"v": 1})
    assert (codec.decode(payload, kind) if kind is not None else codec.decode_reply(payload)) == message


@pytest.mark.parametrize(
    ("message", "kind", "changed"),
    [
        (DONE, None, {"finish_reason": "paused"}),
        (
            DONE,
            None,
            {"usage": {"prompt_tokens": 3, "cached_tokens": 1, "completion_tokens": 1, "cached_in": "object"}},
        ),
        (Cancel(3, "m", 1.0), Cancel, {"reason": "superseded"}),
        (RunEvent("r", "run began", 5), RunEvent, {"kind": "run paused"}),
        (FetchRefused("gone"), StatePart | FetchRefused, {"reason": "not now"}),
        (Failed("x", "y"), None, {"code": "out_of_quota"}),
    ],
)
def test_values_that_a_later_release_adds_are_taken(
    message: msgspec.Struct, kind: Any, changed: dict[str, Any]
) -> None:
    payload = later(message, **changed)
    found = codec.decode(payload, kind) if kind is not None else codec.decode_reply(payload)
    assert type(found) is type(message)
    (name, value) = next(iter(changed.items()))
    assert msgspec.to_builtins(getattr(found, name)) == value or name == "usage"


def test_a_kind_of_reply_that_is_not_known_has_its_place() -> None:
    payload = msgpack.packb({"v": 1, "type": "tool_call", "index": 4, "attempt": 2, "name": "x"})
    assert codec.decode_reply(payload) == Other("tool_call", 4, 2)
    chunk = msgpack.packb({"v": 1, "type": "chunk", "index": 4, "attempt": 0, "text": {"parts": []}})
    assert codec.decode_reply(chunk) == Other("chunk", 4, 0)
    with pytest.raises(InvalidMessage):
        codec.decode_reply(msgpack.packb({"v": 1, "type": "hello"}))
    assert codec.place_of(msgpack.packb({"v": 2, "index": 4, "attempt": 1, "delta": "x"})) == (4, 1)
    assert codec.place_of(b"\xc1") is None


@pytest.mark.parametrize(
    "payload",
    [
        {"v": 2, "type": "done", "answer": []},
        {"v": 1, "type": "postponed", "until": 5},
        {"v": 1, "type": "postponed", "index": 3, "attempt": 0},
        {"v": 1, "type": "done", "text": 5},
        {"v": 1, "type": "chunk", "index": 0, "attempt": 0, "text": "x"},
    ],
)
def test_an_end_that_is_not_understood_is_a_failure_that_says_so(payload: dict[str, Any]) -> None:
    end = understood_end(msgpack.packb(payload), None)
    assert isinstance(end, Failed)
    assert end.code == "not_understood"


def test_a_point_of_a_later_release_costs_itself() -> None:
    good = ["m", {"node": "n"}, {"x": 1.0}, 5]
    rows = [good, ["m", {"node": "n"}, {"x": [1, 2]}, 5], good, ["m", {"node": 7}, {"x": 1}, 5], {"measurement": "m"}]
    found, rejected = codec.decode_points(msgpack.packb({"v": 1, "points": rows}))
    assert found == (Point("m", {"node": "n"}, {"x": 1.0}, 5),) * 2
    assert [row for row, _ in rejected] == [rows[1], rows[3], rows[4]]
    for bad in ({"v": 2, "points": []}, {"v": 1, "points": 5}, {"v": 1}, {"v": 1, "points": [good] * 5001}):
        with pytest.raises(InvalidMessage):
            codec.decode_points(msgpack.packb(bad))


def test_what_a_later_peer_remembers_is_left_out_where_it_is_not_understood() -> None:
    odd = {"messages": [{"role": "narrator", "content": "x"}], "prompt_text": "x", "tokens": b""}
    payload = later(Opened("t", "f", packed([1]), 9, 0, "0" * 64), remembered=odd)
    found = codec.decode(payload, Opened | FetchRefused, optional=("remembered",))
    assert (found.transfer, found.remembered) == ("t", None)
    with pytest.raises(InvalidMessage):
        codec.decode(later(Opened("t", "f", b"", 9, 0, "x"), tokens=5), Opened, optional=("remembered",))


@pytest.mark.parametrize("odd", [5, [{"num_tokens": "all"}], [{"num_tokens": 1, "num_bytes": 9}] * 17])
def test_checkpoints_of_a_later_peer_are_left_out_where_they_are_not_understood(odd: Any) -> None:
    payload = later(Opened("t", "f", packed([1]), 9, 0, "0" * 64), cuts=odd)
    found = codec.decode(payload, Opened | FetchRefused, optional=("remembered", "cuts"))
    assert (found.transfer, found.cuts) == ("t", ())


class LaterRemembered(msgspec.Struct):
    """As a later release remembers a conversation."""

    messages: list[dict[str, str]]
    prompt_text: str
    tokens: bytes


def test_a_state_on_disk_is_of_use_without_what_a_later_release_remembers_of_it(tmp_path: Path) -> None:
    key = Key("c", "v")
    told = cast(Remembered, LaterRemembered([{"role": "narrator", "content": "x"}], "x", packed([1])))
    disk = Disk(tmp_path, 1000, StateLayout("f", 0, 4), lambda _: told)
    disk.write(KvEntry(key, packed([1, 2]), 8, 0), bytes(8))
    again = Disk(tmp_path, 1000, StateLayout("f", 0, 4))
    adopted: list[Key] = []
    again.open(lambda key, _: adopted.append(key))
    assert adopted == []
    assert key in again.tier
    assert again.read(again.tier[key]) == bytes(8)


LOCKED = Locked("o/m", "a" * 40, "m.gguf", hashlib.sha256(b"x").hexdigest(), 1)


@pytest.mark.parametrize("row", ['parts = ["a", "b"]\n', 'kind = "adapter"\n'])
def test_a_row_of_a_lock_file_of_a_later_release_costs_itself_and_is_not_written_over(tmp_path: Path, row: str) -> None:
    path = tmp_path / "lock"
    write_lock(path, {"a": LOCKED, "z": LOCKED})
    text = path.read_text()
    path.write_text(
        text.replace("[z]\n", f"[z]\n{row}").replace('kind = "model"\n', "") if "kind" in row else text + row
    )
    found = read_lock(path)
    assert found["a"] == LOCKED
    assert ("z" in found) == ("kind" not in row)
    with pytest.raises(CatalogueError, match=r"z: the .*of a later release"):
        read_lock(path, to_write=True)


def test_threads_that_a_later_release_measured_are_kept_for_it(tmp_path: Path) -> None:
    path = tmp_path / "threads.json"
    theirs = {"their key": {"seconds": {"1": 0.5}, "at": "2027-01-01"}, "key": {"decode": []}}
    path.write_bytes(msgspec.json.encode(theirs | {"empty": {}}))

    def start(key: str, seconds: float) -> Measured[dict[int, float]]:
        return measured_alone(lambda: {1: seconds}, dict[int, float], path, key, lambda: Spent(0.0, None, 0.0))

    assert start("key", 0.25) == Measured({1: 0.25}, "now")
    assert msgspec.json.decode(path.read_bytes())["their key"] == theirs["their key"]
    assert start("key", 9.0).found == {1: 0.25}
    assert start("empty", 0.5).found == {1: 0.5}
