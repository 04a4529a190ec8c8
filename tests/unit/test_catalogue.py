from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from broker.catalogue import (
    CatalogueError,
    Locked,
    LockedFile,
    UnknownModel,
    entry_of,
    read_catalogue,
    read_lock,
    write_lock,
)
from workers.machine.memory import KvShape, largest_ctx, plan_memory

PAPER = {"Yi", "Phi", "Llama 3", "Gemma", "Mistral", "InternLM", "Llama 2", "Zephyr"}
TODAY = {"Qwen", "Llama 3.2", "Gemma", "Phi", "SmolLM"}
LOCKED = Locked("o/r", "c" * 40, "m.Q4_0.gguf", "d" * 64, 5)


def test_the_catalogue_has_the_papers_families_and_todays_small_ones() -> None:
    catalogue = read_catalogue()
    assert {entry.family for entry in catalogue.values()} >= PAPER | TODAY
    assert {entry.memory for entry in catalogue.values()} == {"full", "sliding-window", "recurrent"}
    assert all(entry.checked and entry.licence and entry.template for entry in catalogue.values())
    assert all(entry.file.endswith(".gguf") for entry in catalogue.values())


@pytest.mark.parametrize(
    ("token", "megabytes_of_1000_tokens"),
    # From the measured table that the design rests on.
    [
        ("tinyllama-1-1b", 23),
        ("llama-3-2-1b", 33),
        ("yi-6b", 66),
        ("mistral-7b", 131),
        ("llama-3-8b", 131),
        ("internlm2-5-7b", 131),
        ("phi-3-mini", 393),
        ("gemma-7b", 459),
        ("llama-2-7b", 524),
    ],
)
def test_the_cache_of_a_thousand_tokens_is_what_was_measured(token: str, megabytes_of_1000_tokens: int) -> None:
    assert round(read_catalogue()[token].kv_bytes_per_token * 1000 / 1e6) == megabytes_of_1000_tokens


def test_a_full_memory_model_has_the_cache_of_its_layers() -> None:
    for token, entry in read_catalogue().items():
        if entry.memory == "full":
            assert entry.kv_bytes_per_token % (2 * entry.shape[0] * 2) == 0, token


def test_a_lock_file_says_what_was_locked(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    data = Locked("o/d", "e" * 40, 'odd "name".jsonl.gz', "f" * 64, 7, "dataset")
    write_lock(path, {"b": LOCKED, "a": data})
    assert read_lock(path) == {"a": data, "b": LOCKED}
    assert list(tmp_path.iterdir()) == [path]


FIRST, SECOND = (LockedFile(f"m-0000{n}-of-00002.gguf", str(n) * 64, n) for n in (1, 2))
SPLIT = Locked("o/r", "c" * 40, FIRST.file, FIRST.sha256, FIRST.size_bytes, files=(FIRST, SECOND))


def test_a_model_in_several_files_has_all_of_them_in_the_lock_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_lock(path, {"m": SPLIT, "n": LOCKED})
    assert read_lock(path) == {"m": SPLIT, "n": LOCKED}
    # As a release reads it that knows of one file only.
    row = tomllib.loads(path.read_text())["m"]
    del row["files"]
    assert msgspec.convert(row, Locked) == msgspec.structs.replace(SPLIT, files=())
    path.write_text(path.read_text().replace(FIRST.sha256, "9" * 64, 1))
    with pytest.raises(CatalogueError, match="m: files: the first one is not the file that the row names"):
        read_lock(path)


def test_the_names_of_several_files_change_with_each_of_them(tmp_path: Path) -> None:
    other = msgspec.structs.replace(SPLIT, files=(FIRST, LockedFile(SECOND.file, "3" * 64, 2)))
    assert not set(SPLIT.paths_in(tmp_path, "m")) & set(other.paths_in(tmp_path, "m"))
    assert [path.name[-20:] for path in SPLIT.paths_in(tmp_path, "m")] == [
        "-00001-of-00002.gguf",
        "-00002-of-00002.gguf",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[m]\nrepository = 1\n", "m: .*repository"),
        ("[m]\n", "m: .*missing required field"),
        ("not toml", "lock: "),
        ('["a.b"]\n', "a.b"),
    ],
)
def test_a_bad_lock_file_names_what_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "lock"
    path.write_text(text)
    with pytest.raises(CatalogueError, match=reason):
        read_lock(path)


def test_a_missing_lock_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="there is no such file: turnpike models lock"):
        read_lock(tmp_path / "lock")


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownModel, match="mistral is not in the catalogue, which has: yi-6b, "):
        entry_of("mistral", read_catalogue(), "the catalogue")


def test_what_fits_a_small_board_is_found_by_the_plan() -> None:
    entry = read_catalogue()["llama-2-7b"]
    layers, embd, heads, ff, vocab = entry.shape
    shape = KvShape(layers, entry.kv_bytes_per_token, embd, vocab, heads, ff)

    def fits(gigabytes: float) -> int:
        return largest_ctx(
            lambda ctx: plan_memory(
                shape, file_bytes=entry.size_bytes, num_ctx=ctx, num_ubatch=256, max_outputs=32, flash_attention=True
            ),
            entry.context,
            int(gigabytes * 1e9),
        )

    assert fits(4) == 0
    assert 0 < fits(5.5) < entry.context
    assert fits(8) == entry.context
