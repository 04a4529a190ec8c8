"""Locks on what two processes must not share. They end with their holder, however it ends, and say who that is.

The kernel's own (`flock`), on a file beside what is locked: a SIGKILL or a power cut leaves none behind. A child that
inherits the descriptor (`pass_fds`) holds the lock with its parent, until the last of them has gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

import msgspec
from msgspec import Struct

from broker.errors import TurnpikeError

LAST_BREATH_SECONDS = 10.0
"""How long the children of a holder that has gone may still have the lock, and are waited for."""
FACTS_SECONDS = 1.0
"""How long a holder may take to say who it is."""
POLL_SECONDS = 0.02
MAX_FACTS_BYTES = 4096
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_SECRET = re.compile(r"^--?[a-z-]*(?:token|password|secret)(?:=|$)")

log = logging.getLogger(__name__)


class Holder(Struct, frozen=True):
    """Who has a lock, by its own words in the lock's file."""

    pid: int
    host: str
    command: str
    since: float
    """By the wall clock."""

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.since, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        where = "" if self.host == socket.gethostname() else f" on {self.host}"
        return f"process {self.pid}{where} ({self.command}) since {when}"

    @property
    def has_gone(self) -> bool:
        """Whether there is no such process on this machine any more; of another machine's nothing is known."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        with contextlib.suppress(OSError):  # killed, and its parent has not looked yet
            return Path(f"/proc/{self.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[:1] == ["Z"]
        return False


class InUse(TurnpikeError):
    """Another process has what was to be locked. `holder` is None where it did not say who it is."""

    def __init__(self, what: str, holder: Holder | None, advice: str = "") -> None:
        self.what = what
        self.holder = holder
        super().__init__(
            f"{what} is in use by {holder or 'a process that does not say who it is'}"
            + (f": {advice}" if advice else "")
        )


class CannotLock(TurnpikeError):
    """No lock can be had there at all: a folder that is read-only, a file system without locks."""

    def __init__(self, what: str, path: Path, error: OSError) -> None:
        self.what = what
        self.is_for_want_of_locks = error.errno in _NO_LOCKS
        """Whether the file system has none, and not: whether nothing can be written there."""
        reason = f"{path}: {error.strerror or error}"
        if self.is_for_want_of_locks:
            reason = f"the file system of {path.parent} has no locks ({error.strerror}): choose a folder on another"
        super().__init__(f"{what} cannot be locked: {reason}")


class Waiting(TypedDict, total=False):
    """How long another holder is waited for, and what is called meanwhile, which may raise."""

    wait_seconds: float
    while_waiting: Callable[[], None]


class Lock:
    """Held from the constructor on, until `release` or the end of this process and of all that inherited it.

    `what` says in words what is locked, `path` is the lock's own file, in the folder that it is about; it is made and
    removed here. For `wait_seconds` another holder is waited for, with `while_waiting` called now and then, which may
    raise. Blocks; raises InUse, with `advice` on what to do instead, and CannotLock.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        *,
        advice: str = "",
        wait_seconds: float = 0.0,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._what = what
        try:
            self._descriptor: int | None = self._acquire(advice, wait_seconds, while_waiting)
        except OSError as error:
            raise CannotLock(what, path, error) from None

    @classmethod
    def of(
        cls,
        file: Path,
        what: str,
        *,
        advice: str = "",
        **waiting: Unpack[Waiting],
    ) -> Self:
        """A lock on one file, which need not be there yet: its own lies beside it."""
        return cls(
            file.with_name(f"{file.name}.lock"),
            f"{what} {file}",
            advice=advice,
            **waiting,
        )

    def _acquire(self, advice: str, wait_seconds: float, while_waiting: Callable[[], None]) -> int:
        began = time.monotonic()
        is_told = False
        while (descriptor := _try(self._path)) is None:
            holder = _holder(self._path)
            patience = wait_seconds
            if holder is None:
                patience = max(patience, FACTS_SECONDS)
            elif holder.has_gone:
                patience = max(patience, LAST_BREATH_SECONDS)
            if time.monotonic() - began >= patience:
                raise InUse(self._what, holder, advice)
            if wait_seconds and not is_told:
                log.info("waiting what=%s holder=%s", self._what, holder)
                is_told = True
            while_waiting()
            time.sleep(POLL_SECONDS)
        # Without room for them on the disk the lock is held all the same.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, msgspec.json.encode(_facts()), 0)
        return descriptor

    def fileno(self) -> int:
        """For `pass_fds`: a child that gets it holds the lock too."""
        assert self._descriptor is not None
        return self._descriptor

    def release(self) -> None:
        """Lets go, where no child holds it too. Twice does no harm."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        # Before the descriptor is closed, and so while nobody else has it: who waits looks again (_try). Not unlocked
        # but closed: LOCK_UN would take it from a child as well.
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether somebody has the lock whose file this is. Makes no file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


def _try(path: Path) -> int | None:
    """The descriptor of the locked file; None while somebody else has it. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The holder before removed its file: what is locked now must be the one that others find.
        found = os.stat(path, follow_symlinks=False)
        ours = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
            return descriptor
    except FileNotFoundError:
        pass
    except OSError as error:
        # EACCES is what some network file systems say instead.
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            os.close(descriptor)
            raise
    os.close(descriptor)
    return None


def _holder(path: Path) -> Holder | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_FACTS_BYTES), type=Holder)
    except (OSError, msgspec.DecodeError):
        return None


def _facts() -> Holder:
    return Holder(os.getpid(), socket.gethostname(), command_line(sys.argv), time.time())


def command_line(arguments: Sequence[str]) -> str:
    """A command as one line for people, without the passwords in it and not longer than a terminal is wide or two."""
    words, is_secret = [], False
    for index, word in enumerate(arguments):
        if is_secret:
            word = "…"
        elif _SECRET.match(word) and "=" in word:
            word = word.partition("=")[0] + "=…"
        is_secret = bool(_SECRET.match(word)) and "=" not in word
        words.append(Path(word).name if index == 0 else re.sub(r"://[^/\s@]*@", "://…@", word))
    line = "".join(one if one.isprintable() else "?" for one in " ".join(words))
    return line if len(line) <= 160 else line[:159] + "…"
