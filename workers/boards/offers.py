"""Which models a board may load, by their names: the files that are here, and the memory that each would take. By what
files say of themselves; no byte of a tensor is read, and nothing is verified before it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from broker.catalogue import Locked, locked_as, read_lock
from broker.errors import TurnpikeError
from workers.architectures import KNOWN
from workers.boards.settings import BoardSettings
from workers.machine import model_plan
from workers.machine.memory import MemoryPlan
from workers.model_file import answering_parts
from workers.models import DEMO

PARKED_SHARE = 4
"""One byte in so many of a board's is for conversations at rest, of all its models."""
UNBOUNDED = 1 << 62


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

    @property
    def planned_bytes(self) -> int:
        """Of memory, while it is loaded."""
        return 0 if self.plan is None else self.plan.total


class Offers:
    """Looks at the files, again only where they are others than before."""

    def __init__(self, settings: BoardSettings, plan: Callable[[Sequence[Path]], MemoryPlan] | None = None) -> None:
        """`plan` says what a model of these files takes, without anything for conversations at rest."""
        self._settings = settings
        self._plan = plan or (lambda parts: plan_of(parts, settings))
        self._known: dict[str, Offer] = {}

    def look(self, memory_bytes: int) -> dict[str, Offer]:
        """What may be loaded where all models together have so much memory, by name. A model that was named and that
        is not here, or is no model, has its reason; of all that are locked those are left out that are not here.
        Blocks. Raises CatalogueError."""
        found = {}
        for name, locked in self._wanted().items():
            offer = self._offer(name, locked)
            if offer is not None:
                found[name] = offer
        self._known = found
        return shared_out(found, memory_bytes, self._settings.park_bytes)

    def _wanted(self) -> Mapping[str, Locked | None]:
        """None for the model that is shipped."""
        settings = self._settings
        path = Path(settings.lock_file)
        if not settings.model:
            return {name: one for name, one in read_lock(path).items() if one.kind == "model"}
        return {name: None if name == DEMO.token else locked_as(name, path) for name in settings.model}

    def _offer(self, name: str, locked: Locked | None) -> Offer | None:
        folder = Path(self._settings.models_dir).expanduser()
        paths = [DEMO.path] if locked is None else locked.paths_in(folder, name)
        sizes = {path: path.stat() for path in paths if path.exists()}
        digest = DEMO.sha256 if locked is None else locked.digest
        stamp = tuple((path.name, one.st_size, one.st_mtime_ns) for path, one in sizes.items())
        known = self._known.get(name)
        if known is not None and (known.digest, known.stamp) == (digest, stamp):
            return known
        offer = Offer(name, digest, stamp, sum(one.st_size for one in sizes.values()))
        missing = [path.name for path in paths if path not in sizes]
        if missing and not self._settings.model:
            return None
        if missing:
            return replace(offer, reason=f"{', '.join(missing)} not in {folder}: turnpike models pull {name}")
        if locked is not None and offer.file_bytes != locked.total_bytes:
            sizes_are = f"{offer.file_bytes:,} bytes, and {locked.total_bytes:,} are locked"
            return replace(offer, reason=f"its file is not the one that is locked: it has {sizes_are}")
        try:
            return replace(offer, plan=self._plan(paths))
        except (TurnpikeError, OSError) as error:
            return replace(offer, reason=str(error))


def plan_of(paths: Sequence[Path], settings: BoardSettings) -> MemoryPlan:
    """What a worker of these files takes by its settings, without conversations at rest. Raises ModelFileError."""
    parts = answering_parts(paths[0], KNOWN)
    plan, _ = model_plan.plan_of(parts, msgspec.structs.replace(settings, park_bytes=0), UNBOUNDED)
    return plan


def shared_out(offers: Mapping[str, Offer], memory_bytes: int, park_bytes: int | None = None) -> dict[str, Offer]:
    """The offers with what each worker may keep of conversations at rest: `park_bytes`, or an equal part of the board's
    share by as many workers as it has room for, side by side. What is too large has its reason."""
    kept = memory_bytes // PARKED_SHARE
    sizes = sorted(one.planned_bytes for one in offers.values() if one.plan is not None)
    together = [sum(sizes[: num + 1]) for num in range(len(sizes))]
    num_together = max(1, sum(one <= memory_bytes - kept for one in together))
    found = {}
    for name, offer in offers.items():
        if offer.plan is None:
            found[name] = offer
            continue
        room = memory_bytes - offer.plan.total
        parked = park_bytes if park_bytes is not None else max(0, min(kept // num_together, room))
        plan = replace(offer.plan, offload_cache=parked)
        if plan.total > memory_bytes:
            reason = f"takes {_mib(plan.total)} MiB, and this board has {_mib(memory_bytes)} MiB for models"
            found[name] = replace(offer, plan=None, reason=f"{reason}: a smaller --num-ctx takes less")
        else:
            found[name] = replace(offer, plan=plan)
    return found


def _mib(num_bytes: int) -> int:
    return round(num_bytes / 1024**2)
