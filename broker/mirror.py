"""A model's file from a neighbour that has it: `turnpike models serve` gives it by HTTP, at /sha256/<digest>.

What comes from a mirror is worth no more trust than what comes from anywhere else: the digest that names it is checked.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from broker.catalogue import Locked
from broker.errors import TurnpikeError

TIMEOUT_SECONDS = 20.0
"""Without a byte."""
BLOCK_BYTES = 1024 * 1024

OnProgress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


class MirrorFailed(TurnpikeError):
    """A mirror that did not give what it had announced; what it gave that may be good was kept."""

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(f"mirror {url}: {reason}")


def path_of(sha256: str) -> str:
    """Where a mirror has the file."""
    return f"/sha256/{sha256}"


def fetch_from_mirror(url: str, wanted: Locked, part: Path, on_progress: OnProgress) -> bool:
    """Brings `part`, which may hold the beginning already, to its full size; whether it is then the wanted file.

    Raises MirrorFailed where the mirror vanishes, has no such file, or sends other bytes; those are removed.
    """
    # The file is hashed as it comes, what is there already first: a card is read once less.
    digest = hashlib.sha256()
    have = _hash_of_part(part, wanted.size_bytes, digest.update)
    if have < wanted.size_bytes:
        try:
            have = _get(url + path_of(wanted.sha256), part, have, wanted.size_bytes, digest.update, on_progress)
        except urllib.error.HTTPError as error:
            raise MirrorFailed(url, f"HTTP {error.code}") from None
        except (OSError, http.client.HTTPException) as error:
            raise MirrorFailed(url, str(error) or type(error).__name__) from None
    if have < wanted.size_bytes:
        raise MirrorFailed(url, f"ended {wanted.size_bytes - have} bytes early")
    if digest.hexdigest() != wanted.sha256:
        part.unlink()
        raise MirrorFailed(url, f"sent bytes of SHA-256 {digest.hexdigest()}, the lock file says {wanted.sha256}")
    return True


def _hash_of_part(part: Path, size: int, update: Callable[[memoryview], None]) -> int:
    if not part.exists():
        return 0
    if part.stat().st_size > size:
        part.unlink()  # it is of something else
        return 0
    block = memoryview(bytearray(BLOCK_BYTES))
    have = 0
    with part.open("rb", buffering=0) as file:
        while num_read := file.readinto(block):
            update(block[:num_read])
            have += num_read
    return have


def _get(
    url: str, part: Path, have: int, size: int, update: Callable[[memoryview], None], on_progress: OnProgress
) -> int:
    """One request for what is missing; how many bytes there are then."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    block = memoryview(bytearray(BLOCK_BYTES))
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response, part.open("ab", buffering=0) as file:
        if have and response.status != 206:
            raise http.client.HTTPException("it does not know ranges")
        while num_read := response.readinto(block):
            if have + num_read > size:
                raise http.client.HTTPException("it sends more than the lock file says")
            file.write(block[:num_read])
            update(block[:num_read])
            have += num_read
            on_progress(have, size)
    return have
