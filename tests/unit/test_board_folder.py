"""A board's folder of conversations: one bound over all models, what was unused for longest goes first. No engine."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from broker.errors import TurnpikeError
from broker.locks import InUse, Lock
from workers.kv.board_folder import BoardFolder
from workers.kv.checks import StateLayout
from workers.kv.disk import PART, SUFFIX

FILE_BYTES = 100


def filled(path: Path, max_bytes: int, **used_at: float) -> BoardFolder:
    """A folder with a file of 100 bytes for each name, `model_conversation`, last used then."""
    folder = BoardFolder(path)
    folder.bound(1 << 20)
    for name, when in used_at.items():
        file = file_of(folder, name)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(FILE_BYTES))
        os.utime(file, (when, when))
    folder.bound(max_bytes)
    return folder


def file_of(folder: BoardFolder, name: str) -> Path:
    model, _, conversation = name.partition("_")
    return folder.of(model) / f"{conversation}{SUFFIX}"


def names(folder: BoardFolder) -> set[str]:
    return {f"{path.parent.name}_{path.stem}" for path in folder.path.glob(f"*/*{SUFFIX}")}


def test_the_bound_is_over_all_models_and_the_longest_unused_goes_first(tmp_path: Path) -> None:
    folder = filled(tmp_path, 1000, a_1=10, b_1=20, a_2=30, b_2=40)
    assert folder.num_bytes == 4 * FILE_BYTES
    assert folder.models == ["a", "b"]
    assert folder.bound(250) == 2 * FILE_BYTES
    assert names(folder) == {"a_2", "b_2"}
    assert BoardFolder(tmp_path).max_bytes == 250, "and workers read it there"
    assert folder.bound(0) == 0
    assert folder.models == []


@pytest.mark.parametrize(
    ("num_bytes", "used_at", "has_room", "left"),
    [
        (100, 50.0, True, {"a_1", "b_1", "a_2"}),
        (150, 50.0, True, {"b_1", "a_2"}),
        (400, 50.0, True, set()),
        (401, 50.0, False, {"a_1", "b_1", "a_2"}),
        (300, 25.0, True, {"a_2"}),
        (301, 25.0, False, {"a_1", "b_1", "a_2"}),
        (101, 5.0, False, {"a_1", "b_1", "a_2"}),
        (100, 5.0, True, {"a_1", "b_1", "a_2"}),
    ],
    ids=[
        "as it is",
        "for the oldest",
        "for all",
        "more than the bound",
        "for what was unused for longer",
        "not for what was used since",
        "not for what is older than all",
        "older than all, where there is room",
    ],
)
def test_a_file_has_room_beside_what_was_used_since_and_nothing_goes_in_vain(
    tmp_path: Path, num_bytes: int, used_at: float, has_room: bool, left: set[str]
) -> None:
    folder = filled(tmp_path, 400, a_1=10, b_1=20, a_2=30)
    with folder.room(file_of(folder, "c_1"), num_bytes, used_at) as found:
        assert found == has_room
    assert names(folder) == left


def test_a_file_that_is_replaced_needs_no_room_beside_itself(tmp_path: Path) -> None:
    folder = filled(tmp_path, 200, a_1=10, a_2=20)
    with folder.room(file_of(folder, "a_2"), FILE_BYTES, 30.0) as has_room:
        assert has_room
    assert names(folder) == {"a_1", "a_2"}


def test_one_that_no_board_has_bounded_holds_nothing(tmp_path: Path) -> None:
    folder = BoardFolder(tmp_path / "new")
    with folder.room(file_of(folder, "a_1"), 1, 1.0) as has_room:
        assert not has_room


def test_what_a_killed_worker_had_begun_to_write_takes_no_memory(tmp_path: Path) -> None:
    folder = filled(tmp_path, 1000, a_1=10)
    (folder.of("a") / f"x{PART}").write_bytes(bytes(FILE_BYTES))
    with folder.room(file_of(folder, "a_2"), 1, 20.0):
        assert [*folder.of("a").glob(f"*{PART}")] == []


def test_who_writes_is_alone_and_others_wait(tmp_path: Path) -> None:
    """One by one, however many begin at once: what each finds is what the others have left."""
    folder = filled(tmp_path, 250)

    def write(number: int) -> None:
        path = file_of(BoardFolder(tmp_path), f"a_{number}")
        path.parent.mkdir(exist_ok=True)
        with folder.room(path, FILE_BYTES, float(number)) as has_room:
            if has_room:
                path.write_bytes(bytes(FILE_BYTES))
                os.utime(path, (number, number))

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(write, number) for number in range(6)]:
            done.result()
    assert len(names(folder)) == 2
    assert "a_5" in names(folder)


def test_no_models_name_is_in_the_way(tmp_path: Path) -> None:
    folder = filled(tmp_path, 1000, bound_1=10, board_1=20, writing_1=30)
    folder.belongs_to("here")
    assert folder.models == ["board", "bound", "writing"]
    assert (folder.board, folder.max_bytes) == ("here", 1000)


def test_whose_folder_it_is_is_said_by_a_board_and_by_nobody_else(tmp_path: Path) -> None:
    folder = BoardFolder(tmp_path)
    assert folder.board is None
    (tmp_path / ".board").write_text("no token")
    assert folder.board is None


@pytest.mark.parametrize("what", ["a link to a folder", "a file"])
def test_what_is_not_a_folder_of_ours_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "board"
    if what == "a file":
        path.write_text("x")
    else:
        (tmp_path / "other").mkdir()
        path.symlink_to(tmp_path / "other")
    with pytest.raises(TurnpikeError, match="no conversations can be kept in"):
        BoardFolder(path)


def test_a_folder_is_its_users_alone(tmp_path: Path) -> None:
    assert BoardFolder(tmp_path / "board").path.stat().st_mode & 0o777 == 0o700


def test_what_a_models_states_are_like_is_read_by_who_has_no_worker(tmp_path: Path) -> None:
    folder = BoardFolder(tmp_path)
    assert folder.layout("a") is None
    folder.of("a").mkdir()
    layout = StateLayout("f", 8, 4, 512, 2, 100)
    folder.describe("a", layout)
    assert BoardFolder(tmp_path).layout("a") == layout
    (folder.of("a") / "layout.json").write_text("{")
    assert folder.layout("a") is None


def test_a_board_does_not_wait_long_for_one_that_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.kv.board_folder.BOUND_SECONDS", 0.05)
    folder = filled(tmp_path, 1000, a_1=10, a_2=20)
    with Lock(tmp_path / ".lock", "a worker that was stopped while it writes"), pytest.raises(InUse):
        folder.bound(100)
    assert BoardFolder(tmp_path).max_bytes == 100, "from the next one's writing on"
    assert folder.bound(100) == FILE_BYTES
