"""TOML files as people's editors leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_toml(path: Path) -> dict[str, Any]:
    """What the file holds, whether or not it begins with a byte order mark. Raises OSError and TOMLDecodeError, a
    ValueError."""
    import tomllib  # a command reads its settings' module at each start, and seldom a file

    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise tomllib.TOMLDecodeError(f"is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise tomllib.TOMLDecodeError("is nested too deeply") from None
