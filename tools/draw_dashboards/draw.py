"""Pictures of the dashboards for the docs: a demo load into a real InfluxDB, drawn with Grafana's own components.

    python tools/draw_dashboards/draw.py docs/dashboards

Needs node and npm, chromium and influxd (Debian: chromium, influxdb). Grafana itself is not in the package registries;
`@grafana/ui` is. A machine without sensors shows no heat and no watts, so a second node, `pi5`, is sampled from the
composed tree of tests/trees, and the page in docs says so.
"""

from __future__ import annotations

import asyncio
import functools
import http.server
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from broker.accounts import LOCAL, SIDECAR, WORKER, write_credentials  # noqa: E402
from broker.client import Client  # noqa: E402
from broker.influx_address import InfluxAddress  # noqa: E402
from broker.process import spawn, terminate  # noqa: E402
from broker.server import EmbeddedServer  # noqa: E402
from telemetry.dashboards import PAGES  # noqa: E402
from telemetry.database import init  # noqa: E402
from telemetry.grafana import build  # noqa: E402
from telemetry.influx import Influx  # noqa: E402
from tests.influx_server import InfluxServer  # noqa: E402
from tests.trees import plant  # noqa: E402
from tests.unit.test_board import PMIC, firmware  # noqa: E402

TURNPIKE = [sys.executable, str(ROOT / "turnpike")]
RUNS = (("one-at-a-time", 1), ("eight-at-once", 8))
WIDTH = 1600


async def fill(folder: Path, influx: InfluxServer) -> None:
    """Two workers, two sidecars, two load runs."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer(folder / "server"))
        await server.ensure(["demo"])
        for user in (LOCAL, SIDECAR, WORKER):
            write_credentials(folder / f"{user}.credentials", server.address(user))

        async def start(*flags: str | Path) -> None:
            environment = {"TURNPIKE_INFLUX_URL": influx.url}
            process = await spawn([*TURNPIKE, *map(str, flags), "--log-level", "WARNING"], env=environment)
            stack.push_async_callback(terminate, process)

        def as_user(user: str) -> tuple[str | Path, ...]:
            return "--credentials", folder / f"{user}.credentials"

        pi5 = plant("pi5", folder / "pi5")
        command = firmware(folder, get_throttled="throttled=0x0", pmic_read_adc=PMIC)._path
        monitor = ("--monitor-url", server.monitoring_url)
        await start("sidecar", *as_user(SIDECAR), "--node", "here", *monitor)
        await start("sidecar", *as_user(SIDECAR), "--node", "pi5", "--root", pi5, "--vcgencmd", str(command))
        for number in (1, 2):
            await start("worker", *as_user(WORKER), "--node", "here", "--worker-name", f"w{number}", "--threads", "1")
        async with Client(server.address(LOCAL)) as client:
            while len(await client.workers()) < 2:
                pass
        await asyncio.sleep(5)
        for run, concurrency in RUNS:
            command = [*TURNPIKE, "load", *map(str, as_user(LOCAL)), "--model", "demo", "--run", run, "--json"]
            command += ["--concurrency", str(concurrency), "--ignore-eos", "--max-tokens", "300"]
            if await (await spawn(command, stdout=asyncio.subprocess.DEVNULL)).wait():
                raise SystemExit(f"the load {run} failed")
            await asyncio.sleep(5)


def answers(influx: InfluxServer, dashboard: dict[str, Any], start: int) -> dict[int, list[Any]]:
    """What the database says to each panel's queries, as Grafana would have asked them."""
    found: dict[int, list[Any]] = {}
    for panel in dashboard["panels"]:
        found[panel["id"]] = [_ask(influx, target["query"], start) for target in panel.get("targets", ())]
    return found


def _ask(influx: InfluxServer, query: str, start: int) -> list[Any]:
    query = query.replace("$timeFilter", f"time >= {start}ms").replace("$__interval", "2s")
    query = re.sub(r"/\^\$\w+\$/", "/^.*$/", query).replace('"run" =~ /^.*$/', "\"run\" != '-'")
    values = urllib.parse.urlencode({"q": query, "db": "turnpike", "epoch": "ms"})
    with urllib.request.urlopen(f"{influx.url}/query?{values}") as answer:
        series: list[Any] = json.load(answer)["results"][0].get("series", [])
    return series


def height(dashboard: dict[str, Any]) -> int:
    return 60 + 38 * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A web server that says nothing of its work."""

    def log_message(self, format: str, *arguments: object) -> None: ...


def photograph(data: dict[str, Any], out: Path) -> None:
    """Builds the page, serves it, and has Chromium take a picture of each dashboard."""
    for command in (["npm", "install", "--no-audit", "--no-fund"], ["npx", "vite", "build"]):
        subprocess.run(command, cwd=HERE, check=True, stdout=subprocess.DEVNULL)
    (HERE / "dist" / "data.js").write_text(f"window.DATA = {json.dumps(data)};")
    handler = functools.partial(Quiet, directory=HERE / "dist")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        out.mkdir(parents=True, exist_ok=True)
        for uid, page in data["pages"].items():
            picture = out / f"{uid.removeprefix('turnpike-')}.png"
            command = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=20000"]
            command += [f"--window-size={WIDTH},{height(page['dashboard'])}", f"--screenshot={picture.absolute()}"]
            url = f"http://127.0.0.1:{site.server_port}/index.html?page={uid}"
            subprocess.run([*command, url], check=True, capture_output=True)
        site.shutdown()


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/draw_dashboards/draw.py FOLDER")

    async def collect() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="turnpike-draw-") as folder:
            influx = InfluxServer(Path(folder) / "influx")
            async with influx:
                await asyncio.to_thread(init, Influx(InfluxAddress.parse(influx.url)))
                start = time.time_ns() // 1_000_000
                await fill(Path(folder), influx)
                pages = {}
                for page in PAGES:
                    dashboard = build(page)
                    pages[page.uid] = {"dashboard": dashboard, "answers": answers(influx, dashboard, start)}
                return {"pages": pages, "from": start, "to": time.time_ns() // 1_000_000}

    photograph(asyncio.run(collect()), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
