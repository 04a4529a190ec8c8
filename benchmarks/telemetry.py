"""What does telemetry cost a stream's decode, and how many points does one sidecar write?

Decode with the sidecar sampling once a second and without (SIGSTOP) by turns, on all cores; then 10,000 points a second
into InfluxDB 1.6 (Debian: influxdb), and 1,000 a second while it is killed for a minute; left out where there is none.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.harness import CORES, ROOT, Row, show, system, text_of, timed
from broker.accounts import SIDECAR, write_credentials
from broker.connection import connect
from broker.influx_address import InfluxAddress
from broker.messages import Point
from broker.process import spawn, terminate
from broker.recorder import Recorder
from broker.server import EmbeddedServer
from telemetry.database import init
from telemetry.influx import Influx
from tests.influx_server import InfluxServer
from tests.support import eventually

NUM_PAIRS = 24
NUM_TOKENS = 64
POINTS_PER_SECOND = 10_000
LOAD_SECONDS = 60
OUTAGE_RATE = 1_000


@asynccontextmanager
async def sidecar(server: EmbeddedServer, url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    credentials = server.folder / "sidecar.credentials"
    write_credentials(credentials, server.address(SIDECAR))
    command = [sys.executable, ROOT / "turnpike", "sidecar", "--credentials", credentials, "--log-level", "WARNING"]
    command += ["--monitor-url", server.monitoring_url]
    process = await spawn(list(map(str, command)), env={"TURNPIKE_INFLUX_URL": url})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        await terminate(process)


async def decode() -> tuple[list[float], float, float]:
    """The ratios with ÷ without of each pair; the sidecar's share of a core and its bytes."""
    ratios = []
    async with system("--threads", CORES) as running, sidecar(running.server, "file:/dev/null") as process:
        measured = psutil.Process(process.pid)
        await timed(running.client, text_of(32), 32)
        cpu, wall = sum(measured.cpu_times()[:2]), 0.0
        for number in range(NUM_PAIRS):
            rates = {}
            # The order changes from pair to pair, so that a drift of the machine favours neither.
            for is_on in (True, False) if number % 2 else (False, True):
                process.send_signal(signal.SIGCONT if is_on else signal.SIGSTOP)
                started = time.perf_counter()
                rates[is_on] = (await timed(running.client, text_of(32, number), NUM_TOKENS)).decode_rate
                wall += time.perf_counter() - started if is_on else 0.0
            ratios.append(rates[True] / rates[False])
        process.send_signal(signal.SIGCONT)
        share = (sum(measured.cpu_times()[:2]) - cpu) / wall
        return ratios, share, float(measured.memory_info().rss)


async def sustained(rate: int, num_seconds: int, outage: range = range(0)) -> tuple[int, int, float]:
    """Points sent and points found in the database, and the seconds that sending took.

    InfluxDB is killed in the first second of `outage` and comes back in its last.
    """
    with TemporaryDirectory(prefix="turnpike-bench-") as folder:
        influx = InfluxServer(Path(folder) / "influx")
        async with influx, EmbeddedServer(Path(folder) / "server") as server:
            await asyncio.to_thread(init, Influx(InfluxAddress.parse(influx.url)))
            await server.ensure(["m"])
            async with sidecar(server, influx.url):
                nc = await connect(server.address(SIDECAR), name="bench")
                recorder = Recorder(nc, "bench")
                now, started = time.time_ns(), time.perf_counter()
                for second in range(num_seconds):
                    if outage and second == outage[0]:
                        await influx.kill()
                    if outage and second == outage[-1]:
                        await influx.start()
                    recorder.record(*(_point(now, second, number) for number in range(rate)))
                    await recorder.flush()
                    await asyncio.sleep(max(0.0, started + second + 1 - time.perf_counter()))
                seconds = time.perf_counter() - started
                total = num_seconds * rate
                await eventually(lambda: _count(influx) == total, 60)
                await nc.close()
                return recorder.num_sent, _count(influx), seconds


def _point(now: int, second: int, number: int) -> Point:
    at = now + second * 1_000_000_000 + number * 1000
    return Point("bench", {"node": f"n{number % 10}"}, {"x": float(number), "y": number}, at)


def _count(influx: InfluxServer) -> int:
    rows = influx.query("SELECT count(x) FROM bench")
    return int(rows[0]["count"]) if rows else 0


def main() -> None:
    ratios, share, rss = asyncio.run(decode())
    mean = statistics.mean(ratios)
    # 95 %: Student's t for 23 degrees of freedom.
    margin = 2.069 * statistics.stdev(ratios) / math.sqrt(len(ratios))
    interval = f"{mean - margin:.3f} – {mean + margin:.3f}"
    rows = [
        Row(f"decode with the sidecar ÷ without, {len(ratios)} pairs", interval, "1", mean, 0.99),
        Row("the sidecar's share of a core", f"{100 * share:.2f} %", "–", share, 0.01, at_most=True),
        Row("the sidecar's memory", f"{rss / 2**20:.0f} MiB", "–", rss / 2**20, 60, at_most=True),
    ]
    if shutil.which("influxd"):
        for rate, num_seconds, outage in (
            (POINTS_PER_SECOND, LOAD_SECONDS, range(0)),
            (OUTAGE_RATE, 90, range(15, 76)),
        ):
            sent, found, seconds = asyncio.run(sustained(rate, num_seconds, outage))
            shown = f"{found / seconds:.0f}/s for {seconds:.0f} s", f"{sent} sent"
            name = f", {len(outage) - 1} s of it away" if outage else ""
            rows.append(Row(f"points found ÷ sent, InfluxDB 1.6{name}", *shown, found / sent, 1.0))
    show("telemetry", rows)


if __name__ == "__main__":
    main()
