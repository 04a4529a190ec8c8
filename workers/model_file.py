"""What a GGUF file says of itself before llama.cpp is given it: whether it can answer at all, and where its parts are.

llama.cpp takes files for models that are none and aborts the process with some of them, and of a model in several files
it wants the first. Only headers are read here.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path

from broker.errors import TurnpikeError
from workers.gguf_header import Header, HeaderError, Value, read_header
from workers.settled_files import Stamp, stamp_of

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_BLOCK = re.compile(r"blk\.(\d+)\.")
MAX_PARTS = 1000
MAX_KNOWN = 8
"""Headers that are kept: of a model's load each is asked for several times, and a vocabulary takes a while to read."""

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
        "controlvector": "a control vector, not the model that it steers",
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
_POOLED = (1, 2, 3)
"""Mean, first and last token: pooling types of llama.h."""


class ModelFileError(TurnpikeError):
    """A GGUF file that is missing, truncated, not one, or not of a model that answers."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"model file {path}: {reason}")


def header(path: Path) -> Header:
    """What a file says of itself; read again only where it may be another than before. Raises ModelFileError."""
    try:
        with contextlib.suppress(OSError):
            if (stamp := stamp_of(path)) is not None:
                return _known_header(path, stamp)
        return read_header(path)
    except HeaderError as error:
        raise ModelFileError(path, str(error)) from None


@functools.lru_cache(maxsize=MAX_KNOWN)
def _known_header(path: Path, stamp: Stamp) -> Header:
    return read_header(path)


def metadata(path: Path) -> dict[str, Value]:
    """The scalars of a file's header, and the number of its tensors as `tensors`. Raises ModelFileError."""
    return header(path).values


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


def answering_parts(path: Path, known: Container[str] | None = None) -> list[Path]:
    """As `parts_of`; raises ModelFileError for what cannot answer a turn too.

    `known` are the architectures that there are, where it is not llama.cpp itself that will tell.
    """
    return _whole_parts(path, known, why_not)


def served_parts(path: Path, known: Container[str] | None = None) -> list[Path]:
    """As `answering_parts`, and for a model that makes vectors of texts too."""
    return _whole_parts(path, known, why_not_served)


def embeds(path: Path) -> bool:
    """Whether the file's model makes vectors of texts, and none. Raises ModelFileError."""
    parts = parts_of(path)
    return why_not(header(parts[0]).values, _names(parts)) == _EMBEDDING


def _whole_parts(
    path: Path,
    known: Container[str] | None,
    why: Callable[[dict[str, Value], Sequence[str], Container[str] | None], str | None],
) -> list[Path]:
    parts = parts_of(path)
    reason = why(header(parts[0]).values, _names(parts), known)
    if reason is not None:
        raise ModelFileError(parts[0], f"is {reason}")
    for part in parts:
        one = header(part)
        if one.needed_bytes > one.file_bytes:
            raise ModelFileError(
                part, f"is corrupted or incomplete: it has {one.file_bytes:,} bytes of {one.needed_bytes:,}"
            )
    return parts


def _names(parts: Iterable[Path]) -> list[str]:
    return [tensor.name for part in parts for tensor in header(part).tensors]


def weight_bytes(parts: Iterable[Path]) -> int:
    """Of the tensors in a model's files: the rest of a file is read at the start and not kept as it is. Raises
    ModelFileError."""
    return sum(tensor.num_bytes for part in parts for tensor in header(part).tensors)


def why_not(found: dict[str, Value], tensors: Sequence[str] = (), known: Container[str] | None = None) -> str | None:
    """What a file is instead of a model that answers; None for one that may be.

    `tensors` are the names of those in all its parts, `known` the architectures that there are.
    """
    architecture = str(found.get("general.architecture", ""))
    pooling = found.get(f"{architecture}.pooling_type", found.get(f"{architecture}.classifier.pooling_type", 0))
    if (kind := _TYPES.get(str(found.get("general.type", ""))) or _kind_of_another(found, tensors)) is not None:
        return kind
    if pooling == _RANK or any(name.startswith("cls.") for name in tensors):
        return "a reranker, which makes a score and no text"
    if architecture in NOT_ANSWERING:
        return NOT_ANSWERING[architecture]
    if pooling in _POOLED or found.get(f"{architecture}.attention.causal") is False:
        return _EMBEDDING
    if any(name.startswith(("dense_2.", "dense_3.")) for name in tensors):
        return _EMBEDDING
    return _why_no_model(found, tensors, known) or (
        _DRAFT if _is_draft(found.get(f"{architecture}.nextn_predict_layers"), found, tensors) else None
    )


def why_not_served(
    found: dict[str, Value], tensors: Sequence[str] = (), known: Container[str] | None = None
) -> str | None:
    """As `why_not`, of a model that answers or makes vectors."""
    reason = why_not(found, tensors, known)
    return _why_no_model(found, tensors, known) if reason == _EMBEDDING else reason


def _why_no_model(found: dict[str, Value], tensors: Sequence[str], known: Container[str] | None) -> str | None:
    architecture = str(found.get("general.architecture", ""))
    if not architecture:
        return "no model: it names no architecture"
    if known is not None and architecture not in known:
        return f"of the architecture {architecture[:64]!r}, which llama.cpp does not know here"
    if not found["tensors"] and not tensors and not found.get("split.count"):
        return _TYPES["vocab"]
    if found.get("tokenizer.ggml.model") in ("none", "no_vocab"):
        return "a model without a vocabulary, which neither reads text nor writes it"
    return None


def _kind_of_another(found: dict[str, Value], tensors: Sequence[str]) -> str | None:
    """By what its writer put into it where it does not say of itself what it is."""
    if "adapter.type" in found or any(name.endswith((".lora_a", ".lora_b")) for name in tensors):
        return _TYPES["adapter"]
    if any(key.startswith("imatrix.") for key in found) or any(name.endswith(".in_sum2") for name in tensors):
        return _TYPES["imatrix"]
    if any(key.startswith("clip.") for key in found):
        return NOT_ANSWERING["clip"]
    return None


def _is_draft(num_ahead: Value | None, found: dict[str, Value], tensors: Iterable[str]) -> bool:
    """Whether it has the layers that predict several tokens ahead and none of the model that they belong to."""
    architecture = found["general.architecture"]
    num_blocks = found.get(f"{architecture}.block_count")
    if not isinstance(num_ahead, int) or not isinstance(num_blocks, int) or num_ahead <= 0:
        return False
    blocks = [int(block[1]) for name in tensors if (block := _BLOCK.match(name))]
    return bool(blocks) and min(blocks) >= num_blocks - num_ahead
