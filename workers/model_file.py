"""What a GGUF file says of itself before llama.cpp is given it: whether it can answer at all, and where its parts are.

llama.cpp takes files for models that are none and aborts the process with some of them, and of a model in several files
it wants the first. Only headers are read here.
"""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path

from broker.errors import TurnpikeError

Value = int | float | bool | str
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
MAX_PARTS = 1000
MAX_KEY_VALUES = 1 << 16

_EMBEDDING = "an embedding model, which makes vectors and no text"
_DRAFT = "a draft model, which only helps another one"
_SPEECH = "a model of speech, not of text"
_DIFFUSION = "a diffusion model, which does not write its answer from the beginning to the end"
NOT_ANSWERING = (
    dict.fromkeys(
        (
            *("bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3"),
            *("eurobert", "gemma-embedding", "llama-embed"),
        ),
        _EMBEDDING,
    )
    | dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), _DIFFUSION)
    | dict.fromkeys(("eagle3", "dflash", "gemma4-assistant"), _DRAFT)
    | dict.fromkeys(("wavtokenizer-dec", "pockettts", "qwen3tts"), _SPEECH)
    | {
        "t5": "an encoder with a decoder, which is not served here",
        "t5encoder": "an encoder, which makes vectors and no text",
        "clip": "the part of a model that sees or hears (mmproj), not the model",
    }
)
"""What llama.cpp knows by name and what cannot answer a turn, by architecture."""
_TYPES = {
    "adapter": "a LoRA adapter, not the model that it adapts",
    "mmproj": NOT_ANSWERING["clip"],
    "imatrix": "an importance matrix for quantising, not a model",
    "vocab": "a vocabulary without a model",
}
_RANK = 4


class ModelFileError(TurnpikeError):
    """A GGUF file that is missing, truncated, not one, or not of a model that answers."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"model file {path}: {reason}")


class _Reader:
    """Values in order, from a file's bytes."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4

    def number(self, form: str) -> int | float | bool:
        (value,) = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        found: int | float | bool = value
        return found

    def text(self) -> str:
        length = int(self.number("Q"))
        if length > len(self._data) - self._at:
            raise struct.error("a text longer than the file")
        value = self._data[self._at : self._at + length].decode("utf-8", "replace")
        self._at += length
        return value

    def value(self, kind: int) -> Value | None:
        """A scalar; None for an array, which is passed over."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, count = int(self.number("I")), int(self.number("Q"))
        if inner in _SCALARS:
            self._at += struct.calcsize(_SCALARS[inner]) * count
        else:
            for _ in range(count):
                self.value(inner)
        return None


def metadata(path: Path) -> dict[str, Value]:
    """The scalars of a file's header, and the number of its tensors as `tensors`. Raises ModelFileError."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelFileError(path, "is not a GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _metadata(path, data)
    except FileNotFoundError:
        raise ModelFileError(path, "there is no such file") from None
    except IsADirectoryError:
        raise ModelFileError(path, "is a folder") from None
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror or error}") from None
    except (struct.error, KeyError, IndexError, RecursionError, OverflowError):
        raise ModelFileError(path, "is damaged, or was cut off in its header") from None


def _metadata(path: Path, data: mmap.mmap) -> dict[str, Value]:
    reader = _Reader(data)
    version = int(reader.number("I"))
    if version & 0xFFFF == 0:
        raise ModelFileError(path, "is of the other byte order")
    num_tensors, num_values = int(reader.number("Q")), int(reader.number("Q"))
    if num_values > MAX_KEY_VALUES:
        raise ModelFileError(path, "is damaged: its header tells of too many values")
    found: dict[str, Value] = {"tensors": num_tensors}
    for _ in range(num_values):
        key = reader.text()
        value = reader.value(int(reader.number("I")))
        if value is not None:
            found[key] = value
    return found


def parts_of(path: Path) -> list[Path]:
    """The files of a model of which `path` is one, the first one first. Raises ModelFileError where one is missing."""
    found = metadata(path)
    count, number = found.get("split.count", 1), found.get("split.no", 0)
    number = number if isinstance(number, int) else 0
    if not isinstance(count, int) or count <= 1:
        return [path]
    named = _PART.fullmatch(path.name)
    if named is None or int(named[3]) != count or count > MAX_PARTS:
        raise ModelFileError(
            path,
            f"is part {number + 1} of {count}, and the name does not say so:"
            f" the parts of a model are called NAME-00001-of-{count:05d}.gguf and so on",
        )
    parts = [path.with_name(f"{named[1]}-{index:05d}-of-{count:05d}.gguf") for index in range(1, count + 1)]
    missing = [one.name for one in parts if not one.is_file()]
    if missing:
        raise ModelFileError(path, f"is one of {count} parts, and beside it is no {', '.join(missing)}")
    for index, part in enumerate(parts):
        if part != path and metadata(part).get("split.no") != index:
            raise ModelFileError(part, f"does not say of itself that it is part {index + 1} of {count}")
    return parts


def answering_parts(path: Path) -> list[Path]:
    """As `parts_of`; raises ModelFileError for what cannot answer a turn too."""
    parts = parts_of(path)
    if (reason := why_not(metadata(parts[0]))) is not None:
        raise ModelFileError(parts[0], f"is {reason}")
    return parts


def why_not(found: dict[str, Value]) -> str | None:
    """What a file is instead of a model that answers; None for one that may be."""
    architecture = str(found.get("general.architecture", ""))
    kind = _TYPES.get(str(found.get("general.type", "")))
    pooling = found.get(f"{architecture}.pooling_type", found.get(f"{architecture}.classifier.pooling_type", 0))
    if kind is not None:
        return kind
    if pooling == _RANK:
        return "a reranker, which makes a score and no text"
    if architecture in NOT_ANSWERING:
        return NOT_ANSWERING[architecture]
    if pooling and isinstance(pooling, int):
        return _EMBEDDING
    if found.get(f"{architecture}.attention.causal") is False:
        return _EMBEDDING
    if not architecture:
        return "no model: it names no architecture"
    if not found["tensors"] and not found.get("split.count"):
        return "a vocabulary without a model"
    return None
