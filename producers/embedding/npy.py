"""A matrix of float32 in NumPy's own form, as it grows: a producer's laptop has no NumPy, and the form is a header.

(https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.0)
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from broker.errors import TurnpikeError

HEADER_BYTES = 128
_MAGIC = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
_SHAPE = re.compile(rb"'shape': \((\d+), (\d+)\)")


class NotOurs(TurnpikeError):
    """A file that is none of what is written here."""


def header(num_rows: int, dimension: int) -> bytes:
    """What comes before the rows. As long whatever the numbers are, so that it can be written again."""
    told = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({num_rows}, {dimension})}}"
    return _MAGIC + told.encode().ljust(HEADER_BYTES - len(_MAGIC) - 1) + b"\n"


class NpyFile:
    """A file that grows by rows beside its own name, and has that name once it is whole.

    What an earlier run left of it is gone on with: `num_rows` are there, and `last_row` is the last of them.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError, NotOurs."""
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self.num_rows = 0
        self.dimension = 0
        """Of a row; 0 before the first."""
        self.last_row = b""
        self._file: BinaryIO = self._part.open("r+b" if self._part.exists() else "w+b")
        try:
            self._go_on()
        except BaseException:
            self._file.close()
            raise

    def _go_on(self) -> None:
        found = self._file.read(HEADER_BYTES)
        if not found:
            return
        shape = _SHAPE.search(found)
        if not found.startswith(_MAGIC) or shape is None or len(found) < HEADER_BYTES or not int(shape[2]):
            raise NotOurs(f"{self._part} is no file of vectors that was begun here: remove it")
        self.dimension = int(shape[2])
        size = self._file.seek(0, os.SEEK_END) - HEADER_BYTES
        self.num_rows = size // self._width
        self._file.truncate(HEADER_BYTES + self.num_rows * self._width)  # of a row that was cut
        if self.num_rows:
            self._file.seek(-self._width, os.SEEK_END)
            self.last_row = self._file.read(self._width)

    @property
    def _width(self) -> int:
        return 4 * self.dimension

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if not self.num_rows:
            self._part.unlink(missing_ok=True)

    def add(self, dimension: int, rows: bytes) -> None:
        """Some rows more, packed. Raises NotOurs where those before are of another width."""
        if not self.dimension:
            self.dimension = dimension
            self._file.write(header(0, dimension))
        if dimension != self.dimension:
            raise NotOurs(f"{self._part} has vectors of {self.dimension} values, and these have {dimension}: remove it")
        self._file.seek(0, os.SEEK_END)
        self._file.write(rows)
        self._file.flush()
        self.num_rows += len(rows) // self._width

    def finish(self) -> None:
        """All rows are there: the file has its name."""
        self._file.seek(0)
        self._file.write(header(self.num_rows, self.dimension))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._part.replace(self._path)
