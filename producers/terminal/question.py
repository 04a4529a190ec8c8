"""What `turnpike ask` asks: the words behind it, and files, standard input among them, as one message.

Standard input is read where it is named, or nothing else is there: it may be a script's, or a loop's lines.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import sys
import termios
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker.errors import SettingsError

PATIENT_SECONDS = 2.0
"""A pipe that has brought nothing for so long may be one that nobody writes to: it is said that it is read."""


def question(text: str | None, files: Sequence[str]) -> str:
    """The text, behind it each file; `-` is standard input, as either, and where there is neither. Raises SettingsError
    where there is nothing to ask, or a file that is no text."""
    if ([text] * (text == "-") + list(files)).count("-") > 1:
        raise SettingsError(["-: standard input can be read once"])
    parts = [text] if text not in (None, "-") else []
    parts += [_quoted(_heard()) if name == "-" else _quoted(_read(name), name) for name in files]
    if text == "-" or not parts:
        if text != "-" and sys.stdin is not None and sys.stdin.isatty():
            raise SettingsError(["TEXT is missing: what is to be asked? It can be piped in, too"])
        parts.insert(0, _heard())
    elif "-" not in files and _is_piped_in():
        sys.stderr.write("[what is piped in is left unread: --file - puts it behind the message]\n")
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


def _read(name: str) -> str:
    try:
        return Path(os.path.expanduser(name)).read_bytes().decode()
    except OSError as error:
        raise SettingsError([f"--file: {name}: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"--file: {name}: is no text in UTF-8"]) from None


def _quoted(text: str, name: str | None = None) -> str:
    """Between fences that it does not have itself, below its name."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{f'{name}:\n' if name else ''}{fence}\n{text.rstrip('\n')}\n{fence}"


def _is_piped_in() -> bool:
    """Whether somebody seems to have meant it for this command: a pipe with something in it, or a file that nobody has
    read of, as a loop has of its own."""
    try:
        number = sys.stdin.fileno()
        found = os.fstat(number)
        if stat.S_ISREG(found.st_mode):
            return found.st_size > 0 and os.lseek(number, 0, os.SEEK_CUR) == 0
        return stat.S_ISFIFO(found.st_mode) and _num_readable(number) > 0
    except (OSError, ValueError, AttributeError):
        return False


def _num_readable(number: int) -> int:
    """Bytes that are in a pipe just now."""
    return int.from_bytes(fcntl.ioctl(number, termios.FIONREAD, bytes(4)), sys.byteorder)


def _heard() -> str:
    """Standard input up to its end; whoever waits for that is told. Raises SettingsError where there is none."""
    if sys.stdin is None:
        raise SettingsError(["TEXT is missing: what is to be asked? There is no standard input"])
    is_read = threading.Event()

    def tell() -> None:
        if not is_read.wait(PATIENT_SECONDS):
            sys.stderr.write("[reading standard input up to its end]\n")

    threading.Thread(target=tell, daemon=True).start()
    try:
        return sys.stdin.buffer.read().decode("utf-8", "replace")
    finally:
        is_read.set()
