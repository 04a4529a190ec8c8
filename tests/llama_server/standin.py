"""The stand-in for stories260K: the model that Turnpike ships, made to go on and on as a teller of stories does.

The suite asks for answers of so many tokens, and that model seldom ends one before: here the token that ends an answer
is a plain one, and another, which is never chosen, takes its place. As that model's, its texts begin with a space, its
weights are 32 bits, so that what steps are put together of changes next to nothing, and it has no chat template; three
tokens that nothing is made of are its marks for filling in the middle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.split_file import finish, write_split
from tests.support import ROOT
from workers.models import DEMO

FOLDER = ROOT / ".cache" / "llama-server-tests" / "models"
_END = "<|im_end|>"
_END_OF_STORY = 2
_NORMAL = 1
_MARKS = {"prefix": 5, "suffix": 6, "middle": 7}
"""Byte tokens of control characters."""
_LEFT_OUT = ("GGUF.", "general.architecture", "tokenizer.chat_template")


def stories(folder: Path = FOLDER) -> Path:
    """The file."""
    path = folder / "stories.gguf"
    if not path.is_file() or path.stat().st_mtime < DEMO.path.stat().st_mtime:
        folder.mkdir(parents=True, exist_ok=True)
        _write(path.with_suffix(".part")).replace(path)
    return path


def split_stories(folder: Path = FOLDER) -> Path:
    """The first of three files of it."""
    paths = [folder / f"stories-{index:05d}-of-00003.gguf" for index in (1, 2, 3)]
    if not all(path.is_file() for path in paths):
        write_split(stories(folder), paths, (0, 10, 20))
    return paths[0]


def _write(path: Path) -> Path:
    reader = gguf.GGUFReader(str(DEMO.path))
    writer = gguf.GGUFWriter(str(path), "llama")
    for field in reader.fields.values():
        if field.name.startswith(_LEFT_OUT):
            continue
        is_list = field.types[0] == gguf.GGUFValueType.ARRAY
        sub = {"sub_type": field.types[-1]} if is_list else {}
        writer.add_key_value(field.name, _changed(field.name, field.contents()), field.types[0], **sub)
    for name, token in _MARKS.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(weights, dtype=np.float32))
    return finish(writer, path)


def _changed(name: str, value: Any) -> Any:
    match name:
        case "tokenizer.ggml.tokens":
            return ["~" if one == _END else one for one in value]
        case "tokenizer.ggml.token_type":
            place = gguf.GGUFReader(str(DEMO.path)).fields["tokenizer.ggml.tokens"].contents().index(_END)
            return [_NORMAL if index == place else one for index, one in enumerate(value)]
        case "tokenizer.ggml.eos_token_id":
            return _END_OF_STORY
        case "tokenizer.ggml.add_space_prefix":
            return True
        case "general.name":
            return "Stories"
        case "general.file_type":
            return gguf.LlamaFileType.ALL_F32
    return value
