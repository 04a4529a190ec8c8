"""`turnpike embed`: the vectors of a file's texts, into a file that NumPy reads, or as JSON lines."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from broker.client import Client
from broker.connection import Address
from broker.embedding import Vectors
from broker.errors import TurnpikeError
from broker.process import EXIT_INTERRUPTED
from broker.waiting import unless
from producers.embedding.npy import NpyFile
from producers.embedding.texts import Texts

TELL_SECONDS = 0.5
AS_EQUAL = 0.99
"""Two vectors of one text by one model are nearly one: batches are summed in another order, and that is all."""


class OtherTexts(TurnpikeError):
    """What an earlier run began is of other texts, or of another model."""

    def __init__(self, path: Path, number: int) -> None:
        super().__init__(
            f"{path}.part was begun with other texts or another model: the vector of text {number} is another one;"
            " remove it to begin anew"
        )


@dataclass(frozen=True)
class Wanted:
    """What of each text, and by which model."""

    model: str
    truncate: bool = False
    dimensions: int | None = None


async def embed(address: Address, wanted: Wanted, texts: Texts, out: Path | None, stop: asyncio.Event) -> int:
    """Writes each text's vector to `out`, a .npy file, or as a JSON line to stdout. What an earlier run left of `out`
    is gone on with. Raises NotServed, PublishError, TurnFailed, NoText."""
    progress = _Progress()
    async with Client(address) as client:
        if not await unless(stop, client.until_served(wanted.model, address.wait)):
            return EXIT_INTERRUPTED
        if out is None:
            was_whole = await unless(stop, _to_stdout(client, wanted, texts, progress))
        else:
            with NpyFile(out) as file:
                was_whole = await unless(stop, _to_file(client, wanted, texts, file, out, progress))
                if was_whole and file.num_rows:
                    file.finish()
    progress.end(texts.num_blank)
    return 0 if was_whole else EXIT_INTERRUPTED


async def _to_stdout(client: Client, wanted: Wanted, texts: Texts, progress: _Progress) -> None:
    index = itertools.count()
    async for part in _embedded(client, wanted, texts):
        for vector in part:
            row = {"index": next(index), "embedding": [round(value, 8) for value in vector]}
            sys.stdout.write(json.dumps(row) + "\n")
        progress.add(len(part), part.num_tokens)


async def _to_file(client: Client, wanted: Wanted, texts: Texts, file: NpyFile, out: Path, progress: _Progress) -> None:
    num_before = file.num_rows
    each: Iterator[str] = iter(texts)
    if num_before:
        progress.skip(num_before)
        each = itertools.islice(each, num_before - 1, None)  # the last one again: is it the same?
    async for part in _embedded(client, wanted, each):
        rows = part.data
        if num_before:
            if not _is_same(part, file):
                raise OtherTexts(out, num_before)
            num_before, rows = 0, rows[4 * part.dimension :]
        file.add(part.dimension, rows)
        progress.add(len(part), part.num_tokens)


def _embedded(client: Client, wanted: Wanted, texts: Iterable[str]):  # type: ignore[no-untyped-def]
    return client.embed_in_turns(wanted.model, texts, truncate=wanted.truncate, dimensions=wanted.dimensions)


def _is_same(part: Vectors, file: NpyFile) -> bool:
    if part.dimension != file.dimension:
        return False
    before = Vectors(file.dimension, file.last_row)[0]
    return math.sumprod(before, part[0]) >= AS_EQUAL


class _Progress:
    """Told on stderr: as it goes, where a person reads it, and at the end."""

    def __init__(self) -> None:
        self._began_at = time.perf_counter()
        self._told_at = 0.0
        self._num_texts = 0
        self._num_tokens = 0

    def skip(self, num_texts: int) -> None:
        """So many are there already."""
        sys.stderr.write(f"[going on behind {num_texts:,} texts that are there]\n")

    def add(self, num_texts: int, num_tokens: int) -> None:
        """So many more."""
        self._num_texts += num_texts
        self._num_tokens += num_tokens
        now = time.perf_counter()
        if sys.stderr.isatty() and now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            sys.stderr.write(f"\r\x1b[K{self._line()}")
            sys.stderr.flush()

    def end(self, num_blank: int) -> None:
        """The last line."""
        blank = f"; {num_blank:,} blank lines left out" if num_blank else ""
        begin = "\r\x1b[K" if sys.stderr.isatty() else ""
        sys.stderr.write(f"{begin}{self._line()}{blank}\n")

    def _line(self) -> str:
        seconds = max(time.perf_counter() - self._began_at, 1e-6)
        return (
            f"[{self._num_texts:,} texts, {self._num_tokens:,} tokens, {seconds:.1f} s:"
            f" {self._num_texts / seconds:.1f} texts/s, {self._num_tokens / seconds:.0f} tokens/s]"
        )
