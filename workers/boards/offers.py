"""Which models a board may load, by their names: the files that are here, and the memory that each would take. By what
files say of themselves; no byte of a tensor is read, and nothing is verified before it is loaded."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import msgspec

from broker.catalogue import Locked, locked_as, read_lock
from broker.discovery import EMBED
from broker.errors import TurnpikeError
from broker.messages.boards import NO_FILE, ModelFile
from workers.boards.file_facts import FileFacts, facts_of_files
from workers.boards.settings import BoardSettings
from workers.machine.memory import MemoryPlan
from workers.models import DEMO

PARKED_SHARE = 4
"""One byte in so many of a board's is for conversations at rest, of all its models."""

AGAIN_SECONDS = 60.0
"""A file that was no good is looked into again after so long, though it is the same: a draft model's may be another."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """A model that this board may load."""

    model: str
    digest: str
    """Of its bytes, as they are locked."""
    stamp: tuple[tuple[str, int, int], ...]
    """Its files' names, sizes and times: once they are others, what is known of it is not any more."""
    file_bytes: int
    plan: MemoryPlan | None = None
    """None where it cannot be loaded."""
    reason: str = ""
    """Why not."""
    num_ctx: int = 0
    """Of the context that a worker would have; 0 where that is not known, …"""
    num_slots: int = 0
    """… how many turns it would take at once, …"""
    can: tuple[str, ...] | None = None
    """… and what it could (`broker.discovery`), as far as the file tells."""
    file: ModelFile = NO_FILE

    @property
    def planned_bytes(self) -> int:
        """Of memory, while it is loaded."""
        return 0 if self.plan is None else self.plan.total


class Offers:
    """Looks at the files, again only where they are others than before, or were no good."""

    def __init__(
        self,
        settings: BoardSettings,
        look_into: Callable[[Sequence[Path], str, BoardSettings], FileFacts] = facts_of_files,
    ) -> None:
        """`look_into` says what a worker of these files, and of a model of that name, takes and can."""
        self._settings = settings
        self._look_into = look_into
        self._known: dict[str, Offer] = {}
        self._looked_at: dict[str, float] = {}
        """By the monotonic clock, into a model's files."""
        self._locked: Mapping[str, Locked | None] = {}
        self._lock_stamp: tuple[int, int, int] | None = None
        self.left_out: dict[str, str] = {}
        """Of all that are locked, those whose files are not here as of the last look, and which files."""

    def look(self, memory_bytes: int) -> dict[str, Offer]:
        """What may be loaded where all models together have so much memory, by name. A model that was named and that
        is not here, or is no model, has its reason; of all that are locked those are left out that are not here.
        Blocks. Raises CatalogueError, and UnknownModel for a name that is none."""
        found, left_out = {}, {}
        for name, locked in self._wanted().items():
            offer = self._offer(name, locked)
            num_files = 1 if locked is None else len(locked.each)
            if self._settings.model or len(offer.stamp) == num_files:
                found[name] = offer
            else:
                left_out[name] = offer.reason
        self._known, self.left_out = found, left_out
        return shared_out(found, memory_bytes, self._settings.park_bytes)

    def _wanted(self) -> Mapping[str, Locked | None]:
        """None for the model that is shipped. The lock file is read again where it is another one."""
        settings, stamp = self._settings, None
        path = Path(settings.lock_file)
        with contextlib.suppress(OSError):
            found = path.stat()
            stamp = found.st_ino, found.st_size, found.st_mtime_ns
        if stamp is None or stamp != self._lock_stamp:
            if settings.model:
                self._locked = {name: None if name == DEMO.token else locked_as(name, path) for name in settings.model}
            else:
                self._locked = {name: one for name, one in read_lock(path).items() if one.kind == "model"}
            self._lock_stamp = stamp
        return self._locked

    def _offer(self, name: str, locked: Locked | None) -> Offer:
        folder = Path(self._settings.models_dir).expanduser()
        paths = [DEMO.path] if locked is None else locked.paths_in(folder, name)
        sizes, reason = _sizes(paths)
        digest = DEMO.sha256 if locked is None else locked.digest
        stamp = tuple((path.name, one.st_size, one.st_mtime_ns) for path, one in sizes.items())
        known, now = self._known.get(name), time.monotonic()
        is_same = known is not None and (known.digest, known.stamp) == (digest, stamp)
        if known is not None and is_same and (known.plan or now - self._looked_at[name] < AGAIN_SECONDS):
            return known
        self._looked_at[name] = now
        offer = Offer(name, digest, stamp, sum(one.st_size for one in sizes.values()))
        missing = [path.name for path in paths if path not in sizes]
        if reason or missing:
            advice = reason or f"{', '.join(missing)} not in {folder}: turnpike models pull {name}"
            return replace(offer, reason=advice)
        if locked is not None and offer.file_bytes != locked.total_bytes:
            sizes_are = f"{offer.file_bytes:,} bytes, and {locked.total_bytes:,} are locked"
            return replace(offer, reason=f"its file is not the one that is locked: it has {sizes_are}")
        try:
            facts = self._look_into(paths, name, self._settings)
        except (TurnpikeError, OSError) as error:
            return replace(offer, reason=str(error))
        except Exception as error:  # files are strangers': whatever one makes of us costs its own model
            if known is None:
                log.warning("not understood model=%s", name, exc_info=True)
            return replace(offer, reason=f"{paths[0].name} is not understood: {type(error).__name__}: {error}")
        file = msgspec.structs.replace(facts.file, sha256=digest)
        offer = replace(offer, num_ctx=facts.num_ctx, num_slots=facts.num_slots, can=facts.can, file=file)
        return replace(offer, plan=facts.plan)


def _sizes(paths: Sequence[Path]) -> tuple[dict[Path, os.stat_result], str]:
    """Of those that are there; and what is wrong with one that is and cannot be looked at."""
    found: dict[Path, os.stat_result] = {}
    reason = ""
    for path in paths:
        try:
            found[path] = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = f"{path} cannot be read: {error.strerror or error}"
    return found, reason


@functools.lru_cache(maxsize=64)
def tell_unread(reason: str) -> None:
    """That the files could not be looked at, once for each reason: it is tried again every few seconds."""
    log.warning("files not looked at error=%s", reason)


def shared_out(offers: Mapping[str, Offer], memory_bytes: int, park_bytes: int | None = None) -> dict[str, Offer]:
    """The offers with what each worker may keep of conversations at rest: `park_bytes`, or an equal part of the board's
    share by as many workers as it has room for, side by side. What is too large has its reason."""
    kept = memory_bytes // PARKED_SHARE
    sizes = sorted(one.planned_bytes for one in offers.values() if one.plan is not None)
    num_together = max(1, sum(one <= memory_bytes - kept for one in accumulate(sizes)))
    found = {}
    for name, offer in offers.items():
        if offer.plan is None:
            found[name] = offer
            continue
        room = memory_bytes - offer.plan.total
        parked = park_bytes if park_bytes is not None else max(0, min(kept // num_together, room))
        if EMBED in (offer.can or ()):
            parked = 0  # it has no conversations
        plan = replace(offer.plan, offload_cache=parked)
        if plan.total > memory_bytes:
            reason = f"takes {_mib(plan.total)} MiB, and this board has {_mib(memory_bytes)} MiB for models"
            found[name] = replace(offer, plan=None, reason=f"{reason}: a smaller --num-ctx takes less")
        else:
            found[name] = replace(offer, plan=plan)
    return found


def _mib(num_bytes: int) -> int:
    return round(num_bytes / 1024**2)
