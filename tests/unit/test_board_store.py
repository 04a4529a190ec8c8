"""What a worker leaves with its board, and what the next one finds there: a tier of its own between RAM and disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.messages import CutPoint
from tests.kv_fakes import LAYOUT, WITH_CHECKPOINTS
from workers.engine.protocol import State
from workers.kv.board_folder import BoardFolder
from workers.kv.board_store import BoardStore, KeptStates
from workers.kv.cache import OffloadCache
from workers.kv.checks import StateLayout
from workers.kv.disk import SUFFIX, Disk
from workers.kv.index import Key, KvEntry, PrefixMatch, packed

TOKENS = list(range(100))
FOREVER = 60.0


def state(name: str, tokens: list[int] = TOKENS, ago: float = 0.0) -> tuple[KvEntry, bytes]:
    """A conversation's state, whose last turn was so many seconds ago."""
    content = b"fake    " + packed(tokens)
    return KvEntry(Key("c", name), packed(tokens), len(content), used_at=time.time() - ago), content


class Board:
    """A folder, and caches of one worker after the other on it."""

    def __init__(self, path: Path, max_bytes: int = 1 << 20) -> None:
        self.folder = BoardFolder(path)
        self.folder.bound(max_bytes)
        self._open: list[BoardStore] = []

    def worker(
        self, model: str = "m", *, ram: int = 1 << 20, disk: Disk | None = None, layout: StateLayout = LAYOUT
    ) -> OffloadCache:
        self.close()
        store = BoardStore(self.folder, model, layout)
        store.open()
        self._open.append(store)
        return OffloadCache(ram, disk, board=store, can_remove_part=not layout.checkpoint_begin)

    def close(self) -> None:
        for one in self._open:
            one.close()

    @property
    def num_files(self) -> int:
        return len([*self.folder.path.glob(f"*/*{SUFFIX}")])


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    one = Board(tmp_path / "board")
    yield one
    one.close()


def found(cache: OffloadCache, tokens: list[int] = TOKENS) -> PrefixMatch | None:
    return cache.find_on_disk(packed([*tokens, 999]), "c", 0)


def taken(cache: OffloadCache, name: str, tokens: list[int] = TOKENS) -> tuple[State, str]:
    """A conversation's state as a turn takes it up, and where it was."""
    match = found(cache, tokens)
    assert match is not None
    assert cache.load(match)
    _, content, origin = cache.take(Key("c", name), keep=True) or pytest.fail("not in RAM")
    return content, origin


def test_what_one_worker_leaves_the_next_one_finds_and_it_is_in_memory_once(board: Board) -> None:
    first = board.worker()
    entry, content = state("x")
    first.offload(entry, content)
    assert first.flush(FOREVER) == 1
    assert first.stats.num_in_ram == 0, "what the board has is gone from RAM"
    second = board.worker()
    assert second.keys() == [entry.key]
    taken_up, origin = taken(second, "x")
    assert (bytes(taken_up), origin) == (content, "board")
    assert board.num_files == 0
    assert second.flush(FOREVER) == 1
    third = board.worker()
    assert bytes(taken(third, "x")[0]) == content


def test_checkpoints_are_left_with_it(board: Board) -> None:
    cuts = (CutPoint(30, 100), CutPoint(80, 100))
    entry, whole = state("x")
    content = whole + b"1" * 100 + b"2" * 100
    first = board.worker(layout=WITH_CHECKPOINTS)
    first.flush(FOREVER, [(KvEntry(entry.key, entry.tokens, len(content), 0, cuts), content)])
    second = board.worker(layout=WITH_CHECKPOINTS)
    match = second.find_on_disk(packed([*TOKENS[:90], 999]), "c", 0)
    assert match is not None
    assert match.num_tokens == 80
    assert second.load(match)
    kept, state_of, _ = second.take(entry.key, keep=True) or pytest.fail("not in RAM")
    assert (kept.cuts, bytes(state_of)) == (cuts, content)


def size_of_files(tmp_path: Path) -> int:
    """What such a state takes with the board."""
    board = Board(tmp_path / "size")
    board.worker().flush(FOREVER, [state("x")])
    board.close()
    return board.folder.num_bytes


def test_what_was_used_last_is_kept_wherever_it_was_and_the_rest_goes_to_the_disk(board: Board, tmp_path: Path) -> None:
    board.folder.bound(2 * size_of_files(tmp_path) + 10)
    disk = Disk(tmp_path / "disk", 1 << 20, LAYOUT)
    disk.open()
    cache = board.worker(disk=disk)
    for name, ago in (("old", 300.0), ("newer", 20.0)):
        cache.offload(*state(name, [ord(name[0])] * 100, ago))
    resident = [state("newest", [1] * 100, 0.0), state("older", [2] * 100, 200.0)]
    assert cache.flush(FOREVER, resident) == 4
    assert cache.stats.num_on_disk == 2
    cache.close()
    board.close()
    assert {entry.key.conversation for entry in disk.tier} == {"old", "older"}
    next_one = board.worker()
    assert {key.conversation for key in list(next_one.keys())} == {"newer", "newest"}


def test_another_models_conversations_go_for_what_was_used_since_and_stay_where_they_were_used_later(
    board: Board, tmp_path: Path
) -> None:
    board.folder.bound(2 * size_of_files(tmp_path) + 10)
    board.worker("a").flush(FOREVER, [state("late", ago=10), state("early", ago=100)])
    cache = board.worker("b")
    cache.flush(FOREVER, [state("now", ago=1), state("then", ago=50)])
    assert [cache.num_in_files(Key("c", name)) for name in ("now", "then")] == [100, 0]
    assert cache.stats.num_evicted == 1
    assert [key.conversation for key in list(board.worker("a").keys())] == ["late"]


def test_what_others_have_removed_is_not_found_and_is_counted(board: Board) -> None:
    board.worker().flush(FOREVER, [state("x")])
    cache = board.worker()
    match = found(cache)
    assert match is not None
    board.folder.bound(0)
    assert cache.num_in_files(Key("c", "x")) == 0
    assert not cache.load(match)
    assert cache.stats.num_evicted == 1
    assert found(cache) is None


def test_bytes_that_were_changed_are_not_taken_up(board: Board) -> None:
    board.worker().flush(FOREVER, [state("x")])
    (path,) = board.folder.path.glob(f"*/*{SUFFIX}")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    cache = board.worker()
    match = found(cache)
    assert match is not None
    assert not cache.load(match)


def test_another_file_of_the_model_finds_nothing(board: Board) -> None:
    board.worker().flush(FOREVER, [state("x")])
    assert board.worker(layout=StateLayout("another", 8, 4)).keys() == []
    assert board.num_files == 0


def test_of_a_conversation_that_took_another_way_the_latest_is_left(board: Board) -> None:
    edited = [*TOKENS[:50], *[7] * 20]
    cache = board.worker()
    cache.offload(*state("x", ago=50))
    cache.flush(FOREVER, [state("x", edited), state("x", [*TOKENS, 5], ago=20)])
    (key,) = board.worker().keys()
    entry = board.worker().entry_of(key)
    assert entry is not None
    assert entry.tokens == packed(edited)


def test_and_of_one_that_is_longer_in_ram_the_longer_one(board: Board) -> None:
    cache = board.worker()
    cache.offload(*state("x", [*TOKENS, 5], ago=20))
    cache.flush(FOREVER, [state("x")])
    entry = board.worker().entry_of(Key("c", "x"))
    assert entry is not None
    assert entry.num_tokens == 101


def test_a_worker_in_a_hurry_copies_no_more(board: Board) -> None:
    cache = board.worker()

    def resident() -> Iterator[tuple[KvEntry, State]]:
        yield state("x")
        yield pytest.fail("the time is over")

    assert cache.flush(0.0, resident()) == 0


def test_who_reads_what_is_there_disturbs_nobody(board: Board) -> None:
    board.worker().flush(FOREVER, [state("x")])
    (board.folder.of("m") / f"bad{SUFFIX}").write_bytes(b"no file of ours")
    reader = KeptStates(board.folder, "m", LAYOUT)
    assert reader.keys() == [Key("c", "x")]
    copied = reader.copy_of(Key("c", "x"))
    assert copied is not None
    board.folder.bound(0)
    assert bytes(copied[1]) == state("x")[1], "what is mapped stays, though its file is gone"
    assert (reader.entry_of(Key("c", "x")), reader.copy_of(Key("c", "x"))) == (None, None)
    board.folder.bound(1 << 20)
    board.worker().flush(FOREVER, [state("y")])
    assert reader.keys() == [Key("c", "y")], "it reads each time what is there"


def test_who_gives_has_what_is_on_the_disk_too_and_of_each_the_longest(board: Board, tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk" / "m", 1 << 20, LAYOUT)
    disk.open()
    OffloadCache(1 << 20, disk).flush(FOREVER, [state("both", [*TOKENS, 5]), state("disk")])
    board.worker().flush(FOREVER, [state("both"), state("board")])
    reader = KeptStates(board.folder, "m", LAYOUT, tmp_path / "disk")
    assert {key.conversation for key in list(reader.keys())} == {"both", "disk", "board"}
    lengths = {}
    for name in ("both", "disk", "board"):
        entry, content = reader.copy_of(Key("c", name)) or pytest.fail("not there")
        lengths[name] = entry.num_tokens
        assert bytes(content) == b"fake    " + entry.tokens
    assert lengths == {"both": 101, "disk": 100, "board": 100}
    disk.close()


def test_after_a_restart_it_is_the_latest_used_that_a_smaller_disk_has(tmp_path: Path) -> None:
    """They are written the latest used first: by their own age the first to go would be that one."""
    disk = Disk(tmp_path, 1 << 20, LAYOUT)
    cache = OffloadCache(1 << 20, disk)
    for number, name in enumerate("abc"):
        cache.offload(*state(name, [number] * 100, ago=100 - number))
    cache.flush(FOREVER)
    cache.close()
    size = sum(path.stat().st_size for path in tmp_path.glob(f"*{SUFFIX}"))
    smaller = Disk(tmp_path, size - 1, LAYOUT)
    smaller.open()
    assert [entry.key.conversation for entry in smaller.tier] == ["b", "c"]
    smaller.close()
