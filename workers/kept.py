"""What was found out and is kept for the next start: a map in a file of this user's alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from broker.accounts import write_private

MAX_KEPT = 256
"""In a file: the oldest go first."""

log = logging.getLogger(__name__)


def keep(path: Path, known: Mapping[str, object]) -> None:
    """Writes the file, if it can be written, with the latest of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, msgspec.json.encode(dict([*known.items()][-MAX_KEPT:])))
    except OSError as error:
        log.info("not kept for the next start file=%s error=%s", path, error)
