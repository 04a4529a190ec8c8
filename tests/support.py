"""What tests of all kinds use: where the command is, free ports, waiting for what tells nobody that it has changed."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
TURNPIKE = [sys.executable, str(ROOT / "turnpike.py")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def eventually[T](look: Callable[[], T], seconds: float = 30.0) -> T:
    """What `look` finds, once it finds something. For a database, which tells nobody that it has changed."""
    async with asyncio.timeout(seconds):
        while not (found := await asyncio.to_thread(look)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found
