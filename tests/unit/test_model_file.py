"""What a GGUF file says of itself: whether it can answer, which parts it has, and files that are none."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from workers.architectures import HYBRID, KNOWN, RECURRENT
from workers.model_file import ModelFileError, answering_parts, metadata, parts_of, why_not

Fill = Callable[[gguf.GGUFWriter], object]


def write(path: Path, architecture: str, *fill: Fill, tensors: int | list[str] = 1) -> Path:
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_token_list(["<a>", "<b>"] * 50)
    writer.add_token_scores([0.0] * 100)
    for one in fill:
        one(writer)
    names = [f"blk.{index}.weight" for index in range(tensors)] if isinstance(tensors, int) else tensors
    for name in names:
        writer.add_tensor(name, np.zeros((4, 32), dtype=np.float32))
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


def ahead(writer: gguf.GGUFWriter, num_blocks: int) -> None:
    writer.add_block_count(num_blocks)
    writer.add_nextn_predict_layers(1)


@pytest.mark.parametrize(
    ("architecture", "fill", "tensors", "expected"),
    [
        ("qwen3", lambda one: None, ["cls.output.weight"], "is a reranker"),
        ("gemma3", lambda one: None, ["dense_2.weight"], "is an embedding model"),
        ("qwen3", lambda one: one.add_pooling_type(gguf.PoolingType.CLS), ["blk.0.x"], "is an embedding model"),
        ("llama", lambda one: one.add_string("adapter.type", "lora"), ["blk.0.x"], "is a LoRA adapter"),
        ("llama", lambda one: None, ["blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"], "is a LoRA adapter"),
        ("llama", lambda one: one.add_type("imatrix"), ["blk.0.x.in_sum2"], "is an importance matrix"),
        ("", lambda one: None, ["blk.0.x.in_sum2", "blk.0.x.counts"], "is an importance matrix"),
        (
            "llava",
            lambda one: one.add_string("clip.projector_type", "mlp"),
            ["v.x"],
            "is the part of a model that sees",
        ),
        ("controlvector", lambda one: None, ["direction.1"], "is a control vector"),
        ("gemma4-assistant", lambda one: None, ["blk.0.x"], "is a draft model"),
        ("dflash", lambda one: None, ["blk.0.x"], "is a draft model"),
        (
            "qwen35",
            lambda one: ahead(one, 25),
            ["token_embd.weight", "blk.24.nextn.eh_proj.weight"],
            "is a draft model",
        ),
        ("wavtokenizer-dec", lambda one: None, ["blk.0.x"], "is a model of speech"),
        ("llama", lambda one: None, [], "is a vocabulary without a model"),
        ("llama", lambda one: one.add_tokenizer_model("no_vocab"), ["blk.0.x"], "is a model without a vocabulary"),
        ("llama9", lambda one: None, ["blk.0.x"], "is of the architecture 'llama9', which llama.cpp does not know"),
        ("", lambda one: None, ["blk.0.x"], "is no model: it names no architecture"),
    ],
)
def test_each_kind_that_cannot_answer_is_one_sentence(
    tmp_path: Path, architecture: str, fill: Fill, tensors: list[str], expected: str
) -> None:
    path = write(tmp_path / "m.gguf", architecture, fill, tensors=tensors)
    with pytest.raises(ModelFileError) as caught:
        answering_parts(path, KNOWN)
    assert caught.value.reason.startswith(expected)
    assert "\n" not in str(caught.value)


def test_a_model_with_layers_that_predict_ahead_is_a_model(tmp_path: Path) -> None:
    tensors = ["blk.0.x", "blk.1.x", "blk.2.nextn.eh_proj.weight"]
    path = write(tmp_path / "m.gguf", "qwen35", lambda one: ahead(one, 3), tensors=tensors)
    assert answering_parts(path, KNOWN) == [path]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is not a GGUF file: it is empty"),
        (b"GG", "is not a GGUF file"),
        (b"GGUF", "is damaged, or was cut off in its header"),
        (b"GGUF\x01\0\0\0" + bytes(64), "is of version 1 of GGUF, which llama.cpp does not read any more"),
        (b"GGUF\x04\0\0\0" + bytes(64), "is of version 4 of GGUF, newer than the 3 that is known here"),
        (b"GGUF\0\0\0\x03" + bytes(64), "is of the other byte order"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is not a GGUF file but a pointer of Git LFS"),
        (b"PK\x03\x04" + bytes(64), "is not a GGUF file but a zip archive"),
        (b"tjgg" + bytes(64), "is not a GGUF file but a file of GGML's format before GGUF"),
        (b"\n<!DOCTYPE html><html>", "is not a GGUF file but a web page"),
        (b"\x40\0\0\0\0\0\0\0" + b'{"a": 1}' + bytes(64), "is not a GGUF file but one of safetensors"),
    ],
)
def test_what_is_no_gguf_file_of_today_is_one_sentence(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        answering_parts(path)
    assert caught.value.reason.startswith(expected)


def test_a_file_that_its_writer_wrote_for_big_endian_machines_is_told(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelFileError, match="made for a big-endian machine"):
        answering_parts(tmp_path / "m.gguf")


def test_a_file_that_was_cut_off_in_its_tensors_is_told_with_the_bytes_that_it_should_have(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "llama", tensors=3)
    assert answering_parts(path) == [path]
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ModelFileError, match=f"corrupted or incomplete: it has {len(whole) - 100:,} bytes of"):
        answering_parts(path)


def test_a_tensor_of_a_type_that_is_not_known_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "llama")
    data = bytearray(path.read_bytes())
    at = data.index(b"blk.0.weight") + len(b"blk.0.weight") + 4 + 2 * 8
    data[at] = 200
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="has a tensor of type 200, which is not known here"):
        answering_parts(path)


def test_what_is_not_a_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(ModelFileError, match="is not a regular file"):
        answering_parts(tmp_path / "m.gguf")


def test_the_architectures_are_those_of_the_library_that_is_installed() -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    (library,) = list((Path(llama_cpp.__file__).parent / "lib").glob("libllama.so"))
    data = library.read_bytes()
    # Neither a compiler nor a linker keeps a text apart that is the end of another.
    assert not [name for name in KNOWN if name.encode() + b"\0" not in data]
    assert RECURRENT | HYBRID < KNOWN


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
