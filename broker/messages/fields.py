"""The kinds of fields that messages have: bounded, so that what was decoded has been checked."""

from __future__ import annotations

import os
from typing import Annotated

from msgspec import Meta

WIRE_VERSION = 1

Word = Annotated[str, Meta(min_length=1, max_length=64)]
"""One of a few values, of which a later release may know more: readers are prepared for those."""
Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]


def new_id() -> str:
    """A random 128-bit id in 32 hexadecimal digits."""
    return os.urandom(16).hex()  # as secrets.token_hex, whose module costs a command's start 6 ms
