"""Rows of files that others made: JSON lines, JSON arrays, CSV, parquet; plain or gzip.

One bad row costs one row: it is left out and named. A file that cannot be read as a whole is one error.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from broker.errors import TurnpikeError
from broker.extras import install

MAX_NAMED = 3
MAX_CSV_FIELD = 16 * 1024 * 1024


class RowError(TurnpikeError):
    """A file that cannot be read, or a row of it; says which line of which file."""

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        self.path, self.line, self.reason = path, line, reason
        super().__init__(f"{path}{f':{line}' if line is not None else ''}: {reason}")


def summary(left_out: Sequence[RowError]) -> str:
    """`2 rows are left out: x.jsonl:4: is not JSON; …`, the first few by name."""
    named = [f"{one.path.name}:{one.line}: {one.reason}" for one in left_out[:MAX_NAMED]]
    named += [f"and {len(left_out) - MAX_NAMED} more"] if len(left_out) > MAX_NAMED else []
    num = f"{len(left_out)} row{'s are' if len(left_out) > 1 else ' is'}"
    return f"{num} left out: {'; '.join(named)}"


def read_rows[E: RowError](
    path: Path, left_out: list[E], error: Callable[[Path, int | None, str], E]
) -> Iterator[tuple[int, Any]]:
    """The rows with their numbers: what is JSON, of a CSV lists of texts. Those that cannot be read are added to
    `left_out`; raises `error` where the file cannot."""
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path, left_out, error)
            return
        with _opened(path) as file:
            if is_csv(path):
                yield from _csv(file, path, left_out, error)
            elif _begins_array(file):
                yield from _array(file, path, left_out, error)
            else:
                yield from _lines(file, path, left_out, error)
    except (OSError, EOFError, zlib.error, UnicodeError) as problem:
        raise error(path, None, str(getattr(problem, "strerror", None) or problem)) from None


def is_csv(path: Path) -> bool:
    """Whether its rows are lists of texts."""
    return path.name.removesuffix(".gz").endswith(".csv")


def clean(text: str) -> str:
    """The text, with U+FFFD for each half of a character beyond U+FFFF that stands alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def text_of(value: object) -> str:
    """A text, or the texts of OpenAI's content parts with a line end between them; raises ValueError."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list) and value:
        return "\n".join(map(_text_of_part, value))
    raise ValueError(f"{'null' if value is None else repr(value)[:40]} where a text should be")


def _text_of_part(part: object) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part
    if not isinstance(text, str):
        raise ValueError(f"a part that is no text: {repr(part)[:40]}")
    return clean(text)


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as probe:
        is_gzip = probe.read(2) == b"\x1f\x8b"
    file: Any = gzip.open(path) if is_gzip else path.open("rb")  # noqa: SIM115  (the caller closes it)
    head = file.peek(3)[:3]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # What Windows calls Unicode. Half a character and the like: as many of its rows as can be read.
        with file:
            return io.BufferedReader(io.BytesIO(file.read().decode("utf-16", "replace").encode()))
    if head == codecs.BOM_UTF8:
        file.read(3)
    return file  # type: ignore[no-any-return]


def _begins_array(file: Any) -> bool:
    head: bytes = file.peek(4096)
    return head.lstrip()[:1] == b"["


def _parsed(text: str) -> Any:
    """Raises ValueError, for numbers of too many digits and what is nested too deeply as well."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _lines[E: RowError](
    file: IO[bytes], path: Path, left_out: list[E], error: Callable[[Path, int | None, str], E]
) -> Iterator[tuple[int, Any]]:
    # By line feeds alone: U+2028 and its like may stand in a string.
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = _parsed(line.decode())
        except UnicodeDecodeError as problem:
            left_out.append(error(path, number, f"is not UTF-8: {problem.reason}"))
        except ValueError as problem:
            left_out.append(error(path, number, f"is not JSON: {problem}"))
        else:
            yield number, row


def _array[E: RowError](
    file: IO[bytes], path: Path, left_out: list[E], error: Callable[[Path, int | None, str], E]
) -> Iterator[tuple[int, Any]]:
    text = file.read()
    try:
        decoded, is_whole = text.decode(), True
    except UnicodeDecodeError:
        decoded, is_whole = text.decode("utf-8", "surrogateescape"), False
    try:
        found = _parsed(decoded)
    except ValueError as problem:
        if getattr(problem, "msg", "") == "Extra data":
            # Lines, of which the first is an array.
            yield from _lines(io.BytesIO(text), path, left_out, error)
            return
        raise error(path, getattr(problem, "lineno", None), f"is not JSON: {problem}") from None
    for number, row in enumerate(found, 1):
        if is_whole or _is_utf8(json.dumps(row, ensure_ascii=False)):
            yield number, row
        else:
            left_out.append(error(path, number, "is not UTF-8"))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv[E: RowError](
    file: IO[bytes], path: Path, left_out: list[E], error: Callable[[Path, int | None, str], E]
) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(MAX_CSV_FIELD)
    # A field in quotes may hold line ends. What is not UTF-8 shows itself as half characters.
    with io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines)
        while True:
            number = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as problem:
                left_out.append(error(path, number, f"is no line of a CSV: {problem}"))
                continue
            if all(map(_is_utf8, row)):
                yield number, row
            else:
                left_out.append(error(path, number, "is not UTF-8"))


def _parquet[E: RowError](
    path: Path, left_out: list[E], error: Callable[[Path, int | None, str], E]
) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise error(path, None, f"parquet needs pyarrow: {install('parquet')}") from None
    try:
        batches = parquet.read_table(path).to_batches()
    except (OSError, ValueError, pyarrow.lib.ArrowException) as problem:
        raise error(path, None, " ".join(str(problem).split())) from None
    number = 0
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except (ValueError, pyarrow.lib.ArrowException):
            rows = [batch.slice(index, 1) for index in range(batch.num_rows)]
        for row in rows:
            number += 1
            if isinstance(row, dict):
                yield number, row
                continue
            try:
                yield number, row.to_pylist()[0]
            except (ValueError, pyarrow.lib.ArrowException) as problem:
                left_out.append(error(path, number, str(problem)))
