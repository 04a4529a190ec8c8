"""One model's conversations in its board's memory: a tier below RAM that outlives the model's worker.

A worker has it as a disk; who only gives of it reads each time what is there just now.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from broker.errors import TurnpikeError
from broker.locks import Waiting
from broker.messages import CachedIn, Remembered
from workers.engine.protocol import State
from workers.kv.board_folder import BoardFolder
from workers.kv.checks import StateLayout
from workers.kv.disk import Disk, files_in, nothing, to_nobody
from workers.kv.index import Key, KvEntry

UNBOUNDED = 1 << 62
"""Of one model: the bound is that of the folder, over all models."""


def giver_name(board: str, model: str) -> str:
    """Under which a board gives a model's conversations, in the place of a worker's name: one token, whatever the
    length of both."""
    name = f"{board}-{model}-kept"
    return name if len(name) <= 64 else f"{name[:26]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}-kept"


class BoardStore(Disk):
    """The files of one model. What is taken into a worker's RAM is removed: it is memory here as there."""

    origin: CachedIn = "board"
    stays_when_loaded = False
    advice = "a board has one worker of each model"

    def __init__(
        self,
        folder: BoardFolder,
        model: str,
        layout: StateLayout,
        recall: Callable[[Key], Remembered | None] = nothing,
    ) -> None:
        """`layout` and `recall` are as Disk has them. Raises TurnpikeError."""
        super().__init__(folder.of(model), UNBOUNDED, layout, recall)
        self._board = folder
        self._model = model

    def open(self, adopt: Callable[[Key, Remembered], None] = to_nobody, **waiting: Unpack[Waiting]) -> None:
        """As a disk; and the folder says from now on what this worker's states are like."""
        super().open(adopt, **waiting)
        try:
            self._board.describe(self._model, self._layout)
        except OSError as error:
            raise TurnpikeError(f"no conversations can be kept in {self._folder}: {error.strerror or error}") from None

    @property
    def giver(self) -> str | None:
        """Under which name the board gives what is left here; None where it does not say who it is."""
        board = self._board.board
        return None if board is None else giver_name(board, self._model)

    @contextlib.contextmanager
    def _room(self, path: Path, num_bytes: int, used_at: float) -> Iterator[None]:
        with self._board.room(path, num_bytes, used_at) as has_room:
            if not has_room:
                raise OSError(errno.ENOSPC, "what was used since has all of the board's bound")
            yield

    def _content(self, path: Path, begin: int) -> State:
        """Mapped, not copied: it is in memory. What is removed meanwhile stays until nobody has it any more."""
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[begin:]


@dataclass(frozen=True)
class _Found:
    """A file, and what it holds."""

    path: Path
    entry: KvEntry
    remembered: Remembered | None


class KeptStates(BoardStore):
    """Implements workers.kv.engine_port.States, without the folder's lock and without an index: a worker may write here
    meanwhile, or take up what it finds. All of it blocks, as long as a disk does."""

    def __init__(self, folder: BoardFolder, model: str, layout: StateLayout, disk: Path | None = None) -> None:
        """With what the model's worker has left on its `disk`, too. Raises TurnpikeError."""
        super().__init__(folder, model, layout)
        self._folders = [self._folder] if disk is None else [self._folder, disk / model]

    @property
    def layout(self) -> StateLayout:
        """What its states are like."""
        return self._layout

    @property
    def max_bytes(self) -> int:
        """As much as there may be of all models."""
        return max(1, self._board.max_bytes)

    def keys(self) -> list[Key]:
        """Of all conversations here, the longest unused first."""
        found = (self._found(path) for folder in reversed(self._folders) for path in files_in(folder))
        return [*dict.fromkeys(one.entry.key for one in found if one is not None)]

    def entry_of(self, key: Key) -> KvEntry | None:
        """What of a conversation is here; the longest."""
        found = self._best(key)
        return found.entry if found is not None else None

    def copy_of(self, key: Key) -> tuple[KvEntry, State] | None:
        """A conversation's state, mapped."""
        if (found := self._best(key)) is None or (state := self._read(found.path, found.entry)) is None:
            return None
        return replace(found.entry, num_bytes=len(state)), state

    def recall(self, client: str, conversation: str) -> Remembered | None:
        """What is remembered of a conversation that is here."""
        found = self._best(Key(client, conversation))
        return found.remembered if found is not None else None

    def _best(self, key: Key) -> _Found | None:
        name = self._path(key).name
        found = [one for folder in self._folders if (one := self._found(folder / name)) is not None]
        return max(found, key=lambda one: one.entry.num_tokens, default=None)

    def _found(self, path: Path) -> _Found | None:
        try:
            return _Found(path, *self._indexed(path))
        except (OSError, ValueError):
            return None
