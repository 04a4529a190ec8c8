"""Which conversations a run is of: from which file, by which rule, in an order drawn from the seed."""

from __future__ import annotations

import contextlib
import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.catalogue import locked_as, sha256_of, verify
from producers.data.datasets import SHIPPED, Conversation, DatasetError, load_conversations, path_of, turns_wanted
from producers.models.command import DATASETS
from producers.settings import LoadSettings


def source(options: LoadSettings) -> str | None:
    """Where the conversations are; `hub:NAME` is the file that the lock names, verified. Raises TurnpikeError."""
    if options.dataset is None or not options.dataset.startswith("hub:"):
        return options.dataset
    name = options.dataset.removeprefix("hub:")
    locked = locked_as(name, Path(options.lock_file), DATASETS)
    return str(verify(name, locked, Path(options.models_dir).expanduser()))


@dataclass(frozen=True)
class Selection:
    """A run's conversations, out of how many, and the file that they are from."""

    conversations: list[Conversation]
    num_found: int
    path: Path
    left_out: tuple[DatasetError, ...] = ()
    """Rows of the file that cannot be read."""


def select(options: LoadSettings) -> Selection:
    """The run's conversations, in an order drawn from the seed. Raises TurnpikeError."""
    named = source(options)
    left_out: list[DatasetError] = []
    found = load_conversations(
        named, min_turns=options.min_turns, unit=options.turns, language=options.language, left_out=left_out
    )
    chosen = list(found)
    random.Random(options.seed).shuffle(chosen)
    path = path_of(named or SHIPPED)
    return Selection(chosen[: options.num_conversations], len(found), path, tuple(left_out))


def dataset_facts(options: LoadSettings, selection: Selection) -> dict[str, Any]:
    """What a record says of the conversations: by which rule they were taken, and the SHA-256 of their file."""
    least = turns_wanted(options.dataset, options.min_turns)
    names = "\n".join(conversation.id for conversation in selection.conversations)
    facts: dict[str, Any] = {
        "name": options.dataset or SHIPPED.name,
        "language": options.language,
        "rule": f"one best-ranked thread a tree, at least {least} {options.turns}",
        "num_found": selection.num_found,
        "num_left_out": len(selection.left_out),
        "num_chosen": len(selection.conversations),
        "seed": options.seed,
        "chosen_sha256": hashlib.sha256(names.encode()).hexdigest(),
    }
    with contextlib.suppress(OSError):
        facts["sha256"] = sha256_of(selection.path)
    return facts
