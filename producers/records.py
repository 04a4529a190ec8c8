"""A run's record: a header with all that it takes to repeat it, then one JSON line a turn, written as they end.

A run that was killed leaves a valid file; the line that the kill cut off is told and left out. Seconds are since the
run's start, by the monotonic clock of the process that wrote them.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec
from msgspec import Struct, field

from broker import metrics
from broker.errors import TurnpikeError
from broker.messages import End, Failed
from broker.priorities import DEFAULT_PRIORITY
from producers.rows import MAX_NAMED

VERSION = 1


class RecordError(TurnpikeError):
    """A record file that cannot be read; says which line."""

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        self.path, self.line, self.reason = path, line, reason
        super().__init__(f"{path}{f':{line}' if line is not None else ''}: {reason}")


class Header(Struct, frozen=True, tag_field="kind", tag="header"):
    """What a run was. `settings` are the load generator's, by name."""

    version: int
    run: str
    started_at: int
    """Nanoseconds since the epoch, by the producer's clock."""
    settings: dict[str, Any]
    dataset: dict[str, Any]
    """Where the conversations are from, which of them, by which rule; the SHA-256 of the file."""
    producer: dict[str, str]
    """Versions and machine of the load generator."""
    workers: list[dict[str, Any]]
    """What each worker said of itself when the run began: model, build, CPU, settings."""
    part: int = 0
    num_parts: int = 1


class TurnRecord(Struct, frozen=True, tag_field="kind", tag="turn", omit_defaults=True):
    """One turn. `arrivals` are (seconds, how many tokens came then)."""

    number: int
    """Of the arrival in an open loop, of the turn in a closed one; the same in every part of a run."""
    conversation: int
    """Its number in the run."""
    index: int
    """The how manieth of the conversation's turns, from 0."""
    turn: str
    model: str
    sent_at: float
    ended_at: float
    outcome: str
    """stop, length, cancelled, or the code of a failure."""
    priority: str = DEFAULT_PRIORITY
    dataset_id: str = ""
    scheduled_at: float | None = None
    arrivals: tuple[tuple[float, int], ...] = ()
    worker: str | None = None
    node: str | None = None
    is_failed: bool = False
    detail: str = ""
    attempt: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_wait_seconds: float | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    level: float | None = None
    """A sweep's rate, in turns per second."""

    @property
    def first_token_at(self) -> float | None:
        return self.arrivals[0][0] if self.arrivals else None

    @property
    def ttft_seconds(self) -> float | None:
        first = self.first_token_at
        return None if first is None else metrics.ttft(self.sent_at, first)

    @property
    def scheduled_ttft_seconds(self) -> float | None:
        """From when it should have been sent: an open loop that falls behind would flatter itself otherwise."""
        first = self.first_token_at
        return None if first is None or self.scheduled_at is None else metrics.ttft(self.scheduled_at, first)

    @property
    def num_tokens(self) -> int:
        return sum(count for _, count in self.arrivals)

    @property
    def tpot_seconds(self) -> float | None:
        if not self.arrivals:
            return None
        return metrics.tpot(self.arrivals[0][0], self.arrivals[-1][0], self.num_tokens)

    @property
    def latency_seconds(self) -> float:
        return self.ended_at - self.sent_at

    @property
    def prefill_tokens_per_second(self) -> float | None:
        if self.prefill_seconds is None:
            return None
        return metrics.prefill_rate(self.prompt_tokens, self.cached_tokens, self.prefill_seconds)

    @property
    def decode_tokens_per_second(self) -> float | None:
        return None if self.decode_seconds is None else metrics.decode_rate(self.completion_tokens, self.decode_seconds)

    def gaps(self) -> Iterator[float]:
        """Between its tokens; those that came together have none between them."""
        for index, (at, count) in enumerate(self.arrivals):
            if index:
                yield at - self.arrivals[index - 1][0]
            yield from (0.0 for _ in range(count - 1))


class Continued(Struct, frozen=True, tag_field="kind", tag="continued"):
    """The run went on after it had been interrupted; what it had of these conversations is void."""

    at: int
    void: tuple[int, ...]


class Ended(Struct, frozen=True, tag_field="kind", tag="ended"):
    """All was done, after so many seconds."""

    seconds: float


Line = Header | TurnRecord | Continued | Ended


def with_end(end: End, **fields: Any) -> TurnRecord:
    """A turn's record from its end and what the producer saw."""
    if isinstance(end, Failed):
        return TurnRecord(
            outcome=end.code, is_failed=True, detail=end.detail, attempt=end.attempt, worker=end.worker, **fields
        )
    return TurnRecord(
        outcome=end.finish_reason,
        attempt=end.attempt,
        worker=end.worker,
        prompt_tokens=end.usage.prompt_tokens,
        cached_tokens=end.usage.cached_tokens,
        completion_tokens=end.usage.completion_tokens,
        queue_wait_seconds=end.timings.queue_wait,
        prefill_seconds=end.timings.prefill,
        decode_seconds=end.timings.decode,
        **fields,
    )


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
        self._file.write(msgspec.json.encode(line) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def read(path: Path) -> Run:
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


def read_all(paths: Iterable[Path]) -> list[Run]:
    """The runs in several files, parts of one run merged, in the files' order. Raises RecordError."""
    found: dict[str, Run] = {}
    for path in paths:
        run = read(path)
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


def details(turns: Iterable[TurnRecord]) -> list[str]:
    """Why turns failed in the words of the first one of each code, a line each."""
    found: dict[str, str] = {}
    for turn in turns:
        if turn.is_failed and turn.detail:
            found.setdefault(turn.outcome, f"{turn.outcome}: {turn.detail}")
    return list(found.values())


class Summary(Struct, frozen=True):
    """A run in figures. Rates in tokens per second; None where there was nothing to measure."""

    num_turns: int
    num_failed: int
    seconds: float
    ttft_p50_seconds: float | None
    ttft_p99_seconds: float | None
    scheduled_ttft_p99_seconds: float | None
    tpot_p50_seconds: float | None
    tpot_p99_seconds: float | None
    itl_max_seconds: float | None
    prefill_tokens_per_second: float | None
    """Prompt tokens not from the cache ÷ the workers' time for them, over all turns."""
    decode_tokens_per_second: float | None
    """The mean of the turns' own decode rates."""
    throughput_tokens_per_second: float | None
    """Generated tokens of all turns ÷ the run's wall time."""
    turns_per_second: float | None
    goodput_turns_per_second: float | None
    """Turns per second that met the stated TTFT and TPOT; None without such bounds."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    failures: dict[str, int] = {}
    """How many turns failed, by the code of the failure."""


class Bounds(Struct, frozen=True):
    """What a turn must meet to count as good: from the scheduled send where there is one."""

    ttft_seconds: float | None = None
    tpot_seconds: float | None = None

    def __bool__(self) -> bool:
        return self.ttft_seconds is not None or self.tpot_seconds is not None

    def are_met(self, turn: TurnRecord) -> bool:
        if turn.is_failed or turn.outcome == "cancelled" or turn.ttft_seconds is None:
            return False
        ttft = turn.scheduled_ttft_seconds if turn.scheduled_at is not None else turn.ttft_seconds
        if self.ttft_seconds is not None and (ttft is None or ttft > self.ttft_seconds):
            return False
        tpot = turn.tpot_seconds
        return self.tpot_seconds is None or tpot is None or tpot <= self.tpot_seconds


NO_BOUNDS = Bounds()


def summarize(records: Sequence[TurnRecord], seconds: float, bounds: Bounds = NO_BOUNDS) -> Summary:
    """The figures of a run that took `seconds` of wall time."""
    done = [record for record in records if not record.is_failed]
    ttfts = [value for record in done if (value := record.ttft_seconds) is not None]
    scheduled = [value for record in done if (value := record.scheduled_ttft_seconds) is not None]
    tpots = [value for record in done if (value := record.tpot_seconds) is not None]
    prompt = sum(record.prompt_tokens for record in done)
    cached = sum(record.cached_tokens for record in done)
    completion = sum(record.completion_tokens for record in done)
    num_good = sum(bounds.are_met(record) for record in records)
    prefill_seconds = sum(record.prefill_seconds or 0.0 for record in done)
    return Summary(
        num_turns=len(records),
        num_failed=len(records) - len(done),
        seconds=seconds,
        ttft_p50_seconds=metrics.percentile(ttfts, 50),
        ttft_p99_seconds=metrics.percentile(ttfts, 99),
        scheduled_ttft_p99_seconds=metrics.percentile(scheduled, 99),
        tpot_p50_seconds=metrics.percentile(tpots, 50),
        tpot_p99_seconds=metrics.percentile(tpots, 99),
        itl_max_seconds=max((gap for record in done for gap in record.gaps()), default=None),
        prefill_tokens_per_second=metrics.prefill_rate(prompt, cached, prefill_seconds),
        decode_tokens_per_second=metrics.mean(
            [rate for record in done if (rate := record.decode_tokens_per_second) is not None]
        ),
        throughput_tokens_per_second=completion / seconds if seconds > 0 and completion else None,
        turns_per_second=len(done) / seconds if seconds > 0 and done else None,
        goodput_turns_per_second=num_good / seconds if bounds and seconds > 0 else None,
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        failures=dict(Counter(record.outcome for record in records if record.is_failed)),
    )
