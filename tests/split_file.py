"""A model's file in several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf


def finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_split(source: Path, paths: Sequence[Path], begins: Sequence[int]) -> list[Path]:
    """The same model in several files, as llama.cpp's gguf-split makes them: the tensors from each begin on."""
    reader = gguf.GGUFReader(str(source))
    ends = [*begins[1:], len(reader.tensors)]
    for index, (path, begin, end) in enumerate(zip(paths, begins, ends, strict=True)):
        writer = gguf.GGUFWriter(str(path), reader.fields["general.architecture"].contents())
        for field in reader.fields.values() if index == 0 else ():
            if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                is_list = field.types[0] == gguf.GGUFValueType.ARRAY
                sub = {"sub_type": field.types[-1]} if is_list else {}
                writer.add_key_value(field.name, field.contents(), field.types[0], **sub)
        writer.add_uint16("split.no", index)
        writer.add_uint16("split.count", len(paths))
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[begin:end]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        finish(writer, path)
    return [*paths]


def split(source: Path, folder: Path, num_first: int) -> list[Path]:
    """In two, of which the first has so many tensors."""
    return write_split(source, [folder / f"demo-{index:05d}-of-00002.gguf" for index in (1, 2)], (0, num_first))
