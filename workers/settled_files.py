"""What is known of a file for as long as it is the same one: by what the system says of it, without reading it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from broker.catalogue import sha256_of
from workers.kept import keep

SETTLED_SECONDS = 2.0
"""Within a tick of the file system's clock a file may change and look the same."""
BOOT = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int, int, int]


def stamp_of(path: Path) -> Stamp | None:
    """Another one once the file is another, or was written to: no program can set back when that was. None while it may
    still change unseen. Raises OSError."""
    found = path.stat()
    if time.time() - max(found.st_mtime, found.st_ctime) < SETTLED_SECONDS:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Checked:
    """Which bytes files have that were read on this machine, since it was started: a disk is not trusted for ever. Kept
    in a file of this user's alone; what is not known is computed."""

    def __init__(self, kept: Path, boot: Path = BOOT) -> None:
        self._kept = kept
        self._boot = ""
        with contextlib.suppress(OSError):
            self._boot = boot.read_text().strip()

    def sha256(self, path: Path, heard: Callable[[int], None] = lambda _: None) -> str:
        """Of a file's bytes. `heard` is told of them as they are read, or passed over. Blocks; raises OSError."""
        stamp = stamp_of(path)
        key = None if stamp is None or not self._boot else f"{self._boot} {path.resolve()} {stamp}"
        if key is not None and (known := self._read().get(key)) is not None:
            heard(path.stat().st_size)
            return known
        found = sha256_of(path, heard)
        if key is not None and stamp_of(path) == stamp:
            self._keep(key, found)
        return found

    def _read(self) -> dict[str, str]:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode(self._kept.read_bytes(), type=dict[str, str])
        return {}

    def _keep(self, key: str, sha256: str) -> None:
        known = {one: found for one, found in self._read().items() if one.startswith(self._boot)} | {key: sha256}
        keep(self._kept, known)
