"""The header of a GGUF file: its values, and which tensors there are. Read without llama.cpp and the tensors' bytes."""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

Value = int | float | bool | str | tuple[int | float | bool, ...]
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
MAX_KEY_VALUES = MAX_TENSORS = 1 << 16
MAX_ELEMENTS = 1 << 22
"""Of arrays that are walked through: texts, and arrays in arrays. The largest vocabularies have a tenth of it."""
MAX_KEPT = 1024
"""Numbers of an array that is kept: one for each layer, not one for each token."""
MAX_DIMENSIONS = 4
NEWEST_VERSION = 3
DEFAULT_ALIGNMENT = 32
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip
"""Name, values of a block, bytes of a block, by the number that ggml.h gives a type."""
_OTHER_FILES = (
    (b"version https://git-lfs", "a pointer of Git LFS, which only says which file it stands for: git lfs pull"),
    (b"PK\x03\x04", "a zip archive, as PyTorch's weights are"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    *((magic, "a file of GGML's format before GGUF: it has to be converted") for magic in (b"lmgg", b"fmgg", b"tjgg")),
)


class HeaderError(Exception):
    """What is wrong with a file, to be read behind its name."""


class Tensor(Struct, frozen=True):
    """One of a file's tensors."""

    name: str
    shape: tuple[int, ...]
    type: str
    """As ggml names it: Q4_K."""
    num_bytes: int

    @property
    def num_values(self) -> int:
        """Its parameters."""
        return math.prod(self.shape)


class Header(Struct, frozen=True):
    """What a file says of itself."""

    values: dict[str, Value]
    """Scalars and short arrays of numbers."""
    lengths: dict[str, int]
    """How many elements each array has."""
    tensors: tuple[Tensor, ...]
    needed_bytes: int
    """Where its last tensor ends."""
    file_bytes: int
    places: dict[str, tuple[int, int]] = {}
    """Where in the file each array begins and ends."""


class _Reader:
    """Values in order, from a file's bytes."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._num_left = MAX_ELEMENTS
        self.at = 4

    def number(self, form: str) -> int | float | bool:
        (value,) = struct.unpack_from(f"<{form}", self._data, self.at)
        self.at += struct.calcsize(f"<{form}")
        found: int | float | bool = value
        return found

    def count(self) -> int:
        return int(self.number("Q"))

    def text(self) -> str:
        start, length = self._text()
        return self._data[start : start + length].decode("utf-8", "replace")

    def _text(self) -> tuple[int, int]:
        length = self.count()
        if length > len(self._data) - self.at:
            raise struct.error("a text longer than the file")
        self.at += length
        return self.at - length, length

    def _pass_texts(self, count: int) -> None:
        """As `_text` so many times: a vocabulary has hundreds of thousands."""
        data, at, length_at = self._data, self.at, _LENGTH.unpack_from
        for _ in range(count):
            at += _LENGTH.size + length_at(data, at)[0]
        if at > len(data):
            raise struct.error("a text longer than the file")
        self.at = at

    def value(self, kind: int) -> Value | None:
        """A scalar or a short array of numbers; None for another array, which is passed over."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, count = int(self.number("I")), self.count()
        if inner in _SCALARS:
            if count <= MAX_KEPT:
                return tuple(self.number(_SCALARS[inner]) for _ in range(count))
            self.at += struct.calcsize(_SCALARS[inner]) * count
        elif inner == _STRING:
            self._walk(count)
            self._pass_texts(count)
        else:
            self._walk(count)
            for _ in range(count):
                self.value(inner)
        return None

    def _walk(self, count: int) -> None:
        self._num_left -= count
        if self._num_left < 0:
            raise HeaderError("is damaged: its header tells of too many values")

    def length_ahead(self, kind: int) -> int | None:
        """Of the array that comes next; None where a scalar does."""
        return int(struct.unpack_from("<Q", self._data, self.at + 4)[0]) if kind == _ARRAY else None


def read_header(path: Path) -> Header:
    """Raises HeaderError for what is no GGUF file, one that is damaged, and one that is newer than what is known."""
    try:
        if path.exists() and not path.is_file():
            raise HeaderError("is a folder" if path.is_dir() else "is not a regular file")
        with path.open("rb") as file:
            beginning = file.read(64)
            if not beginning.startswith(b"GGUF"):
                raise HeaderError(_what_else(beginning))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(data, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise HeaderError("there is no such file") from None
    except OSError as error:
        raise HeaderError(f"cannot be read: {error.strerror or error}") from None
    except (struct.error, KeyError, IndexError, RecursionError, OverflowError, ValueError):
        raise HeaderError("is damaged, or was cut off in its header") from None


def has_text(path: Path, head: Header, key: str, texts: Iterable[str]) -> bool:
    """Whether one of the texts is in an array of a file with that header. Raises OSError."""
    start, end = head.places.get(key, (0, 0))
    with path.open("rb") as file:
        file.seek(start)
        found = file.read(end - start)
    return any(_LENGTH.pack(len(one)) + one in found for one in map(str.encode, texts))


def _what_else(beginning: bytes) -> str:
    if not beginning:
        return "is not a GGUF file: it is empty"
    for magic, what in _OTHER_FILES:
        if beginning.startswith(magic):
            return f"is not a GGUF file but {what}"
    if beginning.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "is not a GGUF file but a web page"
    if beginning[8:10] == b'{"':
        return "is not a GGUF file but one of safetensors: it has to be converted"
    return "is not a GGUF file"


def _read(data: mmap.mmap, file_bytes: int) -> Header:
    reader = _Reader(data)
    version = int(reader.number("I"))
    if version & 0xFFFF == 0 and version:
        raise HeaderError("is of the other byte order: it was made for a big-endian machine")
    if version < 2:
        raise HeaderError(f"is of version {version} of GGUF, which llama.cpp does not read any more: convert it anew")
    if version > NEWEST_VERSION:
        raise HeaderError(f"is of version {version} of GGUF, newer than the {NEWEST_VERSION} that is known here")
    num_tensors, num_values = reader.count(), reader.count()
    if num_values > MAX_KEY_VALUES or num_tensors > MAX_TENSORS:
        what = "values" if num_values > MAX_KEY_VALUES else "tensors"
        raise HeaderError(f"is damaged: its header tells of too many {what}")
    values: dict[str, Value] = {"tensors": num_tensors}
    lengths: dict[str, int] = {}
    places: dict[str, tuple[int, int]] = {}
    for _ in range(num_values):
        key, kind = reader.text(), int(reader.number("I"))
        if (length := reader.length_ahead(kind)) is not None:
            lengths[key] = length
            places[key] = reader.at, reader.at
        if (value := reader.value(kind)) is not None:
            values[key] = value
        if key in places:
            places[key] = places[key][0], reader.at
    tensors, end = _tensors(reader, num_tensors)
    alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0:
        raise HeaderError("is damaged: its alignment is no number")
    needed = -(-reader.at // alignment) * alignment + end if tensors else reader.at
    return Header(values, lengths, tuple(tensors), needed, file_bytes, places)


def _tensors(reader: _Reader, count: int) -> tuple[list[Tensor], int]:
    """And how many bytes they take, all in all, behind the header."""
    found, end = [], 0
    for _ in range(count):
        name, num_dimensions = reader.text(), int(reader.number("I"))
        if num_dimensions > MAX_DIMENSIONS:
            raise HeaderError("is damaged: it has a tensor of too many dimensions")
        shape = tuple(reader.count() for _ in range(num_dimensions))
        kind = int(reader.number("I"))
        if kind not in TENSOR_TYPES:
            raise HeaderError(f"has a tensor of type {kind}, which is not known here: of a newer or of no llama.cpp")
        type_name, block_values, block_bytes = TENSOR_TYPES[kind]
        num_bytes = math.prod(shape) // block_values * block_bytes
        end = max(end, reader.count() + num_bytes)
        found.append(Tensor(name, shape, type_name, num_bytes))
    return found, end
