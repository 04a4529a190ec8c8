"""Points into real databases, and back."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import points
from broker.influx_address import InfluxAddress
from broker.messages import Point
from telemetry.database import init
from telemetry.influx import FileSink, Influx, InfluxSink, SinkUnavailable, line, sink
from tests.influx_server import InfluxServer, VictoriaMetrics, needs_influxdb, needs_victoria_metrics
from tests.support import eventually, freeze

pytestmark = pytest.mark.timeout(120)


def point(**fields: float | int | bool | str) -> Point:
    return Point("m", {"node": "n"}, fields, time.time_ns())


@needs_influxdb
async def test_init_makes_database_retention_and_downsampling_once(tmp_path: Path) -> None:
    async with InfluxServer(tmp_path / "influx") as server:
        assert isinstance(server, InfluxServer)
        connection = Influx(InfluxAddress.parse(f"{server.url}/pi"))
        done = await asyncio.to_thread(init, connection)
        assert [text.partition(":")[0] for text in done] == [
            "database pi",
            "retention policy minutes",
            "continuous query minutes",
        ]
        assert await asyncio.to_thread(init, connection) == []
        policies = {row["name"]: row for row in server.query("SHOW RETENTION POLICIES", "pi")}
        assert (policies["raw"]["duration"], policies["raw"]["default"]) == ("168h0m0s", True)
        assert policies["minutes"]["duration"] == "8760h0m0s"
        # What somebody altered is put right.
        server.query('CREATE RETENTION POLICY "raw2" ON "pi" DURATION 1d REPLICATION 1 DEFAULT', "pi")
        assert await asyncio.to_thread(init, connection) == ["retention policy raw: altered, 7 days"]
        connection.close()


async def test_minutes_have_their_means(influx: InfluxServer) -> None:
    minute = time.time_ns() // 60_000_000_000 * 60_000_000_000 - 60_000_000_000
    sent = [Point("m", {"node": "n"}, {"x": float(value)}, minute + value) for value in (1, 2, 6)]
    await InfluxSink(InfluxAddress.parse(influx.url)).write(sent)
    found = await eventually(lambda: influx.query('SELECT * FROM "minutes"."m"'), 75)
    assert [(row["node"], row["mean_x"], row["time"]) for row in found] == [("n", 3.0, minute)]


finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40)
values = st.one_of(finite.map(lambda x: ("f", x)), st.integers(-(2**63), 2**63 - 1).map(lambda x: ("i", x)),
                   st.booleans().map(lambda x: ("b", x)), texts.map(lambda x: ("s", x)))  # fmt: skip


async def test_values_read_back_are_the_values_sent(influx: InfluxServer) -> None:
    out = InfluxSink(InfluxAddress.parse(influx.url))
    number = 0
    sent: list[Point] = []

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(tag=texts, fields=st.lists(values, min_size=1, max_size=4, unique_by=lambda pair: pair[0]))
    def collect(tag: str, fields: list[tuple[str, float | int | bool | str]]) -> None:
        nonlocal number
        number += 1
        clean = points.SYSTEM.point(0, {"node": tag}, {"load1": 1.0})
        assert clean is not None
        sent.append(Point("m", clean.tags, dict(fields), 1_700_000_000_000_000_000 + number))

    collect()
    now = time.time_ns()
    sent = [Point(one.measurement, one.tags, one.fields, now + index) for index, one in enumerate(sent)]
    assert await out.write(sent) == []
    found = {row["time"]: row for row in influx.query("SELECT *::field, *::tag FROM m")}
    assert len(found) == len(sent)
    for one in sent:
        row = found[one.time]
        assert row["node"] == one.tags["node"]
        for name, value in one.fields.items():
            # JSON has one kind of number, and InfluxDB writes large floats without a point.
            assert (float(row[name]) if isinstance(value, float) else row[name]) == value
            assert isinstance(row[name], bool) == isinstance(value, bool)
    await out.close()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match=r"system\.load1: -?(inf|nan) cannot be stored"):
        points.SYSTEM.point(0, {"node": "n"}, {"load1": value})


async def test_one_bad_line_is_told_and_the_others_are_written(influx: InfluxServer) -> None:
    out = InfluxSink(InfluxAddress.parse(influx.url))
    await out.write([point(x=1.0)])
    batch = [point(x=float(index)) for index in range(50)]
    batch[17] = point(x="no number")
    (rejected,) = await out.write(batch)
    assert rejected.measurement == "m"
    assert 'x="no number"' in rejected.line
    assert "field type conflict" in rejected.reason
    assert len(influx.query("SELECT x FROM m")) == 50
    await out.close()


async def test_a_point_written_twice_is_one_point(influx: InfluxServer) -> None:
    out = InfluxSink(InfluxAddress.parse(influx.url))
    batch = [point(x=float(index)) for index in range(10)]
    await out.write(batch)
    await out.write(batch)
    assert len(influx.query("SELECT x FROM m")) == 10
    await out.close()


async def test_a_database_that_is_away_slow_or_missing_is_no_loss(influx: InfluxServer) -> None:
    out = InfluxSink(InfluxAddress.parse(influx.url))
    await influx.kill()
    with pytest.raises(SinkUnavailable, match=r"takes no points: .*refused"):
        await out.write([point(x=1.0)])
    await influx.start()
    assert await out.write([point(x=1.0)]) == []
    other = InfluxSink(InfluxAddress.parse(f"{influx.url}/nowhere"))
    with pytest.raises(SinkUnavailable, match='404 database not found: "nowhere"'):
        await other.write([point(x=1.0)])
    freeze(influx.pid)
    slow = InfluxSink(InfluxAddress.parse(influx.url), timeout=0.3)
    with pytest.raises(SinkUnavailable, match="timed out"):
        await slow.write([point(x=1.0)])
    influx.send_signal(signal.SIGCONT)
    assert await slow.write([point(x=1.0)]) == []


@needs_influxdb
async def test_a_user_of_influxdb_1_logs_in(tmp_path: Path) -> None:
    server = InfluxServer(tmp_path / "influx", INFLUXDB_HTTP_AUTH_ENABLED="true")
    async with server:
        server.query("CREATE USER pi WITH PASSWORD 'a b/c' WITH ALL PRIVILEGES")
        with pytest.raises(SinkUnavailable, match="401"):
            await asyncio.to_thread(init, Influx(InfluxAddress.parse(server.url)))
        address = InfluxAddress.parse(server.url.replace("://", "://pi:a%20b%2Fc@"))
        assert "b/c" not in repr(address)
        assert await asyncio.to_thread(init, Influx(address))
        out = InfluxSink(address)
        assert await out.write([point(x=1.0)]) == []
        await out.close()


@needs_victoria_metrics
async def test_the_v2_write_path_as_it_is(tmp_path: Path) -> None:
    server = VictoriaMetrics(tmp_path / "vm")
    async with server:
        connection = Influx(InfluxAddress.parse(server.url))
        assert "stand-in" in (await asyncio.to_thread(init, connection))[0]
        out = InfluxSink(InfluxAddress.parse(server.url, token="secret"))
        sent = [point(x=float(index)) for index in range(100)]
        # It keeps milliseconds.
        sent = [Point("m", one.tags, one.fields, sent[0].time + 1_000_000 * i) for i, one in enumerate(sent)]
        assert await out.write(sent) == []
        # What it took is found a second or two later.
        await eventually(lambda: sum(len(one["values"]) for one in server.export("m_x")) == len(sent))
        (series,) = await asyncio.to_thread(server.export, "m_x")
        assert series["metric"]["node"] == "n"
        assert series["values"] == [float(index) for index in range(100)]
        await out.close()


async def test_a_file_is_line_protocol_and_rotates(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "points.lp"
    out = FileSink(path, max_bytes=1000, num_files=3)
    sent = [point(x=float(index)) for index in range(100)]
    for one in sent:
        assert await out.write([one]) == []
    assert (path.parent / "points.lp.lock").exists()
    await out.close()
    names = sorted(found.name for found in path.parent.iterdir())
    assert names == ["points.lp", "points.lp.1", "points.lp.2"]
    assert all(found.stat().st_size <= 1000 for found in path.parent.iterdir())
    assert path.read_text().splitlines()[-1] == line(sent[-1])
    assert isinstance(sink(f"file:{path}"), FileSink)
