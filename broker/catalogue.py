"""The models that Turnpike knows by name, and the lock file that says which bytes they are.

The catalogue names them; `lock` (broker/hub.py) turns names into a full revision and a SHA-256; what a node runs is
what its lock file says, until somebody locks again.
"""

from __future__ import annotations

import hashlib
import logging
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

from broker import subjects
from broker.errors import TurnpikeError
from broker.settings import suggestion
from broker.toml_files import read_toml

CATALOGUE = Path(__file__).with_name("catalogue.toml")
SHIPPED = "demo"
"""The model that comes with the worker's package: no catalogue and no lock file has it."""
PIECE_BYTES = 1024 * 1024
_HEADER = "# Written by `turnpike models lock`: what each name stands for, to the byte.\n"


Memory = Literal["full", "sliding-window", "recurrent", "none"]
"""What a model keeps of a conversation; none: it makes vectors of texts."""
Kind = Literal["model", "dataset"]

log = logging.getLogger(__name__)


def _by_nobody(num_bytes: int) -> None:
    pass


class UnknownModel(TurnpikeError):
    """A name that neither catalogue nor lock file has."""

    def __init__(self, token: str, where: str, known: list[str], cure: str = "") -> None:
        self.token = token
        text = f"{token} is not in {where}, which has: {', '.join(known) or 'nothing'}{suggestion(token, known)}"
        super().__init__(
            f"{token} ships with Turnpike: it needs no lock and no pull" if token == SHIPPED else text + cure
        )


class CatalogueError(TurnpikeError):
    """A catalogue or lock file that cannot be read."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class FileError(TurnpikeError):
    """A model's or data set's file that cannot be had as it should be."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what}: {reason}")


class Missing(FileError):
    """A file that is not on this node and may not be fetched."""


class WrongHash(FileError):
    """Bytes that are not those of the lock file; they were removed, unless `kept` says why they could not be."""

    def __init__(self, what: str, expected: str, found: str, kept: str = "") -> None:
        self.expected = expected
        self.found = found
        became = f"not removed ({kept})" if kept else "removed"
        super().__init__(what, f"has SHA-256 {found}, the lock file says {expected}: {became}")


class Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """A model of the catalogue; broker/catalogue.toml says what the fields mean."""

    name: str
    family: str
    repository: str
    file: str
    quantization: str
    context: int
    size_bytes: int
    kv_bytes_per_token: int
    shape: tuple[int, int, int, int, int]
    """Layers, embedding, heads, feed-forward, vocabulary."""
    memory: Memory
    template: str
    licence: str
    checked: str
    chat_template: str = ""
    """The worker's name (workers/prompts/templates) of the one that it takes where the file has none."""
    window: int = 0
    window_bytes_per_token: int = 0
    state_bytes: int = 0
    active_bytes: int = 0

    @property
    def read_bytes(self) -> int:
        """Of the weights, for each token: less than the file where a token uses some of many experts."""
        return self.active_bytes or self.size_bytes


class LockedFile(Struct, frozen=True):
    """One of the files of a model that was split."""

    file: str
    sha256: str
    size_bytes: int


class Locked(Struct, frozen=True, forbid_unknown_fields=True):
    """A file, to the byte. `revision` is a full commit hash; `kind` tells a model's repository from a data set's.

    A model in several files has all of them in `files`, in order; `file`, `sha256` and `size_bytes` are the first
    one's, which is what a release that knows of one file only reads.
    """

    repository: str
    revision: str
    file: str
    sha256: str
    size_bytes: int
    kind: Kind = "model"
    files: tuple[LockedFile, ...] = ()

    def __post_init__(self) -> None:
        if self.files and self.files[0] != LockedFile(self.file, self.sha256, self.size_bytes):
            raise ValueError("files: the first one is not the file that the row names")

    @property
    def each(self) -> tuple[Locked, ...]:
        """Its files as if each were alone."""
        return tuple(
            msgspec.structs.replace(self, file=one.file, sha256=one.sha256, size_bytes=one.size_bytes, files=())
            for one in self.files
        ) or (self,)

    @property
    def total_bytes(self) -> int:
        """Of all its files."""
        return sum(one.size_bytes for one in self.each)

    @property
    def digest(self) -> str:
        """The file's SHA-256; of several the SHA-256 of theirs, a line each."""
        if not self.files:
            return self.sha256
        return hashlib.sha256("".join(f"{one.sha256}\n" for one in self.files).encode()).hexdigest()

    def path_in(self, folder: Path, token: str) -> Path:
        """Where the file, the first one, lies in a node's folder: its name says what it is, so two versions do not
        meet."""
        return self.paths_in(folder, token)[0]

    def paths_in(self, folder: Path, token: str) -> list[Path]:
        """Where its files lie, under the names by which llama.cpp finds the others of the first one."""
        stem, suffix = f"{token}-{self.digest[:12]}", "".join(Path(self.file).suffixes[-1:])
        if not self.files:
            return [folder / f"{stem}{suffix}"]
        count = len(self.files)
        return [folder / f"{stem}-{number:05d}-of-{count:05d}{suffix}" for number in range(1, count + 1)]


def read_catalogue(path: Path = CATALOGUE) -> dict[str, Entry]:
    """Token → entry, in the file's order. Raises CatalogueError."""
    return {token: _entry(path, token, row, Entry) for token, row in _rows(path).items()}


def known_models(own: Path) -> dict[str, Entry]:
    """The shipped catalogue and one's own, which wins where both have a name. Raises CatalogueError."""
    return read_catalogue() | (read_catalogue(own) if own.exists() else {})


def write_catalogue(path: Path, entries: dict[str, Entry]) -> None:
    """Writes the file whole, or not at all."""
    lines = ["# Written by `turnpike models add`: models besides those that Turnpike knows.\n"]
    for token, entry in entries.items():
        lines.append(f"[{token}]")
        lines += [f"{name} = {_toml(value)}" for name, value in msgspec.to_builtins(entry).items()]
        lines.append("")
    part = path.with_name(f"{path.name}.part")
    part.write_text("\n".join(lines))
    part.replace(path)


def read_lock(path: Path, *, to_write: bool = False) -> dict[str, Locked]:
    """Token → locked file. Raises CatalogueError, also when there is no such file.

    What a later release wrote is read as far as it is understood: a row of a kind that is not known here is left out,
    with a warning. Not where the file is to be written anew, which would lose it: then that is an error.
    """
    if not path.exists():
        raise CatalogueError(
            path.absolute(), "there is no such file: turnpike models lock NAME makes it, --lock-file names another"
        )
    found = {}
    for token, row in _rows(path).items():
        later = _of_a_later_release(row)
        if later and to_write:
            raise CatalogueError(path, f"{token}: {later}, of a later release: lock with that one")
        if later:
            log.warning("lock file=%s %s: %s, of a later release", path, token, later)
            row = {name: value for name, value in row.items() if name in Locked.__struct_fields__}
            if row.get("kind", "model") not in get_args(Kind):
                continue
        found[token] = _entry(path, token, row, Locked)
    return found


def locked_as(token: str, path: Path, also: Iterable[str] = ()) -> Locked:
    """What a lock file says that a name stands for. `also` names what can be locked and is no model of the catalogue.

    Raises UnknownModel, first of all for a name that nobody could lock, and CatalogueError.
    """
    known = [*read_catalogue(), *also]
    try:
        locked = read_lock(path)
    except CatalogueError as error:
        if path.exists() or token in known:
            raise
        raise UnknownModel(token, "the catalogue", known, f"; {error}") from None
    if token in locked:
        return locked[token]
    cure = f"`turnpike models lock {token}` adds it"
    nothing = f"nor is it in the catalogue{suggestion(token, known)}"
    raise UnknownModel(token, str(path), list(locked), f"; {cure if token in known else nothing}")


def _of_a_later_release(row: object) -> str:
    """What a row has that is not known here; empty where all of it is."""
    if not isinstance(row, dict):
        return ""
    if isinstance(kind := row.get("kind"), str) and kind not in get_args(Kind):
        return f"the kind {kind!r}"
    unknown = sorted(row.keys() - set(Locked.__struct_fields__))
    return f"the field {unknown[0]!r}" if unknown else ""


def write_lock(path: Path, locked: dict[str, Locked]) -> None:
    """Writes the lock file whole, or not at all."""
    lines = [_HEADER]
    for token, entry in sorted(locked.items()):
        lines.append(f"[{token}]")
        for name, value in msgspec.to_builtins(entry).items():
            if name != "files":
                lines.append(f"{name} = {_toml(value)}")
            elif value:
                rows = ",\n".join(
                    "  { " + ", ".join(f"{k} = {_toml(v)}" for k, v in one.items()) + " }" for one in value
                )
                lines.append(f"files = [\n{rows},\n]")
        lines.append("")
    part = path.with_name(f"{path.name}.part")
    part.write_text("\n".join(lines))
    part.replace(path)


def _toml(value: str | int | list[int]) -> str:
    return str(value) if isinstance(value, int) else msgspec.json.encode(value).decode()


def verify(
    token: str,
    wanted: Locked,
    folder: Path,
    heard: Callable[[int], None] = _by_nobody,
    sha256: Callable[[Path, Callable[[int], None]], str] | None = None,
) -> Path:
    """The path of the file, or of the first of several, where all their bytes are those of the lock file.

    `heard` is told of bytes as they are read; `sha256` says what is known of a file, instead of reading it. Raises
    Missing, and WrongHash having removed the file that is wrong.
    """
    paths = wanted.paths_in(folder, token)
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise Missing(token, f"{', '.join(missing)} {are} not in {folder}: turnpike models pull {token}")
    for path, one in zip(paths, wanted.each, strict=True):
        verify_file(token, one, path, heard, sha256)
    return paths[0]


def verify_file(
    token: str,
    wanted: Locked,
    path: Path,
    heard: Callable[[int], None] = _by_nobody,
    sha256: Callable[[Path, Callable[[int], None]], str] | None = None,
) -> Path:
    """One file's path where its bytes are those of the lock file; raises WrongHash, having removed it where it may."""
    found = (sha256 or sha256_of)(path, heard)
    if found != wanted.sha256:
        kept = ""
        try:
            path.unlink()
        except OSError as error:  # a folder that others look after
            kept = error.strerror or str(error)
        what = token if path.stem.endswith(wanted.sha256[:12]) else f"{token}: {path.name}"
        raise WrongHash(what, wanted.sha256, found, kept)
    return path


def sha256_of(path: Path, heard: Callable[[int], None] = _by_nobody) -> str:
    """In pieces: a file is larger than a Pi's memory. `heard` is told how long each one is."""
    digest, piece = hashlib.sha256(), memoryview(bytearray(PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(piece):
            digest.update(piece[:num_bytes])
            heard(num_bytes)
    return digest.hexdigest()


def entry_of[T](token: str, entries: dict[str, T], where: str) -> T:
    """Raises UnknownModel."""
    if token not in entries:
        raise UnknownModel(token, where, list(entries))
    return entries[token]


def _rows(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except OSError as error:
        raise CatalogueError(path, error.strerror or str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogueError(path, str(error)) from None


def _entry[T: Struct](path: Path, token: str, row: object, kind: type[T]) -> T:
    try:
        subjects.token(token, "model")
        return msgspec.convert(row, kind)
    except (msgspec.ValidationError, TurnpikeError) as error:
        raise CatalogueError(path, f"{token}: {error}") from None
