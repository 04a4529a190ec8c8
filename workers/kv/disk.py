"""KV states in files of this worker's own folder, mode 0700: written whole or not at all, read only when all agrees.

A file is a magic number, the length of a JSON header, the header, what is remembered of the conversation, the tokens,
the state and its checkpoints. The header has the length and SHA-256 of each, so that no byte of a file that was cut,
changed or is another model's reaches llama.cpp.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Unpack

import msgspec
from msgspec import Struct

from broker import codec
from broker.errors import InvalidMessage, TurnpikeError
from broker.locks import Lock, Waiting
from broker.messages import CachedIn, CutPoint, Remembered
from workers.engine.protocol import State
from workers.kv.checks import StateLayout, checksum, cuts_checksum
from workers.kv.index import TOKEN_BYTES, Key, KvEntry, Tier, split

MAGIC = b"TPKV3\0\0\0"
OLDER_MAGIC = b"TPKV2\0\0\0"
"""Of files without checkpoints, which are read too."""
MAX_HEADER_BYTES = 4096
SUFFIX = ".kv"
PART = ".kv.part"
"""Of what is being written, or was when its process ended."""

log = logging.getLogger(__name__)


class Header(Struct, frozen=True):
    """What a file holds. `fingerprint` is of the model file and of all that decides how a state is laid out."""

    fingerprint: str
    client: str
    conversation: str
    num_tokens: int
    num_canonical: int
    num_bytes: int
    sha256: str
    """Of tokens and state."""
    num_remembered_bytes: int
    remembered_sha256: str
    cuts: tuple[CutPoint, ...] = ()
    cuts_sha256: str = ""

    @property
    def num_state_bytes(self) -> int:
        """With its checkpoints'."""
        return self.num_bytes + sum(one.num_bytes for one in self.cuts)


def nothing(key: Key) -> Remembered | None:
    """Of who keeps no memory of conversations."""
    return None


def to_nobody(key: Key, remembered: Remembered) -> None:
    """The same, the other way."""


def files_in(folder: Path) -> list[Path]:
    """Those of conversations, the longest unused first."""
    found = []
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]


class Disk:
    """The files of one model's worker, within a cap of bytes."""

    origin: CachedIn = "disk"
    """Where a turn that finds its state here is told to have found it."""
    stays_when_loaded = True
    """Whether a file stays that was read into RAM."""
    advice = "give this worker another --kv-dir"
    """For a worker that finds the folder in use."""

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        layout: StateLayout,
        recall: Callable[[Key], Remembered | None] = nothing,
    ) -> None:
        """`layout` is what this worker's states are like, `recall` says what is remembered of a conversation. Raises
        TurnpikeError."""
        self._folder = folder
        self._recall = recall
        self._layout = layout
        self.tier = Tier(max_bytes)
        self._paths: dict[Key, Path] = {}
        self._lock: Lock | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
        except OSError as error:
            raise TurnpikeError(f"no conversations can be kept in {folder}: {error.strerror or error}") from None

    def open(self, adopt: Callable[[Key, Remembered], None] = to_nobody, **waiting: Unpack[Waiting]) -> None:
        """Reads back what an earlier process left, the longest unused first; what is of no use is removed, with a line
        each. What was remembered of a conversation goes to `adopt`.

        From here on the folder is this worker's alone, until `close`; one that still stops may be waited for. Raises
        InUse, CannotLock."""
        if self._lock is None:
            self._lock = Lock.of(self._folder, "the folder of parked conversations", advice=self.advice, **waiting)
        for left in self._folder.glob(f"*{PART}"):
            left.unlink(missing_ok=True)
        for path in files_in(self._folder):
            try:
                entry, remembered = self._indexed(path)
            except (OSError, ValueError) as error:
                log.warning("discarded file=%s reason=%s", path.name, error)
                path.unlink(missing_ok=True)
                continue
            if remembered is not None:
                adopt(entry.key, remembered)
            self.keep(entry, path)

    def close(self) -> None:
        """Lets go of the folder; the files stay."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _indexed(self, path: Path) -> tuple[KvEntry, Remembered | None]:
        """What a file holds, and what is remembered with it. Raises OSError, and ValueError where anything does not
        agree."""
        header, tokens, end = self._head(path)
        remembered = self._remembered(path, header, end - len(tokens))
        status = path.stat()
        key = Key(header.client, header.conversation)
        entry = KvEntry(key, tokens, status.st_size, header.num_canonical, header.cuts, status.st_mtime)
        return entry, remembered

    def _head(self, path: Path) -> tuple[Header, bytes, int]:
        """Header, tokens, and where the state begins. Raises ValueError where anything does not agree."""
        with path.open("rb") as file:
            magic, rest = file.read(len(MAGIC) + 4), file.read(MAX_HEADER_BYTES)
            if magic[: len(MAGIC)] not in (MAGIC, OLDER_MAGIC) or len(magic) != len(MAGIC) + 4:
                raise ValueError("not a file of ours")
            (length,) = struct.unpack("<I", magic[len(MAGIC) :])
            if not 0 < length <= len(rest):
                raise ValueError("its header is cut")
            header = self._header(rest[:length])
            begin = len(magic) + length + header.num_remembered_bytes
            end = begin + header.num_tokens * TOKEN_BYTES
            if path.stat().st_size != end + header.num_state_bytes:
                raise ValueError(f"{path.stat().st_size} bytes, and its header tells of others")
            file.seek(begin)
            return header, file.read(end - begin), end

    def _remembered(self, path: Path, header: Header, end: int) -> Remembered | None:
        """What ends at `end`; raises ValueError where its bytes are not those that were written."""
        if not header.num_remembered_bytes:
            return None
        with path.open("rb") as file:
            file.seek(end - header.num_remembered_bytes)
            content = file.read(header.num_remembered_bytes)
        if hashlib.sha256(content).hexdigest() != header.remembered_sha256:
            raise ValueError("what is remembered with it has a wrong checksum")
        try:
            return codec.decode(content, Remembered)
        except InvalidMessage as error:
            # Whole, but of another release: the state is of use without it.
            log.warning("what is remembered is not understood file=%s error=%s", path.name, error)
            return None

    def _header(self, text: bytes) -> Header:
        try:
            header = msgspec.json.decode(text, type=Header)
        except msgspec.DecodeError as error:
            raise ValueError(f"its header cannot be read: {error}") from None
        self._layout.check_description(header.fingerprint, header.num_tokens, header.num_bytes)
        self._layout.check_cuts(header.cuts, header.num_tokens)
        if header.num_remembered_bytes < 0:
            raise ValueError(f"{header.num_remembered_bytes} bytes of what is remembered")
        return header

    def write(self, entry: KvEntry, state: State) -> Path:
        """Writes a state, whole or not at all; its file, which is as old as the state's last use. Blocks; raises
        OSError, and TurnpikeError where the folder is shared and cannot be had."""
        path = self._path(entry.key)
        used_at = entry.last_used
        parts = self._parts(entry, state)
        with self._room(path, sum(len(part) for part in parts), used_at):
            descriptor, temporary = tempfile.mkstemp(dir=self._folder, suffix=PART)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.writelines(parts)
                    file.flush()
                    os.fsync(file.fileno())
                os.utime(temporary, (used_at, used_at))
                os.replace(temporary, path)
                folder = os.open(self._folder, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        return path

    def _path(self, key: Key) -> Path:
        name = hashlib.sha256(f"{key.client}/{key.conversation}".encode()).hexdigest()[:32]
        return self._folder / f"{name}{SUFFIX}"

    def _parts(self, entry: KvEntry, state: State) -> tuple[State, ...]:
        """What its file has, in order."""
        remembered = self._recall(entry.key)
        content = codec.encode(remembered) if remembered is not None else b""
        whole, checkpoints = split(state, entry.cuts)
        header = Header(
            self._layout.fingerprint,
            entry.key.client,
            entry.key.conversation,
            entry.num_tokens,
            entry.num_canonical,
            len(whole),
            checksum(entry.tokens, whole),
            len(content),
            hashlib.sha256(content).hexdigest(),
            entry.cuts,
            cuts_checksum(checkpoints),
        )
        text = msgspec.json.encode(header)
        return MAGIC, struct.pack("<I", len(text)), text, content, entry.tokens, state

    def _room(self, path: Path, num_bytes: int, used_at: float) -> contextlib.AbstractContextManager[None]:
        """Entered while a file of so many bytes is written. Here a cap is kept by `keep`, once it is."""
        return contextlib.nullcontext()

    def keep(self, entry: KvEntry, path: Path) -> int:
        """Adds a written file to the index; how many others were removed for it."""
        self._paths[entry.key] = path
        gone = self.tier.put(entry)
        for one in gone:
            self._paths.pop(one.key).unlink(missing_ok=True)
        return len(gone)

    def has_file(self, key: Key) -> bool:
        """Whether a conversation's file was written, and is still there."""
        return key in self._paths and self._paths[key].exists()

    def read(self, entry: KvEntry) -> State | None:
        """A state with its checkpoints, where its bytes are those that were written; None, with a log line, where not.
        Blocks."""
        path = self._paths.get(entry.key)
        return self._read(path, entry) if path is not None else None

    def _read(self, path: Path, entry: KvEntry) -> State | None:
        try:
            header, tokens, begin = self._head(path)
            state = self._content(path, begin)
            if (tokens, header.cuts) != (entry.tokens, entry.cuts):
                raise ValueError("its tokens or checkpoints are others")
            self._layout.check_content(tokens, state, header.sha256, header.cuts, header.cuts_sha256)
        except (OSError, ValueError) as error:
            log.warning("discarded file=%s reason=%s", path.name, error)
            return None
        return state

    def _content(self, path: Path, begin: int) -> State:
        with path.open("rb") as file:
            file.seek(begin)
            return file.read()

    def forget(self, entry: KvEntry) -> int:
        """Removes a file, unless it was written anew; how many were."""
        if entry.key not in self.tier or self.tier[entry.key] is not entry:
            return 0
        self.tier.remove(entry.key)
        self._paths.pop(entry.key).unlink(missing_ok=True)
        return 1
