"""Every query of every dashboard and alert, on a real InfluxDB that a real worker and sidecar filled."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker import points
from broker.accounts import LOCAL, OPERATOR, SIDECAR
from broker.client import Client
from broker.connection import close, connect
from broker.errors import TurnpikeError
from broker.influx_address import InfluxAddress
from broker.messages import Message, Sampling
from broker.messages.boards import BROKEN, SERVING
from broker.placing import Watch
from broker.priorities import BATCH, INTERACTIVE
from broker.recorder import Recorder
from broker.server import EmbeddedServer
from producers.data.datasets import Conversation
from producers.load.run import run_load
from producers.records.figures import NO_BOUNDS
from producers.records.files import Run
from producers.records.lines import Header, TurnRecord
from producers.report.nodes import PANELS, FromFile, FromInflux, NoTelemetry, telemetry
from producers.report.page import page
from producers.report.run_figures import figures
from producers.settings import LoadSettings
from telemetry.board import Board
from telemetry.dashboards import ALERTS, PAGES
from telemetry.grafana import DATASOURCE, alert_rules, build, files
from telemetry.influx import FileSink, InfluxSink
from tests.board_fakes import is_in, running_board, until
from tests.fakes import FakeEngine
from tests.influx_server import InfluxServer
from tests.integration.conftest import StartWorker
from tests.integration.test_telemetry import sidecar
from tests.support import ROOT, eventually
from tests.trees import plant
from tests.unit.test_board import PMIC, firmware
from workers.reporting.metrics import WorkerMetrics

FOLDER = ROOT / "k3s" / "dashboards"
KNOWN_UNITS = {
    "none", "s", "watt", "celsius", "percentunit", "bytes", "Bps", "hertz", "joule", "suffix: tokens/s", "short", None
}  # fmt: skip


def queries_of(page: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where each query stands, and its text."""
    for panel in page["panels"]:
        for target in panel.get("targets", ()):
            yield f"{page['title']} / {panel['title']} / {target['refId']}", target["query"]
    for variable in page.get("templating", {}).get("list", ()):
        yield f"{page['title']} / variable {variable['name']}", variable["query"]
    for annotation in page["annotations"]["list"]:
        yield f"{page['title']} / annotation {annotation['name']}", annotation["query"]


def expanded(query: str, **chosen: str) -> str:
    """As Grafana sends it."""
    query = query.replace("$timeFilter", "time >= now() - 1h").replace("$__interval", "1s")
    return re.sub(r"/\^\$(\w+)\$/", lambda match: f"/^{chosen.get(match[1], '.*')}$/", query)


async def swap(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    """A board whose model "m" cannot be loaded, then can, for a turn that waits, and then makes room for another."""
    nc = await connect(nats_server.address(OPERATOR), name="watch")
    async with Watch(nc) as watch, Client(nats_server.address(LOCAL)) as client:
        await client.ask("m", "before anybody serves it", run="first").publish()
        async with running_board(nats_server, tmp_path, {"m": "broken"}, name="unknown") as board:
            await until(watch, is_in("m", BROKEN, "unknown"))
            await board.end()
        async with running_board(nats_server, tmp_path, {"m": "serves", "lonely": "serves"}, name="unknown") as board:
            await until(watch, is_in("m", SERVING, "unknown"))
            await client.ask("lonely", "hello").publish()
            await until(watch, is_in("lonely", SERVING, "unknown"))
            await board.end()
    await close(nc)


async def fill(nats_server: EmbeddedServer, influx: InfluxServer, start_worker: StartWorker, tmp_path: Path) -> None:
    """Two runs, one turn that fails, one that waits, a Pi's sensors, a board's swap, and events of each kind."""
    await nats_server.ensure(["m", "lonely"])
    await swap(nats_server, tmp_path)
    nc = await connect(nats_server.address(SIDECAR), name="pi")
    pi = Recorder(nc, "unknown")
    board = Board(
        plant("pi5", tmp_path / "pi5"),
        "unknown",
        firmware(tmp_path, get_throttled="throttled=0x50005", pmic_read_adc=PMIC),
        clock := itertools.count().__next__,
    )
    board._vcgencmd._clock = lambda: 10.0 * clock()
    messages = tuple(Message("user", f"hello {number}") for number in range(4))
    conversations = [Conversation(f"c{number}", messages) for number in range(6)]
    async with (
        start_worker(FakeEngine(step_seconds=0.002)) as running,
        Client(nats_server.address(LOCAL)) as client,
        sidecar(nats_server, tmp_path, influx.url, "unknown") as side,
    ):
        side._board.watts = 5.0  # this machine has no source of them
        metrics = running.worker.reporter._metrics
        assert isinstance(metrics, WorkerMetrics)
        metrics.shape = type(metrics.shape)(10**9, 1000, 3e10)
        for run in ("first", "second"):
            options = LoadSettings(model="m", max_tokens=20, run=run)
            records = await run_load(client, options, conversations)
            assert len(records) == 24
            tags = {"node": "unknown", "model": "m", "quantization": "none", "worker": "w2", "run": run}
            pi.record(points.TURN.point(time.time_ns(), tags, {"is_failed": False, "fetch_seconds": 0.2}))
        await client.ask("m", "x" * 5000, run="second", sampling=Sampling(max_tokens=2)).publish()
        for kind in ("worker lost", "throttling began"):
            pi.record(points.event(time.time_ns(), kind, kind, node="unknown", worker="w"))
        for _ in range(3):
            pi.record(*board.points(time.time_ns()))
            for cpu in ("0", "all"):
                fields = {"busy_ratio": 0.5, "frequency_hertz": 2.4e9}
                pi.record(points.CPU.point(time.time_ns(), {"node": "unknown", "cpu": cpu}, fields))
        assert await pi.flush()
        await eventually(lambda: influx.query('SELECT * FROM "turn" WHERE "is_failed" = true'))
        await eventually(lambda: len(influx.query('SELECT last("joules") FROM "turn" GROUP BY "run"')) == 2)
        await eventually(lambda: influx.query("SELECT * FROM process WHERE cpu_ratio > 0"))
        await eventually(lambda: len(influx.query('SELECT "store_bytes" FROM broker')) >= 2)
        await eventually(lambda: influx.query("SELECT * FROM queue WHERE oldest_seconds > 0"))
        await eventually(lambda: influx.query("SELECT * FROM event WHERE kind = 'run ended'"))
        await eventually(lambda: influx.query('SELECT "load_wait_seconds" FROM turn'))
    await nc.close()


@pytest.mark.timeout(120)
async def test_a_report_shows_what_the_nodes_did(
    nats_server: EmbeddedServer, influx: InfluxServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    started = time.time_ns()
    await fill(nats_server, influx, start_worker, tmp_path)
    turns = [TurnRecord(n, n, 0, f"t{n}", "m", float(n), n + 1.0, "stop", completion_tokens=4) for n in range(20)]
    run = Run(Header(1, "first", started, {"model": "m"}, {}, {}, []), turns, 20.0)
    database = telemetry(influx.url)
    for panel in PANELS:
        found = await asyncio.to_thread(database.series, run, panel)
        assert found, panel.title
        assert all(one.name and len(one.times) == len(one.values) > 0 for one in found)
        assert all(0 <= at <= 20 for one in found for at in one.times)
    energy = await asyncio.to_thread(database.joules, run)
    assert energy is not None
    figured = figures(run, joules=energy)
    assert figured.joules_per_token == energy / 80
    text = await asyncio.to_thread(page, [run], [figured], [], [], NO_BOUNDS, database)
    for panel in PANELS:
        assert f'aria-label="{panel.title}"' in text
    await influx.kill()
    with pytest.raises(NoTelemetry, match="refused"):
        await asyncio.to_thread(database.joules, run)
    with pytest.raises(NoTelemetry, match="No such file"):
        telemetry(f"file:{tmp_path / 'none.lp'}").joules(run)
    with pytest.raises(TurnpikeError, match="INFLUX_URL"):
        telemetry("pi:8086")


async def test_a_sidecars_file_tells_a_report_what_influxdb_does(influx: InfluxServer, tmp_path: Path) -> None:
    began = time.time_ns() // 10**9 * 10**9
    sent = []
    for second in range(300):
        at = began + second * 10**9 + 7
        for node in ("pi-1", "a, b=c\\"):
            sent += [
                points.CPU.point(at, {"node": node, "cpu": cpu}, {"busy_ratio": second / 400, "frequency_hertz": 2.4e9})
                for cpu in ("0", "all")
            ]
            sent.append(points.MEMORY.point(at, {"node": node}, {"used_bytes": 10**9 + second, "total_bytes": 2**33}))
            tags = {"node": node, "sensor": "soc"}
            sent.append(points.TEMPERATURE.point(at, tags, {"celsius": 50 + second % 7}))
        tags = {"node": "pi-1", "model": "m", "quantization": "Q4_0", "worker": "w", "run": "r"}
        sent.append(points.TURN.point(at, tags, {"outcome": "stop, joules=9", "is_failed": False, "joules": 0.25}))
    file = tmp_path / "points.lp"
    sinks = InfluxSink(InfluxAddress.parse(influx.url)), FileSink(file, max_bytes=100_000)
    found = [point for point in sent if point is not None]
    for begin in range(0, len(found), 500):
        for sink in sinks:
            assert await sink.write(found[begin : begin + 500]) == []
    assert (tmp_path / "points.lp.1").exists()
    with file.open("a") as cut_off:
        cut_off.write("memory,node=pi-1 used_bytes=99")
    turns = [TurnRecord(0, 0, 0, "t", "m", 0.0, 299.5, "stop")]
    run = Run(Header(1, "r", began, {"model": "m"}, {}, {}, []), turns, 299.5)
    database = FromInflux(InfluxAddress.parse(influx.url))
    for panel in PANELS[:3]:
        series = [await asyncio.to_thread(source.series, run, panel) for source in (database, FromFile(file))]
        assert len(series[0]) == 2
        assert [one.name for one in series[0]] == [one.name for one in series[1]]
        for one, other in zip(*series, strict=True):
            assert one.times == other.times
            assert one.values == pytest.approx(other.values)
    assert FromFile(file).joules(run) == await asyncio.to_thread(database.joules, run) == 75.0


@pytest.mark.timeout(120)
async def test_every_query_of_every_dashboard_and_alert_finds_something(
    nats_server: EmbeddedServer, influx: InfluxServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    await fill(nats_server, influx, start_worker, tmp_path)
    asked = [pair for page in PAGES for pair in queries_of(build(page))]
    for group in alert_rules()["groups"]:
        asked += [(rule["title"], rule["data"][0]["model"]["query"]) for rule in group["rules"]]
    empty = []
    for where, query in asked:
        for chosen in ({}, {"node": "unknown", "model": "(m)", "run": "(first|second)"}):
            rows = influx.query(expanded(query, **chosen))
            values = [value for row in rows for name, value in row.items() if name != "time"]
            if all(value is None for value in values):
                empty.append(f"{where}: {expanded(query, **chosen)}")
    assert empty == []
    assert len(asked) > 110


async def test_only_turns_that_nobody_takes_are_an_alert_not_a_model_that_is_not_loaded(influx: InfluxServer) -> None:
    now = time.time_ns()
    queues = {
        "unloaded": {"num_pending": 0, "num_waiting_pulls": 0, "num_in_work": 0},
        "idle": {"num_pending": 0, "num_waiting_pulls": 2, "num_in_work": 0},
        "busy": {"num_pending": 10_000, "num_waiting_pulls": 0, "num_in_work": 1},
        "alone": {"num_pending": 1, "num_waiting_pulls": 0, "num_in_work": 0},
    }
    written = [
        points.QUEUE.point(now, {"model": model, "priority": priority}, fields)
        for model, fields in queues.items()
        for priority in (INTERACTIVE, BATCH)
    ]
    sink = InfluxSink(InfluxAddress.parse(influx.url))
    assert await sink.write([point for point in written if point is not None]) == []
    (alert,) = (one for one in ALERTS if one.uid == "turnpike-no-worker")
    query = expanded(alert.query.text(""))
    firing = []
    for model in queues:
        rows = influx.query(query.replace(" GROUP BY", f" AND \"model\" = '{model}' GROUP BY"))
        assert len(rows) == 1
        (value,) = (value for name, value in rows[0].items() if name not in ("time", "model"))
        firing += [model] if float(value) > alert.above else []
    assert firing == ["alone"]


def test_the_files_are_what_the_script_makes() -> None:
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == files(), (
        "renew them: python -m telemetry.grafana k3s/dashboards"
    )


@pytest.mark.parametrize("name", ["cluster", "boards", "model", "node", "experiment"])
def test_a_dashboard_is_well_built(name: str) -> None:
    page = json.loads((FOLDER / f"{name}.json").read_text())
    panels = page["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    for one, other in itertools.combinations(places, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart or above, f"{one} lies over {other}"
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    uids = {json.loads(path.read_text())["uid"] for path in FOLDER.glob("*.json")}
    for panel in panels:
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "influxdb", "uid": DATASOURCE}
        assert panel["title"]
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit")
        assert unit in KNOWN_UNITS, f"{panel['title']}: {unit}"
        assert panel["type"] == "table" or unit is not None
        for link in panel.get("links") or ():
            assert link["url"].removeprefix("/d/") in uids
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert {link["url"].removeprefix("/d/") for link in page["links"]} == uids - {page["uid"]}


def test_a_name_that_no_measurement_has_is_found_when_the_files_are_made() -> None:
    from telemetry.dashboards import Query

    with pytest.raises(LookupError, match="turn has no 'ttft'"):
        Query(points.TURN, 'mean("ttft")').text("")
