"""Points into InfluxDB 1.6 to 3 Core, or a file. The only importer of influxdb_client.

One path for all: line protocol by influxdb-client's WriteApi. Servers below 1.8 do not know its `/api/v2/write`: there
the same call is sent to `/write`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from broker.errors import TurnpikeError
from broker.influx_address import InfluxAddress
from broker.locks import CannotLock, InUse, Lock
from broker.messages import Point

# influxdb-client loads numpy where there is one, for data frames that we have none of: 11 MiB of the sidecar's memory.
_without_numpy = "numpy" not in sys.modules
if _without_numpy:
    sys.modules["numpy"] = None  # type: ignore[assignment]
try:
    import influxdb_client
    from influxdb_client import BucketRetentionRules
    from influxdb_client.client.write_api import SYNCHRONOUS
    from influxdb_client.rest import ApiException
    from urllib3.exceptions import HTTPError
finally:
    if _without_numpy:
        del sys.modules["numpy"]

__all__ = ["ApiException", "BucketRetentionRules"]

TIMEOUT_SECONDS = 20.0
FILE_BYTES = 64 * 1024 * 1024
NUM_FILES = 5
V2_WRITE_SINCE = (1, 8)
MAX_REJECTED_LINE = 2000
_RETRY = (408, 425, 429)
_CONFIGURATION = (401, 403, 404, 405)

log = logging.getLogger(__name__)


class SinkUnavailable(TurnpikeError):
    """The database does not take points just now; `retry_after` is its wish, in seconds, where it has one."""

    def __init__(self, where: str, reason: str, retry_after: float | None = None) -> None:
        self.where, self.reason, self.retry_after = where, reason, retry_after
        super().__init__(f"{where} takes no points: {reason}")


@dataclass(frozen=True)
class Rejected:
    """A line that the database will never take."""

    measurement: str
    line: str
    reason: str


class Sink(Protocol):
    """Where points end up."""

    async def write(self, points: Sequence[Point]) -> list[Rejected]:
        """Stores what can be stored; returns what was refused for its own sake. Raises SinkUnavailable."""
        ...

    async def close(self) -> None:
        """Lets go of the database or the file; nothing is written after."""
        ...


def line(point: Point) -> str:
    """A point in line protocol."""
    fields = {name: value for name, value in sorted(point.fields.items())}
    record = {"measurement": point.measurement, "tags": point.tags, "fields": fields, "time": point.time}
    found: str = influxdb_client.Point.from_dict(record).to_line_protocol()
    return found


class Influx:
    """A connection to one database. `version` is known after `connect`, as (major, minor)."""

    def __init__(self, address: InfluxAddress, timeout: float = TIMEOUT_SECONDS) -> None:
        self.address = address
        self.version: tuple[int, int] = (0, 0)
        self.version_text = ""
        self.client = influxdb_client.InfluxDBClient(
            address.url, token=address.token or "-", org=address.org, timeout=int(timeout * 1000)
        )
        if (authorization := address.authorization) is not None:
            self.client.api_client.set_default_header("Authorization", authorization)
        self._call_api: Callable[..., Any] = self.client.api_client.call_api
        # mypy will not have a method assigned
        setattr(self.client.api_client, "call_api", self._in_its_dialect)  # noqa: B010
        self._api = self.client.write_api(write_options=SYNCHRONOUS)

    def connect(self) -> None:
        """Asks which InfluxDB it is. Blocks; raises SinkUnavailable."""
        _, _, headers = self._call("/ping", "GET")
        self.version_text = headers.get("X-Influxdb-Version") or ""
        numbers = [int(part) for part in re.findall(r"\d+", self.version_text)[:2]]
        # What keeps its version to itself is new, or a stand-in that speaks the new dialect.
        self.version = (numbers[0], numbers[1]) if len(numbers) == 2 else (2, 0)

    def _in_its_dialect(self, path: str, method: str, *arguments: Any, **named: Any) -> Any:
        """influxdb-client's calls, the write of 2.x made one of 1.x for a server that knows no other."""
        if path == "/api/v2/write" and self.version < V2_WRITE_SINCE:
            path_params, _, headers, *rest = arguments
            query = [("db", self.address.database), ("precision", "ns")]
            return self._call_api("/write", method, path_params, query, headers, *rest, **named)
        return self._call_api(path, method, *arguments, **named)

    def _call(self, path: str, method: str, query: Sequence[tuple[str, str]] = (), body: Any = None) -> Any:
        try:
            return self._call_api(
                path,
                method,
                {},
                list(query),
                {},
                body=body,
                response_type="object" if path != "/ping" else None,
                _return_http_data_only=False,
            )
        except ApiException as error:
            raise SinkUnavailable(self.address.url, f"{error.status} {_words(error)}") from None
        except (HTTPError, OSError) as error:
            raise SinkUnavailable(self.address.url, _cause(error)) from None

    def influxql(self, statement: str) -> dict[str, Any]:
        """The server's answer to a statement. Blocks; raises SinkUnavailable with its words."""
        method = "GET" if statement.lstrip()[:4].upper() in ("SELE", "SHOW") else "POST"
        query = [("q", statement), ("db", self.address.database), ("epoch", "ns")]
        found: dict[str, Any] = self._call("/query", method, query)[0]
        return found

    def write(self, lines: Sequence[str]) -> None:
        """Blocks; raises ApiException, HTTPError or OSError."""
        record = "\n".join(lines).encode()
        self._api.write(bucket=self.address.database, org=self.address.org, record=record)  # in nanoseconds

    def call_json(self, path: str, method: str, body: dict[str, object]) -> None:
        """A call of InfluxDB 3's own API. Blocks; raises SinkUnavailable with its words."""
        self._call(path, method, body=body)

    def close(self) -> None:
        """Closes what influxdb-client holds: its connections and its writer."""
        closes: tuple[Callable[[], None], ...] = (self._api.close, self.client.close)
        for close in closes:
            close()


class InfluxSink:
    """Writes points; halves a refused batch until the bad lines stand alone. Writing a point twice changes nothing."""

    def __init__(self, address: InfluxAddress, timeout: float = TIMEOUT_SECONDS) -> None:
        self._influx = Influx(address, timeout)
        self._is_connected = False

    async def write(self, points: Sequence[Point]) -> list[Rejected]:
        """Writes them, the first time after asking which InfluxDB it is; returns the lines that it will never take.

        Raises SinkUnavailable where it takes nothing just now, with the seconds after which it wants to be asked again.
        """
        if not self._is_connected:
            await asyncio.to_thread(self._influx.connect)
            self._is_connected = True
            log.info("writing points url=%s version=%s", self._influx.address.url, self._influx.version_text)
        rejected: list[Rejected] = []
        await asyncio.to_thread(self._write, [(point.measurement, line(point)) for point in points], rejected)
        return rejected

    def _write(self, lines: list[tuple[str, str]], rejected: list[Rejected]) -> None:
        try:
            self._influx.write([text for _, text in lines])
        except ApiException as error:
            status = error.status or 0
            if status < 400 or status >= 500 or status in _RETRY or status in _CONFIGURATION:
                raise SinkUnavailable(
                    self._influx.address.url, f"{status} {_words(error)}", _retry_after(error)
                ) from None
            if len(lines) > 1:
                middle = len(lines) // 2
                self._write(lines[:middle], rejected)
                self._write(lines[middle:], rejected)
                return
            name, text = lines[0]
            rejected.append(Rejected(name, text[:MAX_REJECTED_LINE], _words(error)[:MAX_REJECTED_LINE]))
        except (HTTPError, OSError) as error:
            # A server that came back may be another one.
            self._is_connected = False
            raise SinkUnavailable(self._influx.address.url, _cause(error)) from None

    async def close(self) -> None:
        """Closes the connection."""
        self._influx.close()


class FileSink:
    """Line protocol in a file; a full one is moved aside (`points.lp.1` is the newest of those).

    The file is this sink's alone until `close`: raises InUse where another process writes there. A folder that cannot
    be written to yet is tried again with each batch.
    """

    def __init__(self, path: Path, max_bytes: int = FILE_BYTES, num_files: int = NUM_FILES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._num_files = num_files
        self._lock: Lock | None = None
        with contextlib.suppress(OSError, CannotLock):
            self._hold()

    def _hold(self) -> None:
        if self._lock is not None or not _is_kept(self._path):
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        advice = "let this one write to another, --influx-url file:PATH"
        self._lock = Lock.of(self._path, "the file of points", advice=advice)

    async def write(self, points: Sequence[Point]) -> list[Rejected]:
        """Appends a line each and refuses none; raises SinkUnavailable where the file is not to be had."""
        text = "".join(f"{line(point)}\n" for point in points)
        try:
            self._hold()
            if self._path.exists() and self._path.stat().st_size + len(text) > self._max_bytes:
                self._rotate()
            with self._path.open("a") as file:
                file.write(text)
        except OSError as error:
            raise SinkUnavailable(str(self._path), error.strerror or str(error)) from None
        except (InUse, CannotLock) as error:
            raise SinkUnavailable(str(self._path), str(error)) from None
        return []

    def _rotate(self) -> None:
        for index in range(self._num_files - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{index}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{index + 1}"))
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._path.with_name(f"{self._path.name}.{self._num_files}").unlink(missing_ok=True)

    async def close(self) -> None:
        """Lets go of the file."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _is_kept(path: Path) -> bool:
    """Whether a path is a file's, or nothing's yet, and not a device's: /dev/null takes everybody's points."""
    return path.is_file() or not path.exists()


def sink(url: str, token: str | None = None, org: str | None = None) -> Sink:
    """What INFLUX_URL means: a database, or a file with `file:PATH`."""
    if url.startswith("file:"):
        return FileSink(Path(url.removeprefix("file:").removeprefix("//")).expanduser())
    return InfluxSink(InfluxAddress.parse(url, token, org))


def _words(error: ApiException) -> str:
    """The server's own, without the JSON around them."""
    text = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body or error.reason or ""
    found = re.search(r'"(?:error|message)"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
    return (found[1].replace('\\"', '"') if found else text).strip()


def _retry_after(error: ApiException) -> float | None:
    headers: Mapping[str, str] = error.headers if error.headers is not None else {}
    value = headers.get("Retry-After")
    return float(value) if value is not None and value.isdigit() else None


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason).rpartition(": ")[2] or type(error).__name__
