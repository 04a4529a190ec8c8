"""What is parked, what is found again, and who goes first; and files that are wrong."""

from __future__ import annotations

import hashlib
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import CutPoint
from workers.kv.cache import OffloadCache
from workers.kv.checks import StateLayout
from workers.kv.disk import MAGIC, OLDER_MAGIC, Disk
from workers.kv.index import Key, KvEntry, Tier, common_tokens, find, packed, split

TOKENS = st.lists(st.integers(0, 3), max_size=40)
LAYOUT = StateLayout("f", 0, 4)


def offloaded(
    name: str, tokens: list[int], num_bytes: int | None = None, client: str = "c", canonical: int = 0
) -> KvEntry:
    return KvEntry(Key(client, name), packed(tokens), 4 * len(tokens) if num_bytes is None else num_bytes, canonical)


CUTTABLE = StateLayout("f", 0, 4, checkpoint_begin=10)
"""Of states that cannot be cut but by checkpoints of ten bytes."""


def with_cuts(name: str, tokens: list[int], *positions: int) -> tuple[KvEntry, bytes]:
    """A state with checkpoints, which are its number's digit each."""
    content = state(tokens) + b"".join(b"%d" % number * 10 for number in range(len(positions)))
    cuts = tuple(CutPoint(at, 10) for at in positions)
    return KvEntry(Key("c", name), packed(tokens), len(content), 0, cuts), content


def state(tokens: list[int]) -> bytes:
    return bytes(LAYOUT.state_bytes(len(tokens)))


@given(TOKENS, TOKENS)
def test_the_common_prefix_is_the_naive_one(one: list[int], other: list[int]) -> None:
    naive = 0
    while naive < min(len(one), len(other)) and one[naive] == other[naive]:
        naive += 1
    assert common_tokens(packed(one), packed(other)) == naive


@given(st.lists(TOKENS, max_size=12), TOKENS.filter(bool))
def test_the_longest_prefix_of_all_is_found(kept: list[list[int]], tokens: list[int]) -> None:
    entries = [offloaded(str(index), one) for index, one in enumerate(kept)]
    naive = max((min(common_tokens(one.tokens, packed(tokens)), len(tokens) - 1) for one in entries), default=0)
    found = find(entries, packed(tokens), "c")
    assert (found.num_tokens if found else 0) == naive


def test_anothers_state_is_found_only_by_setting() -> None:
    entries = [offloaded("x", [1, 2, 3, 4], client="other")]
    assert find(entries, packed([1, 2, 3, 4, 5]), "c") is None
    found = find(entries, packed([1, 2, 3, 4, 5]), "c", share_across_clients=True)
    assert found is not None
    assert found.num_tokens == 4


def test_of_a_model_that_cannot_forget_only_a_whole_state_is_of_use() -> None:
    entries = [offloaded("x", [1, 2, 3, 4])]
    assert find(entries, packed([1, 2, 3, 9]), "c", can_remove_part=False) is None
    found = find(entries, packed([1, 2, 3, 4, 5]), "c", can_remove_part=False)
    assert found is not None
    assert found.num_tokens == 4


@pytest.mark.parametrize(("num_shared", "expected"), [(100, 100), (99, 80), (80, 80), (79, 30), (29, 0)])
def test_or_what_comes_before_one_of_its_checkpoints(num_shared: int, expected: int) -> None:
    tokens = list(range(100))
    entry, _ = with_cuts("x", tokens, 30, 80)
    prompt = packed([*tokens[:num_shared], 500, 501])
    found = find([entry], prompt, "c", can_remove_part=False)
    assert (found.num_tokens if found is not None else 0) == expected
    cache = OffloadCache(1000, can_remove_part=False)
    assert cache.num_usable(entry.tokens, prompt, entry.cuts) == expected
    cache.offload(entry, bytes(entry.num_bytes))
    assert cache.num_shared(prompt, "c") == num_shared


@given(st.lists(st.integers(1, 30), max_size=4), st.integers(0, 200))
def test_a_state_and_its_checkpoints_are_told_apart_again(sizes: list[int], length: int) -> None:
    content = random.Random(0).randbytes(length + sum(sizes))
    whole, checkpoints = split(content, [CutPoint(at + 1, size) for at, size in enumerate(sizes)])
    assert whole == content[:length]
    assert b"".join(checkpoints) == content[length:]
    assert [len(one) for one in checkpoints] == sizes


def test_checkpoints_go_before_any_conversation_does_and_those_of_the_longest_unused_first() -> None:
    cache = OffloadCache(850, can_remove_part=False)

    def kept() -> dict[str, tuple[int, int]]:
        found = {name: cache.take(Key("c", name), keep=True) or pytest.fail("gone") for name in "ba"}
        return {name: (len(entry.cuts), len(content)) for name, (entry, content, _) in found.items()}

    for name in "ab":
        cache.offload(*with_cuts(name, [ord(name)] * 100, 30, 80))
    assert kept() == {"a": (2, 420), "b": (2, 420)}
    cache.offload(*with_cuts("a", [ord("a")] * 105, 30, 80))
    assert kept() == {"a": (2, 440), "b": (0, 400)}
    cache.offload(*with_cuts("b", [ord("b")] * 105, 30, 80))
    assert kept() == {"a": (0, 420), "b": (0, 420)}
    assert (cache.stats.num_evicted, cache.stats.ram_bytes) == (0, 840)


def test_where_there_is_a_disk_what_leaves_ram_takes_its_checkpoints_there(tmp_path: Path) -> None:
    disk = Disk(tmp_path, 10_000, CUTTABLE)
    cache = OffloadCache(500, disk, can_remove_part=False)
    first, content = with_cuts("1", [1] * 100, 30, 80)
    cache.offload(first, content)
    cache.offload(*with_cuts("2", [2] * 100, 30, 80))
    cache.flush(10)
    cache.close()
    again = Disk(tmp_path, 10_000, CUTTABLE)
    again.open()
    later = OffloadCache(500, again, can_remove_part=False)
    found = later.find_on_disk(packed([1] * 85 + [9]), "c", 0)
    assert found is not None
    assert found.num_tokens == 80
    assert later.load(found)
    assert later.take(found.entry.key, keep=False) == (first, content, "disk")
    later.close()


def test_the_deterministic_mode_takes_whole_chunks_of_canonical_tokens() -> None:
    entries = [offloaded("x", list(range(100)), canonical=70)]
    found = find(entries, packed(list(range(100))), "c", canonical_chunk=32)
    assert found is not None
    assert found.num_tokens == 64


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50)), max_size=60), st.integers(0, 120))
def test_a_tier_never_holds_more_than_its_cap(puts: list[tuple[int, int]], cap: int) -> None:
    tier = Tier(cap)
    for name, size in puts:
        gone = tier.put(offloaded(str(name), [1], size))
        assert tier.num_bytes == sum(one.num_bytes for one in tier) <= cap
        assert all(one.key not in tier for one in gone)


def test_the_cheapest_to_compute_for_its_bytes_goes_first_and_the_longest_unused_of_equals() -> None:
    tier = Tier(100)
    tier.put(offloaded("few tokens, many bytes", [1], 40))
    tier.put(offloaded("old", [1] * 10, 30))
    tier.put(offloaded("new", [1] * 10, 30))
    tier.use(Key("c", "old"))
    assert [one.key.conversation for one in tier.put(offloaded("next", [1] * 10, 30))] == ["few tokens, many bytes"]
    assert [one.key.conversation for one in tier.put(offloaded("last", [1] * 10, 30))] == ["new"]


def test_what_ram_has_no_room_for_is_written_and_found_on_disk(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "kv", 10_000, LAYOUT)
    offload_cache = OffloadCache(500, disk)
    for number in range(3):
        tokens = [number] * 100
        offload_cache.offload(offloaded(str(number), tokens), state(tokens))
    found = offload_cache.find_on_disk(packed([0] * 101), "c", 0)
    assert found is not None
    assert found.num_tokens == 100
    assert offload_cache.load(found)
    offload_cache.close()
    best = offload_cache.find(packed([0] * 101), "c")
    assert best is not None
    assert offload_cache.take(best.entry.key, keep=False) == (best.entry, state([0] * 100), "disk")
    assert offload_cache.take(best.entry.key, keep=False) is None
    assert (tmp_path / "kv").stat().st_mode & 0o777 == 0o700


def test_the_end_writes_what_is_in_memory_and_the_next_process_finds_it(tmp_path: Path) -> None:
    offload_cache = OffloadCache(10_000, Disk(tmp_path, 10_000, LAYOUT))
    conversations = {str(number): [number] * (50 + number) for number in range(5)}
    for name, tokens in conversations.items():
        offload_cache.offload(offloaded(name, tokens), state(tokens))
    assert offload_cache.flush(10) == 5
    offload_cache.close()
    disk = Disk(tmp_path, 10_000, LAYOUT)
    disk.open()
    again = OffloadCache(10_000, disk)
    for tokens in conversations.values():
        found = again.find_on_disk(packed([*tokens, 9]), "c", 0)
        assert found is not None
        assert found.num_tokens == len(tokens)
        assert again.load(found)
    again.close()


@pytest.mark.parametrize(
    ("older", "canonical", "num_kept"),
    [([7] * 50, 0, 100), ([7] * 50, 50, 50), ([8] * 50, 0, 50), ([7] * 100, 0, 100), ([7] * 120, 0, 120)],
)
def test_an_older_state_of_a_conversation_does_not_take_the_place_of_one_that_goes_on_from_it(
    older: list[int], canonical: int, num_kept: int
) -> None:
    cache = OffloadCache(10_000)
    cache.offload(offloaded("x", [7] * 100), state([7] * 100), "peer")
    cache.offload(offloaded("x", older, canonical=canonical), state(older))
    entry = cache.entry_of(Key("c", "x"))
    assert entry is not None
    assert entry.num_tokens == num_kept
    _, kept, origin = cache.take(entry.key, keep=True) or (None, b"", "")
    assert len(kept) == LAYOUT.state_bytes(num_kept)
    assert origin == ("peer" if older == [7] * 50 and not canonical else "ram")


@pytest.mark.parametrize("how", ["evicted", "flushed"])
def test_nor_does_it_on_the_disk(tmp_path: Path, how: str) -> None:
    disk = Disk(tmp_path, 10_000, LAYOUT)
    disk.keep(longer := offloaded("x", [7] * 100), disk.write(longer, state([7] * 100)))
    cache = OffloadCache(500, disk)
    cache.offload(offloaded("x", [7] * 50), state([7] * 50))
    if how == "evicted":
        cache.offload(offloaded("y", [1] * 100), state([1] * 100))
    assert cache.flush(10) == (2 if how == "evicted" else 1)
    cache.close()
    again = Disk(tmp_path, 10_000, LAYOUT)
    again.open()
    assert again.tier[Key("c", "x")].num_tokens == 100


def broken(content: bytes, how: str) -> bytes:
    match how:
        case "cut":
            return content[:-1]
        case "longer":
            return content + b"x"
        case "another magic number":
            return b"x" + content[1:]
        case "a header of four gigabytes":
            return content[: len(MAGIC)] + struct.pack("<I", 0xFFFFFFFF) + content[len(MAGIC) + 4 :]
        case "a state of another length":
            return content.replace(b'"num_bytes":400', b'"num_bytes":404') + bytes(4)
        case "no JSON":
            return content.replace(b'{"fing', b'["fing')
        case "empty":
            return b""
    raise ValueError(how)


@pytest.mark.parametrize("position", [0, 100, 101])
def test_a_file_whose_checkpoints_are_out_of_place_is_removed(tmp_path: Path, position: int) -> None:
    entry, content = with_cuts("x", list(range(100)), 30)
    path = Disk(tmp_path, 10_000, CUTTABLE).write(entry, content)
    path.write_bytes(with_header(path.read_bytes(), b'"num_tokens":30', b'"num_tokens":%d' % position))
    disk = Disk(tmp_path, 10_000, CUTTABLE)
    disk.open()
    assert len(disk.tier) == 0
    assert not path.exists()


def with_header(content: bytes, old: bytes, new: bytes) -> bytes:
    begin = len(MAGIC) + 4
    (length,) = struct.unpack("<I", content[len(MAGIC) : begin])
    header = content[begin : begin + length]
    assert old in header
    header = header.replace(old, new)
    return content[: len(MAGIC)] + struct.pack("<I", len(header)) + header + content[begin + length :]


def test_a_file_of_before_there_were_checkpoints_is_read(tmp_path: Path) -> None:
    tokens = list(range(100))
    disk = Disk(tmp_path, 10_000, CUTTABLE)
    path = disk.write(offloaded("x", tokens), state(tokens))
    content = path.read_bytes()
    for name in (b',"cuts":[]', b',"cuts_sha256":"%s"' % hashlib.sha256().hexdigest().encode()):
        content = with_header(content, name, b"")
    path.write_bytes(OLDER_MAGIC + content[len(MAGIC) :])
    disk.open()
    assert disk.read(disk.tier[Key("c", "x")]) == state(tokens)
    disk.close()


@pytest.mark.parametrize(
    "how",
    [
        "cut",
        "longer",
        "another magic number",
        "a header of four gigabytes",
        "a state of another length",
        "no JSON",
        "empty",
    ],
)
def test_a_file_that_is_not_what_it_says_is_removed_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    tokens = list(range(100))
    path = Disk(tmp_path, 10_000, LAYOUT).write(offloaded("x", tokens), state(tokens))
    path.write_bytes(broken(path.read_bytes(), how))
    disk = Disk(tmp_path, 10_000, LAYOUT)
    disk.open()
    assert len(disk.tier) == 0
    assert not path.exists()
    assert len(caplog.records) == 1


def test_another_models_file_and_what_was_half_written_are_removed(tmp_path: Path) -> None:
    tokens = list(range(100))
    Disk(tmp_path, 10_000, StateLayout("other", 0, 4)).write(offloaded("x", tokens), state(tokens))
    (tmp_path / "left.kv.part").write_bytes(b"half")
    Disk(tmp_path, 10_000, LAYOUT).open()
    assert list(tmp_path.iterdir()) == []


@given(at=st.integers(0, 419), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_state_gets_through(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    folder = tmp_path_factory.mktemp("kv")
    tokens = list(range(100))
    disk = Disk(folder, 10_000, CUTTABLE)
    one, _ = with_cuts("x", tokens, 30, 80)
    path = disk.write(one, random.Random(0).randbytes(420))
    disk.keep(one, path)
    content = bytearray(path.read_bytes())
    content[len(content) - 420 + at] ^= 1 << bit
    path.write_bytes(content)
    assert disk.read(one) is None


def test_a_full_disk_costs_the_state_and_nothing_else(tmp_path: Path) -> None:
    offload_cache = OffloadCache(500, Disk(tmp_path / "kv", 10_000, LAYOUT))
    (tmp_path / "kv").rmdir()
    for number in range(3):
        offload_cache.offload(offloaded(str(number), [number] * 100), state([number] * 100))
    offload_cache.close()
    assert offload_cache.stats.num_evicted == 2
    assert offload_cache.stats.num_in_ram == 1
