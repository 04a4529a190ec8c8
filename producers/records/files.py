"""A run's record as a file: written a JSON line at a time as turns end, and read again.

A run that was killed leaves a valid file; the line that the kill cut off is told and left out.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec
from msgspec import Struct, field

from broker.errors import TurnpikeError
from producers.data.rows import MAX_NAMED
from producers.records.lines import VERSION, Continued, Ended, Header, Line, TurnRecord


class RecordError(TurnpikeError):
    """A record file that cannot be read; says which line."""

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        self.path, self.line, self.reason = path, line, reason
        super().__init__(f"{path}{f':{line}' if line is not None else ''}: {reason}")


class Run(Struct):
    """A record as it was read: what counts of it. Several parts of one run are merged."""

    header: Header
    turns: list[TurnRecord]
    seconds: float | None
    """None for a run that did not end."""
    notes: list[str] = field(default_factory=list)
    """What was left out while reading, and why."""

    @property
    def name(self) -> str:
        """The run's, the same for all its parts."""
        return self.header.run

    def counted(self) -> list[TurnRecord]:
        """Without what was sent in the warm-up or the cool-down."""
        warm_up = seconds_of(self.header.settings, "warm_up_seconds") or 0.0
        cool_down = seconds_of(self.header.settings, "cool_down_seconds") or 0.0
        last = max((turn.sent_at for turn in self.turns), default=0.0) - cool_down
        return [turn for turn in self.turns if turn.sent_at >= warm_up and (not cool_down or turn.sent_at <= last)]


def seconds_of(settings: Mapping[str, Any], name: str) -> float | None:
    """A setting of a record; None where it holds none, or no time."""
    value = settings.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value < sys.float_info.max else None


class Recording:
    """Appends to a record file; each line is with the kernel before the next thing happens. A context manager."""

    def __init__(self, path: Path, header: Header) -> None:
        """Raises RecordError when there is such a file already."""
        try:
            self._file: IO[bytes] = path.open("xb", buffering=0)
        except FileExistsError:
            raise RecordError(path, None, "exists already: another name, or --continue") from None
        except OSError as error:
            raise RecordError(path, None, error.strerror or str(error)) from None
        self.write(header)

    @classmethod
    def reopen(cls, path: Path, line: Continued) -> Recording:
        """Goes on with a file; a line that a kill cut off is removed first."""
        recording = cls.__new__(cls)
        recording._file = path.open("r+b", buffering=0)
        content = path.read_bytes()
        recording._file.truncate(content.rfind(b"\n") + 1)
        recording._file.seek(0, 2)
        recording.write(line)
        return recording

    def write(self, line: Line) -> None:
        """Appends a line."""
        self._file.write(msgspec.json.encode(line) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def read_run(path: Path) -> Run:
    """The run in a file. A line of it that cannot be read is left out and noted, as a last one that was cut off; raises
    RecordError where it does not begin as a record."""
    run: Run | None = None
    unread: list[str] = []
    decoder = msgspec.json.Decoder(Line)
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if run is not None and not text.endswith(b"\n"):
                    run.notes.append(f"line {number} was cut off and is left out")
                    break
                # A byte order mark, where somebody's editor put one.
                text = text.removeprefix(codecs.BOM_UTF8) if number == 1 else text
                if not text.strip():
                    continue
                try:
                    line = decoder.decode(text)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    if run is None:
                        raise RecordError(path, number, _why(text, error)) from None
                    unread.append(f"line {number} is left out: {_why(text, error)}")
                    continue
                if run is None:
                    if not isinstance(line, Header):
                        raise RecordError(path, number, "is no header: the file does not begin as a record")
                    run = Run(line, [], None)
                    continue
                _add(run, line, path, number)
    except OSError as error:
        raise RecordError(path, None, error.strerror or str(error)) from None
    if run is None:
        raise RecordError(path, None, "is empty")
    run.notes += unread[:MAX_NAMED]
    if len(unread) > MAX_NAMED:
        run.notes.append(f"and {len(unread) - MAX_NAMED} more lines are left out")
    return run


def _add(run: Run, line: Line, path: Path, number: int) -> None:
    match line:
        case TurnRecord():
            run.turns.append(line)
        case Continued():
            void = set(line.void)
            run.turns = [turn for turn in run.turns if turn.conversation not in void]
            run.notes.append(f"continued at line {number}: {len(void)} conversations were begun again")
        case Ended():
            run.seconds = line.seconds
        case Header():
            raise RecordError(path, number, "is a second header")


def _why(text: bytes, error: Exception) -> str:
    try:
        found = json.loads(text)
        version = found.get("version", VERSION)
        if found.get("kind") == "header" and version > VERSION:
            return f"is of version {version}, and this Turnpike reads up to {VERSION}: a newer one is needed"
    except (ValueError, AttributeError, TypeError, RecursionError):
        pass
    return f"is no line of a record: {error}"


def read_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs in several files, parts of one run merged, in the files' order. Raises RecordError."""
    found: dict[str, Run] = {}
    for path in paths:
        run = read_run(path)
        if run.header.version > VERSION:
            raise RecordError(path, 1, f"is of version {run.header.version}, and this Turnpike reads up to {VERSION}")
        known = found.get(run.name)
        if known is None or run.header.num_parts == 1:
            if known is not None:
                raise RecordError(path, 1, f"is another record of run {run.name!r}, and no part of it")
            found[run.name] = run
            continue
        # Parts on other machines began at other instants: all are counted from the first one's.
        shift = (run.header.started_at - known.header.started_at) * 1e-9
        known.turns += [_shifted(turn, shift) for turn in run.turns]
        known.turns.sort(key=lambda turn: turn.sent_at)
        known.notes += run.notes
        if run.seconds is not None:
            known.seconds = max(known.seconds or 0.0, run.seconds + shift)
    return list(found.values())


def _shifted(turn: TurnRecord, seconds: float) -> TurnRecord:
    return msgspec.structs.replace(
        turn,
        sent_at=turn.sent_at + seconds,
        ended_at=turn.ended_at + seconds,
        scheduled_at=None if turn.scheduled_at is None else turn.scheduled_at + seconds,
        arrivals=tuple((at + seconds, count) for at, count in turn.arrivals),
    )
