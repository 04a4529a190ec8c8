"""A model's file in two."""

from __future__ import annotations

from pathlib import Path

import gguf


def finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def split(source: Path, folder: Path, num_first: int) -> list[Path]:
    """The same model in two files, as llama.cpp's gguf-split makes them."""
    reader = gguf.GGUFReader(str(source))
    paths = [folder / f"demo-{index:05d}-of-00002.gguf" for index in (1, 2)]
    for index, tensors in enumerate((reader.tensors[:num_first], reader.tensors[num_first:])):
        writer = gguf.GGUFWriter(str(paths[index]), reader.fields["general.architecture"].contents())
        for field in reader.fields.values() if index == 0 else ():
            if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                is_list = field.types[0] == gguf.GGUFValueType.ARRAY
                sub = {"sub_type": field.types[-1]} if is_list else {}
                writer.add_key_value(field.name, field.contents(), field.types[0], **sub)
        writer.add_uint16("split.no", index)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        finish(writer, paths[index])
    return paths
