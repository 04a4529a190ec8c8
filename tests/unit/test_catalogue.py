from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.catalogue import (
    SHIPPED,
    CatalogueError,
    Locked,
    LockedFile,
    UnknownModel,
    entry_of,
    locked_as,
    read_catalogue,
    read_lock,
    write_lock,
)
from broker.errors import TurnpikeError
from tools.boards import OnBoard
from workers.gguf_header import Header
from workers.machine.memory import KvShape, largest_ctx, plan_memory
from workers.machine.model_plan import kv_shape, plan
from workers.machine.model_shape import shape_of
from workers.models import DEMO

PAPER = {"Yi", "Phi", "Llama 3", "Gemma", "Mistral", "InternLM", "Llama 2", "Zephyr"}
TODAY = {"Qwen", "Llama 3.2", "Gemma", "Phi", "SmolLM", "LFM", "Granite", "Mistral", "OLMo"}
LOCKED = Locked("o/r", "c" * 40, "m.Q4_0.gguf", "d" * 64, 5)


def test_the_catalogue_has_the_papers_families_and_todays_small_ones() -> None:
    catalogue = read_catalogue()
    assert {entry.family for entry in catalogue.values()} >= PAPER | TODAY
    assert {entry.memory for entry in catalogue.values()} == {"full", "sliding-window", "recurrent", "none"}
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


def test_each_kind_of_cache_is_told_by_its_figures() -> None:
    for token, entry in read_catalogue().items():
        assert bool(entry.window and entry.window_bytes_per_token) == (entry.memory == "sliding-window"), token
        assert bool(entry.state_bytes) == (entry.memory == "recurrent"), token
        assert 0 < entry.read_bytes <= entry.size_bytes, token


def test_what_a_pi_can_run_of_many_experts_is_bounded_by_those_that_a_token_uses() -> None:
    catalogue = read_catalogue()
    mixtures = {token: entry for token, entry in catalogue.items() if entry.active_bytes and "E2B" not in entry.name}
    assert set(mixtures) == {"olmoe-1b-7b", "lfm2-5-8b-a1b", "qwen3-30b-a3b"}
    # 8.03 tokens/s are published for this file on a Pi 5 with 16 GB.
    low, high = OnBoard(catalogue["qwen3-30b-a3b"], 1000, 16).tokens_per_second
    assert 8.03 < low < high < 1.5 * 8.03


@pytest.mark.parametrize(
    ("token", "architecture", "values"),
    [
        (
            "lfm2-5-1-2b",
            "lfm2",
            {"block_count": 16, "embedding_length": 2048, "attention.head_count": 32, "shortconv.l_cache": 3,
             "feed_forward_length": 8192, "attention.head_count_kv": (0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0)},
        ),
        (
            "granite-4-h-1b",
            "granitehybrid",
            {"block_count": 40, "embedding_length": 1536, "attention.head_count": 12, "feed_forward_length": 4096,
             "attention.head_count_kv": (0, 0, 0, 0, 0, 4, 0, 0, 0, 0) * 4, "ssm.conv_kernel": 4,
             "ssm.state_size": 128, "ssm.group_count": 1, "ssm.inner_size": 3072},
        ),
        (
            "qwen3-5-0-8b",
            "qwen35",
            {"block_count": 25, "nextn_predict_layers": 1, "embedding_length": 1024, "attention.head_count": 8,
             "attention.head_count_kv": 2, "attention.key_length": 256, "attention.value_length": 256,
             "feed_forward_length": 3584, "ssm.conv_kernel": 4, "ssm.state_size": 128, "ssm.group_count": 16,
             "ssm.inner_size": 2048},
        ),
        (
            "qwen3-5-2b",
            "qwen35",
            {"block_count": 25, "nextn_predict_layers": 1, "embedding_length": 2048, "attention.head_count": 8,
             "attention.head_count_kv": 2, "attention.key_length": 256, "attention.value_length": 256,
             "feed_forward_length": 6144, "ssm.conv_kernel": 4, "ssm.state_size": 128, "ssm.group_count": 16,
             "ssm.inner_size": 2048},
        ),
        (
            "qwen3-5-4b",
            "qwen35",
            {"block_count": 33, "nextn_predict_layers": 1, "embedding_length": 2560, "attention.head_count": 16,
             "attention.head_count_kv": 4, "attention.key_length": 256, "attention.value_length": 256,
             "feed_forward_length": 9216, "ssm.conv_kernel": 4, "ssm.state_size": 128, "ssm.group_count": 16,
             "ssm.inner_size": 4096},
        ),
        (
            "gemma-3-1b",
            "gemma3",
            {"block_count": 26, "embedding_length": 1152, "attention.head_count": 4, "attention.head_count_kv": 1,
             "attention.key_length": 256, "attention.value_length": 256, "feed_forward_length": 6912,
             "attention.sliding_window": 512},
        ),
        (
            "gemma-4-e2b",
            "gemma4",
            {"block_count": 35, "embedding_length": 1536, "attention.head_count": 8, "attention.head_count_kv": 1,
             "attention.key_length": 512, "attention.value_length": 512, "attention.key_length_swa": 256,
             "attention.value_length_swa": 256, "feed_forward_length": 12288, "attention.sliding_window": 512,
             "attention.shared_kv_layers": 20,
             "attention.sliding_window_pattern": (True, True, True, True, False) * 7},
        ),
        (
            "ministral-3-3b",
            "mistral3",
            {"block_count": 26, "embedding_length": 3072, "attention.head_count": 32, "attention.head_count_kv": 8,
             "attention.key_length": 128, "attention.value_length": 128, "feed_forward_length": 9216},
        ),
        (
            "olmoe-1b-7b",
            "olmoe",
            {"block_count": 16, "embedding_length": 2048, "attention.head_count": 16, "attention.head_count_kv": 16,
             "feed_forward_length": 1024, "expert_feed_forward_length": 1024, "expert_used_count": 8,
             "expert_count": 64},
        ),
    ],
)  # fmt: skip
def test_the_catalogue_says_what_a_models_header_says(
    token: str, architecture: str, values: dict[str, int | tuple[int, ...]]
) -> None:
    entry = read_catalogue()[token]
    told: dict[str, Any] = {f"{architecture}.{key}": value for key, value in values.items()}
    lengths = {"tokenizer.ggml.tokens": entry.shape[4]}
    header = Header(told | {"general.architecture": architecture}, lengths, (), 0, 0)
    # What a catalogue has not, it takes at most.
    told_more = ("work_bytes", "num_inner", "num_merges")
    found, known = shape_of(header), kv_shape(entry)
    assert all(getattr(found, name) <= getattr(known, name) for name in told_more)
    assert replace(found, **{name: getattr(known, name) for name in told_more}) == known


def test_weights_count_as_far_as_they_stay_in_memory() -> None:
    entry = read_catalogue()["qwen3-30b-a3b"]
    whole, part = plan(entry, 8192), plan(entry, 8192, 4 * 1024**3)
    assert (whole.weights, part.weights) == (entry.size_bytes, 4 * 1024**3)
    assert whole.total - part.total == entry.size_bytes - 4 * 1024**3
    assert plan(entry, 8192, 1 << 40) == whole


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


@pytest.mark.parametrize(
    ("name", "lock", "sentence"),
    [
        ("nosuch", None, "nosuch is not in the catalogue, which has: yi-6b, .*; .*/lock: there is no such file: "),
        ("lama-3-2-1b", None, r"lama-3-2-1b is not in the catalogue.* \(did you mean llama-3-2-1b\?\); "),
        ("llama-3-2-1b", None, "^/.*/lock: there is no such file: turnpike models lock"),
        ("nosuch", "", "nosuch is not in .*/lock, which has: nothing; nor is it in the catalogue$"),
        ("lama-3-2-1b", "", r"; nor is it in the catalogue \(did you mean llama-3-2-1b\?\)$"),
        ("llama-3-2-1b", "", "which has: nothing; `turnpike models lock llama-3-2-1b` adds it"),
        ("data", None, "^/.*/lock: there is no such file"),
        ("data", "", "; `turnpike models lock data` adds it"),
        ("demo", None, "^demo ships with Turnpike: it needs no lock and no pull$"),
        ("demo", "", "^demo ships with Turnpike"),
        ("yi-6b", "not toml", "^/.*/lock: Expected"),
    ],
)
def test_a_name_that_is_not_locked_is_sent_to_its_own_cure(
    tmp_path: Path, name: str, lock: str | None, sentence: str
) -> None:
    path = tmp_path / "lock"
    if lock is not None:
        path.write_text(lock)
    with pytest.raises(TurnpikeError, match=sentence):
        locked_as(name, path, also=("data",))


def test_the_shipped_model_is_no_model_to_be_locked() -> None:
    assert DEMO.token == SHIPPED
    with pytest.raises(UnknownModel, match=r"^demo ships with Turnpike"):
        entry_of("demo", read_catalogue(), "the catalogue")


def test_what_fits_a_small_board_is_found_by_the_plan() -> None:
    entry = read_catalogue()["llama-2-7b"]
    layers, embd, heads, ff, vocab = entry.shape
    shape = KvShape(layers, entry.kv_bytes_per_token, embd, vocab, heads, ff)

    def fits(gigabytes: float) -> int:
        return largest_ctx(
            lambda ctx: plan_memory(
                shape, weight_bytes=entry.size_bytes, num_ctx=ctx, num_ubatch=256, max_outputs=32, flash_attention=True
            ),
            entry.context,
            int(gigabytes * 1e9),
        )

    assert fits(4) == 0
    assert 0 < fits(5.5) < entry.context
    assert fits(8) == entry.context
