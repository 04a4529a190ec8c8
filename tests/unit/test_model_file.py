"""What a GGUF file says of itself: whether it can answer, which parts it has, and files that are none."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from workers.model_file import ModelFileError, metadata, parts_of, why_not

Fill = Callable[[gguf.GGUFWriter], object]


def write(path: Path, architecture: str, *fill: Fill, tensors: int = 1) -> Path:
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_token_list(["<a>", "<b>"] * 50)
    writer.add_token_scores([0.0] * 100)
    for one in fill:
        one(writer)
    for index in range(tensors):
        writer.add_tensor(f"blk.{index}.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "fill", "expected"),
    [
        ("bert", lambda one: one.add_causal_attention(False), "an embedding model"),
        ("nomic-bert", lambda one: None, "an embedding model"),
        ("llama", lambda one: one.add_causal_attention(False), "an embedding model"),
        ("qwen3", lambda one: one.add_pooling_type(gguf.PoolingType.LAST), "an embedding model"),
        ("qwen3", lambda one: one.add_pooling_type(gguf.PoolingType.RANK), "a reranker"),
        ("bert", lambda one: one.add_pooling_type(gguf.PoolingType.RANK), "a reranker"),
        ("t5", lambda one: None, "an encoder with a decoder"),
        ("t5encoder", lambda one: None, "an encoder"),
        ("clip", lambda one: None, "the part of a model that sees or hears"),
        ("clip", lambda one: one.add_type("mmproj"), "the part of a model that sees or hears"),
        ("llama", lambda one: one.add_type("adapter"), "a LoRA adapter"),
        ("dream", lambda one: None, "a diffusion model"),
        ("eagle3", lambda one: None, "a draft model"),
    ],
)
def test_what_cannot_answer_is_called_what_it_is(tmp_path: Path, architecture: str, fill: Fill, expected: str) -> None:
    reason = why_not(metadata(write(tmp_path / "m.gguf", architecture, fill)))
    assert reason is not None
    assert reason.startswith(expected)


@pytest.mark.parametrize(
    ("architecture", "fill"),
    [
        ("llama", lambda one: one.add_causal_attention(True)),
        ("gemma3", lambda one: one.add_sliding_window(512)),
        ("qwen2", lambda one: one.add_pooling_type(gguf.PoolingType.NONE)),
        ("mamba", lambda one: one.add_type("model")),
        ("pangu-embedded", lambda one: None),
    ],
)
def test_what_may_answer_is_not_refused(tmp_path: Path, architecture: str, fill: Fill) -> None:
    assert why_not(metadata(write(tmp_path / "m.gguf", architecture, fill))) is None


def test_a_vocabulary_alone_is_no_model(tmp_path: Path) -> None:
    found = why_not(metadata(write(tmp_path / "v.gguf", "llama", tensors=0)))
    assert found == "a vocabulary without a model"


def parts(folder: Path, count: int, name: str = "m") -> list[Path]:
    def says(index: int) -> Fill:
        def fill(writer: gguf.GGUFWriter) -> None:
            writer.add_uint16("split.no", index)
            writer.add_uint16("split.count", count)

        return fill

    paths = [folder / f"{name}-{index + 1:05d}-of-{count:05d}.gguf" for index in range(count)]
    return [write(path, "llama", says(index)) for index, path in enumerate(paths)]


def test_every_part_of_a_model_leads_to_all_of_them(tmp_path: Path) -> None:
    written = parts(tmp_path, 3)
    assert [parts_of(path) for path in written] == [written] * 3
    whole = write(tmp_path / "whole.gguf", "llama")
    assert parts_of(whole) == [whole]


def test_parts_that_are_missing_are_named_all_of_them(tmp_path: Path) -> None:
    written = parts(tmp_path, 4)
    written[1].unlink()
    written[3].unlink()
    for left in (written[0], written[2]):
        with pytest.raises(ModelFileError) as caught:
            parts_of(left)
        assert written[1].name in str(caught.value)
        assert written[3].name in str(caught.value)


def test_a_part_under_another_name_or_in_anothers_place_is_told(tmp_path: Path) -> None:
    written = parts(tmp_path, 2)
    renamed = written[1].rename(tmp_path / "second.gguf")
    with pytest.raises(ModelFileError, match="is part 2 of 2, and the name does not say so"):
        parts_of(renamed)
    number: Fill = lambda one: one.add_string("split.no", "x")  # noqa: E731
    odd = write(tmp_path / "odd.gguf", "llama", number, lambda one: one.add_uint16("split.count", 2))
    with pytest.raises(ModelFileError, match="the name does not say so"):
        parts_of(odd)
    (tmp_path / written[1].name).write_bytes(written[0].read_bytes())
    with pytest.raises(ModelFileError, match="does not say of itself that it is part 2 of 2"):
        parts_of(written[0])


def test_a_header_that_was_cut_or_changed_is_one_error(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gguf", "llama", lambda one: one.add_chat_template("x" * 300)).read_bytes()
    header = whole.index(b"blk.0.weight") - 8
    path = tmp_path / "damaged.gguf"
    for length in range(header):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            metadata(path)
    rng = random.Random(5)
    for _ in range(500):
        changed = bytearray(whole)
        for _ in range(rng.randrange(1, 5)):
            changed[rng.randrange(header)] = rng.randrange(256)
        path.write_bytes(changed)
        with contextlib.suppress(ModelFileError):  # and of no other kind; a changed text may go unnoticed
            parts_of(path)
            why_not(metadata(path))


def test_no_file_a_folder_and_another_byte_order_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="there is no such file"):
        metadata(tmp_path / "none.gguf")
    with pytest.raises(ModelFileError, match="is a folder"):
        metadata(tmp_path)
    path = tmp_path / "big.gguf"
    path.write_bytes(b"GGUF\x00\x00\x00\x03" + bytes(64))
    with pytest.raises(ModelFileError, match="byte order"):
        metadata(path)
