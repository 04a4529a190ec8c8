"""A board's memory for conversations: a folder in RAM with one folder a model in it, within one bound over all of them.

A worker that makes room for another model leaves its conversations here; the next worker of that model finds them, and
while there is none the board gives them to other boards' workers. Several processes write at once: who does has the
folder's lock, and first removes what was unused for longer, of whatever model.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from broker import subjects
from broker.accounts import write_private
from broker.errors import InvalidName, TurnpikeError
from broker.locks import Lock
from workers.kv.checks import StateLayout
from workers.kv.disk import PART, SUFFIX

BOUND = ".bound"
"""The file that says how many bytes there may be, …"""
BOARD = ".board"
"""… and the one that says whose folder it is. No model has such a name."""
LAYOUT = "layout.json"
"""In a model's folder: what the states in it are like."""
LOCK_SECONDS = 60.0
"""How long others are waited for; each writes one state at a time."""
BOUND_SECONDS = 3.0
"""How long a board waits for them, which has its workers to look after: whoever writes may be one that is stuck."""


class BoardFolder:
    """The folder as the board and its workers have it. All of it blocks, but not for long."""

    def __init__(self, path: Path) -> None:
        """Makes it, mode 0700. Raises TurnpikeError where that cannot be, or it is somebody else's: the folder above,
        /dev/shm for example, is everybody's."""
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise TurnpikeError(f"no conversations can be kept in {path}: it is not a folder of this user's")
            path.chmod(0o700)
        except OSError as error:
            raise TurnpikeError(f"no conversations can be kept in {path}: {error.strerror or error}") from None

    def of(self, model: str) -> Path:
        """The folder of one model's conversations."""
        return self.path / model

    @property
    def models(self) -> list[str]:
        """Those that there are conversations of."""
        return sorted({path.parent.name for path in self.path.glob(f"*/*{SUFFIX}")})

    @property
    def max_bytes(self) -> int:
        """The bound as the board has set it last; 0 where it has set none."""
        try:
            return max(0, int((self.path / BOUND).read_text()))
        except (OSError, ValueError):
            return 0

    @property
    def board(self) -> str | None:
        """Whose it is; None where no board has said so."""
        with contextlib.suppress(OSError, InvalidName):
            return subjects.token((self.path / BOARD).read_text(), "board")
        return None

    def belongs_to(self, board: str) -> None:
        """From now on. Raises TurnpikeError."""
        try:
            write_private(self.path / BOARD, board.encode())
        except OSError as error:
            raise self._broken(error) from None

    @property
    def num_bytes(self) -> int:
        """Of all files that are here."""
        return sum(size for _, size, _ in self._files())

    def bound(self, max_bytes: int) -> int:
        """Sets how many bytes there may be from now on, and removes what was unused for longest until there are no
        more; how many are left. Raises TurnpikeError."""
        try:
            write_private(self.path / BOUND, b"%d" % max_bytes)
            with self._writing(BOUND_SECONDS):
                return _shrink(self._files(), max_bytes)
        except OSError as error:
            raise self._broken(error) from None

    def _broken(self, error: OSError) -> TurnpikeError:
        return TurnpikeError(f"{self.path} is of no use for conversations: {error.strerror or error}")

    @contextlib.contextmanager
    def room(self, path: Path, num_bytes: int, used_at: float) -> Iterator[bool]:
        """Whether a file of so many bytes has room beside those that were used since; what was unused for longer goes
        for it, and the file of that name is replaced by it. While it is entered nobody else writes. Raises OSError,
        TurnpikeError."""
        with self._writing():
            others = [one for one in self._files() if one[2] != path]
            most = self.max_bytes - num_bytes
            has_room = sum(size for since, size, _ in others if since >= used_at) <= most
            if has_room:
                _shrink(others, most, used_at)
            yield has_room

    def layout(self, model: str) -> StateLayout | None:
        """What the states of a model are like; None where there are none."""
        try:
            return msgspec.json.decode((self.of(model) / LAYOUT).read_bytes(), type=StateLayout)
        except (OSError, msgspec.DecodeError):
            return None

    def describe(self, model: str, layout: StateLayout) -> None:
        """Says what the states of a model are like, for who has no worker to ask. Raises OSError."""
        write_private(self.of(model) / LAYOUT, msgspec.json.encode(layout))

    @contextlib.contextmanager
    def _writing(self, wait_seconds: float = LOCK_SECONDS) -> Iterator[None]:
        with Lock(self.path / ".lock", f"the board's folder {self.path}", wait_seconds=wait_seconds):
            for left in self.path.glob(f"*/*{PART}"):  # whoever wrote it was killed
                left.unlink(missing_ok=True)
            yield

    def _files(self) -> list[tuple[float, int, Path]]:
        """When each was last used, its bytes, and itself: the longest unused first."""
        found = []
        for path in self.path.glob(f"*/*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # its worker has taken it meanwhile
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return sorted(found)


def _shrink(files: Sequence[tuple[float, int, Path]], max_bytes: int, before: float = math.inf) -> int:
    """Removes of these the longest unused, and none that was used since, until they have no more bytes than that; how
    many they have then."""
    num_bytes = sum(size for _, size, _ in files)
    for used_at, size, path in files:
        if num_bytes <= max_bytes or used_at >= before:
            break
        path.unlink(missing_ok=True)
        num_bytes -= size
    return num_bytes
