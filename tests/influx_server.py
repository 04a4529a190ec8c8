"""Real databases for tests: Debian's InfluxDB 1.6 and VictoriaMetrics, each on a free port with a folder of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from broker.process import spawn, terminate
from tests.support import free_port

NO_INFLUXDB = "no influxd here (Debian: influxdb)"
has_influxdb = shutil.which("influxd") is not None
needs_influxdb = pytest.mark.skipif(not has_influxdb, reason=NO_INFLUXDB)
needs_victoria_metrics = pytest.mark.skipif(
    shutil.which("victoria-metrics") is None, reason="no victoria-metrics here (Debian: victoria-metrics)"
)
READY_SECONDS = 20.0


class DatabaseServer:
    """A database as an async context manager; `url` is its HTTP address, the same after a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: asyncio.subprocess.Process | None = None

    def command(self) -> tuple[list[str | Path], dict[str, str]]:
        raise NotImplementedError

    async def __aenter__(self) -> DatabaseServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        await terminate(self._process)

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command, environment = self.command()
        with (self.folder / "log").open("ab") as log:
            self._process = await spawn(command, env=environment, stdout=log.fileno(), stderr=log.fileno())
        async with asyncio.timeout(READY_SECONDS):
            while not await asyncio.to_thread(self._answers):
                assert self._process.returncode is None, (self.folder / "log").read_text()[-2000:]
                await asyncio.sleep(0.05)  # it does not tell when it is ready

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ping", timeout=1):
                return True
        except OSError:
            return False

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send_signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class InfluxServer(DatabaseServer):
    """influxd 1.x. Its continuous queries run each second."""

    def __init__(self, folder: Path, **environment: str) -> None:
        super().__init__(folder)
        self._environment = environment

    def command(self) -> tuple[list[str | Path], dict[str, str]]:
        environment = {
            "INFLUXDB_REPORTING_DISABLED": "true",
            "INFLUXDB_BIND_ADDRESS": f"127.0.0.1:{free_port()}",
            "INFLUXDB_META_DIR": str(self.folder / "meta"),
            "INFLUXDB_DATA_DIR": str(self.folder / "data"),
            "INFLUXDB_DATA_WAL_DIR": str(self.folder / "wal"),
            "INFLUXDB_HTTP_BIND_ADDRESS": f"127.0.0.1:{self.port}",
            "INFLUXDB_MONITOR_STORE_ENABLED": "false",
            "INFLUXDB_CONTINUOUS_QUERIES_RUN_INTERVAL": "1s",
        }
        (self.folder / "empty.conf").touch()
        return ["influxd", "-config", self.folder / "empty.conf"], environment | self._environment

    def query(self, statement: str, database: str = "turnpike") -> list[dict[str, Any]]:
        """The rows of all series of a statement, by column, tags among them. Times are nanoseconds."""
        values = {"q": statement, "db": database, "epoch": "ns"}
        request = f"{self.url}/query?{urllib.parse.urlencode(values)}"
        with urllib.request.urlopen(request, timeout=20, data=b"" if statement[:6] == "CREATE" else None) as answer:
            results = json.load(answer)["results"]
        found = []
        for result in results:
            assert "error" not in result, f"{statement}: {result['error']}"
            for series in result.get("series", ()):
                for row in series["values"]:
                    found.append(series.get("tags", {}) | dict(zip(series["columns"], row, strict=True)))
        return found


class VictoriaMetrics(DatabaseServer):
    """Takes InfluxDB's line protocol by the unmodified /api/v2/write."""

    def command(self) -> tuple[list[str | Path], dict[str, str]]:
        # Its default is to hide what was written within the last half minute from queries.
        flags = [f"-storageDataPath={self.folder / 'data'}", f"-httpListenAddr=127.0.0.1:{self.port}"]
        return ["victoria-metrics", *flags, "-search.latencyOffset=0s"], {}

    def export(self, metric: str) -> list[dict[str, Any]]:
        """Every series of a metric: its labels, values and times in milliseconds."""
        query = urllib.parse.urlencode({"match[]": metric})
        with urllib.request.urlopen(f"{self.url}/internal/force_flush", timeout=10):
            pass
        with urllib.request.urlopen(f"{self.url}/api/v1/export?{query}", timeout=10) as answer:
            return [json.loads(line) for line in answer.read().decode().splitlines()]
