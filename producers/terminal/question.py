"""What `turnpike ask` asks: the words behind it, files, and what is piped in, as one message."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker.errors import SettingsError

PATIENT_SECONDS = 2.0
"""A pipe that has brought nothing for so long may be one that nobody writes to: it is said that it is read."""


def question(text: str | None, files: Sequence[str]) -> str:
    """The text, behind it each file and, where it is a pipe or a file, standard input; that alone where there is no
    text, or `-`. Raises SettingsError where there is nothing to ask, or a file that is no text."""
    parts = [text] if text not in (None, "-") else []
    parts += [_quoted(_read(Path(os.path.expanduser(name))), name) for name in files]
    if text == "-" or not parts:
        if sys.stdin is None or (text != "-" and sys.stdin.isatty()):
            raise SettingsError(["TEXT is missing: what is to be asked? It can be piped in, too"])
        parts.insert(0, sys.stdin.buffer.read().decode("utf-8", "replace"))
    elif _is_piped_in() and (piped := _heard()).strip():
        parts.append(_quoted(piped))
    if not any(part.strip() for part in parts):
        raise SettingsError(["TEXT is empty: what is to be asked?"])
    return "\n\n".join(part.rstrip("\n") if number else part for number, part in enumerate(parts))


def schema_of(text: str) -> dict[str, Any]:
    """A JSON schema as it stands, or in a file. Raises SettingsError."""
    try:
        found = json.loads(text if text.lstrip().startswith("{") else Path(os.path.expanduser(text)).read_text())
    except OSError as error:
        raise SettingsError([f"--json-schema: {text}: {error.strerror}"]) from None
    except (ValueError, RecursionError) as error:
        raise SettingsError([f"--json-schema: is not JSON: {error}"]) from None
    if not isinstance(found, dict):
        raise SettingsError(["--json-schema: is no JSON object"])
    return found


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise SettingsError([f"--file: {path}: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"--file: {path}: is no text in UTF-8"]) from None


def _quoted(text: str, name: str | None = None) -> str:
    """Between fences that it does not have itself, below its name."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{f'{name}:\n' if name else ''}{fence}\n{text.rstrip('\n')}\n{fence}"


def _is_piped_in() -> bool:
    """Whether standard input is there to be read: a terminal, a socket or /dev/null is not."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _heard() -> str:
    """All of it; whoever waits for that is told."""
    is_read = threading.Event()

    def tell() -> None:
        if not is_read.wait(PATIENT_SECONDS):
            sys.stderr.write("[reading standard input up to its end]\n")

    threading.Thread(target=tell, daemon=True).start()
    try:
        return sys.stdin.buffer.read().decode("utf-8", "replace")
    finally:
        is_read.set()
