"""From workers and sidecars through NATS into a real InfluxDB, with each of them taken away for a while."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client as NatsConnection

from broker import codec, points, subjects
from broker.accounts import LOCAL, OPERATOR, SIDECAR, WORKER
from broker.client import Client
from broker.connection import close, connect
from broker.discovery import Load, announce
from broker.influx_address import InfluxAddress
from broker.messages import NodeState, Point, Points, Sampling
from broker.process import pid_namespace
from broker.recorder import Recorder
from broker.server import EmbeddedServer
from broker.topology import Limits
from telemetry.influx import InfluxSink, sink
from telemetry.queues import Queues
from telemetry.resources import Resources
from telemetry.settings import SidecarSettings
from telemetry.sidecar import Sidecar
from telemetry.writer import Writer
from tests.fakes import FakeEngine
from tests.influx_server import InfluxServer
from tests.integration.conftest import StartWorker
from tests.support import eventually

pytestmark = pytest.mark.timeout(120)


def point(number: int, node: str = "n") -> Point:
    return Point("m", {"node": node}, {"x": float(number)}, 1_000_000 * number + NOW)


NOW = time.time_ns()


@asynccontextmanager
async def writing(nc: NatsConnection, influx: InfluxServer, node: str = "n") -> AsyncIterator[Writer]:
    writer = Writer(nc, InfluxSink(InfluxAddress.parse(influx.url), timeout=2), Recorder(nc, node), node)
    stop = asyncio.Event()
    task = asyncio.create_task(writer.run(stop))
    try:
        yield writer
    finally:
        stop.set()
        await task


async def until_rows(influx: InfluxServer, count: int) -> None:
    await eventually(lambda: influx.query("SELECT count(x) FROM m")[:1] == [{"time": 0, "count": count}])


async def test_points_in_are_points_out_over_an_outage(nats_server: EmbeddedServer, influx: InfluxServer) -> None:
    """Two sidecars share the work; InfluxDB is killed under load, hangs, comes back."""
    nc = await connect(nats_server.address(SIDECAR), name="source")
    other = await connect(nats_server.address(SIDECAR), name="other")
    recorder = Recorder(nc, "n")
    async with writing(nc, influx) as one, writing(other, influx, "n2") as two:
        for number in range(20_000):
            recorder.record(point(number))
            if number % 1000 == 0:
                assert await recorder.flush()
            if number == 5_000:
                await influx.kill()
            if number == 15_000:
                await influx.start()
        assert await recorder.flush()
        await until_rows(influx, 20_000)
        await eventually(lambda: one.num_written + two.num_written == 20_000)
    assert (recorder.num_sent, recorder.num_dropped) == (20_000, 0)
    assert one.num_rejected == two.num_rejected == 0
    await nc.close()
    await other.close()


async def test_points_wait_for_a_writer_that_is_not_there_yet(
    nats_server: EmbeddedServer, influx: InfluxServer
) -> None:
    nc = await connect(nats_server.address(SIDECAR), name="source")
    recorder = Recorder(nc, "n")
    recorder.record(*(point(number) for number in range(12_000)))
    assert await recorder.flush()
    async with writing(nc, influx):
        await until_rows(influx, 12_000)
    await nc.close()


async def test_points_that_two_send_at_once_are_sent_once(nats_server: EmbeddedServer, influx: InfluxServer) -> None:
    nc = await connect(nats_server.address(SIDECAR), name="source")
    recorder = Recorder(nc, "n")
    recorder.record(*(point(number) for number in range(100)))
    assert all(await asyncio.gather(recorder.flush(), recorder.flush(), recorder.flush()))
    assert (recorder.num_sent, recorder.num_dropped) == (100, 0)
    async with writing(nc, influx):
        await until_rows(influx, 100)
    await nc.close()


async def test_while_nats_is_away_the_newest_points_are_kept_and_the_others_counted(
    nats_server: EmbeddedServer, influx: InfluxServer
) -> None:
    nc = await connect(nats_server.address(SIDECAR), name="source")
    recorder = Recorder(nc, "n", max_buffered=1000)
    address = nats_server.address(SIDECAR)
    await nats_server.kill()
    recorder.record(*(point(number) for number in range(3000)))
    assert not await recorder.flush()
    assert (recorder.num_sent, recorder.num_dropped) == (0, 2000)
    nats_server._port = int(address.url.rpartition(":")[2])
    await nats_server.start()
    async with asyncio.timeout(20):
        while not await recorder.flush():  # which waits for an answer
            pass
    again = await connect(address, name="writer")
    async with writing(again, influx):
        await until_rows(influx, 1000)
    rows = influx.query("SELECT x FROM m")
    assert [row["x"] for row in rows] == [float(number) for number in range(2000, 3000)]
    await again.close()
    await nc.close()


async def test_a_bad_line_and_a_bad_batch_become_dead_letters(
    nats_server: EmbeddedServer, influx: InfluxServer
) -> None:
    nc = await connect(nats_server.address(SIDECAR), name="source")
    wrong = Point("m", {"node": "n"}, {"x": "no number"}, NOW)
    batch = [point(0), wrong, *(point(number) for number in range(1, 10))]
    async with writing(nc, influx) as writer:
        await nc.request(subjects.telemetry("n"), codec.encode(Points((point(99),))))
        await until_rows(influx, 1)
        await nc.request(subjects.telemetry("n"), codec.encode(Points(tuple(batch))))
        await nc.request(subjects.telemetry("n"), b"not even msgpack")
        await until_rows(influx, 11)
        await eventually(lambda: writer.num_rejected == 2)
        assert await writer._recorder.flush()
        await eventually(lambda: len(influx.query("SELECT * FROM rejected")) == 2)
    rejected = influx.query("SELECT * FROM rejected")
    assert {row["of"] for row in rejected} == {"m", "telemetry.n"}
    assert any('x="no number"' in row["line"] and "field type conflict" in row["reason"] for row in rejected)
    await nc.close()


async def test_what_the_streams_bounds_took_is_counted(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path / "server") as server:
        await server.ensure(["m"], Limits(max_telemetry_bytes=200_000))
        nc = await connect(server.address(SIDECAR), name="source")
        queues = Queues(nc, server.monitoring_url)
        recorder = Recorder(nc, "n")
        await queues.points()
        for number in range(0, 20_000, 500):
            recorder.record(*(point(number + index) for index in range(500)))
            await recorder.flush()
        found = {(one.measurement, *one.tags.values()): one for one in await queues.points() if one is not None}
        stored = found["stream", "TELEMETRY"].fields["num_messages"]
        assert queues.num_expired == 40 - int(stored)
        assert found["broker", "nats"].fields["num_connections"] == 1
        assert found["queue", "m", "interactive"].fields["num_pending"] == 0
        await nc.close()


@asynccontextmanager
async def sidecar(nats_server: EmbeddedServer, tmp_path: Path, url: str, node: str) -> AsyncIterator[Sidecar]:
    nc = await connect(nats_server.address(SIDECAR), name="sidecar")
    options = SidecarSettings(data_dir=str(tmp_path), sample_seconds=0.2, monitor_url=nats_server.monitoring_url)
    recorder = Recorder(nc, node)
    running = Sidecar(nc, node, options, recorder, Writer(nc, sink(url), recorder, node))
    stop = asyncio.Event()
    task = asyncio.create_task(running.run(stop))
    try:
        yield running
    finally:
        stop.set()
        await task
        await nc.close()


async def test_a_worker_and_its_sidecar_fill_the_database(
    nats_server: EmbeddedServer, influx: InfluxServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    async with (
        start_worker() as running,
        Client(nats_server.address(LOCAL)) as client,
        sidecar(nats_server, tmp_path, influx.url, "unknown"),
    ):
        turns = [await client.ask("m", f"hello {number}", sampling=Sampling(max_tokens=20)) for number in range(5)]
        wanted = {"cpu", "system", "memory", "process", "sidecar", "queue", "workers", "stream", "broker", "engine"}
        wanted |= {"turn", "event", "filesystem"}
        await eventually(lambda: wanted <= {row["name"] for row in influx.query("SHOW MEASUREMENTS")})
        await eventually(lambda: len(influx.query("SELECT * FROM turn")) == 5)
        found = influx.query("SELECT * FROM turn")
        assert [row["completion_tokens"] for row in found] == [len(turn.tokens) for turn in turns]
        assert {row["run"] for row in found} == {points.NONE}
        assert {row["worker"] for row in found} == {"w1"}
        assert all(0 < row["ttft_seconds"] < 5 and row["is_failed"] is False for row in found)
        (process,) = influx.query("SELECT last(rss_bytes) FROM process WHERE worker = 'w1'")
        assert process["last"] > 10 * 2**20
        assert not running.task.done()
    kinds = {row["kind"] for row in influx.query("SELECT * FROM event")}
    assert "worker lost" not in kinds


async def test_a_turns_joules_are_its_share_of_the_nodes_power(
    nats_server: EmbeddedServer, start_worker: StartWorker
) -> None:
    nc = await connect(nats_server.address(OPERATOR), name="reader")
    heard = await nc.subscribe("telemetry.>")
    side = await connect(nats_server.address(SIDECAR), name="side")
    async with start_worker(FakeEngine(step_seconds=0.02)), Client(nats_server.address(LOCAL)) as client:
        await side.publish(subjects.node("unknown"), codec.encode(NodeState(5.0, celsius=61.5, is_throttled=True)))
        await side.flush()
        started = time.perf_counter()
        answers = await asyncio.gather(*(client.ask("m", "hello " * 4, sampling=Sampling(max_tokens=20)) for _ in "ab"))
        seconds = time.perf_counter() - started
        (worker,) = await client.workers(1.0)
        assert (worker.load.celsius, worker.load.is_throttled, worker.load.num_failed) == (61.5, True, 0)
        joules: list[float] = []
        async with asyncio.timeout(10):
            while len(joules) < len(answers):
                message = await heard.next_msg(timeout=5)
                for one in codec.decode(message.data, Points, message.headers).points:
                    if one.measurement == "turn":
                        joules.append(float(one.fields["joules"]))
                        assert (one.fields["client"], one.fields["outcome"]) == (LOCAL, "length")
    # Both together took no more than the node drew, and most of it, as nothing else ran.
    assert 0.5 * 5.0 * seconds < sum(joules) <= 5.0 * seconds
    await nc.close()
    await side.close()


async def test_a_worker_that_dies_is_an_event(
    nats_server: EmbeddedServer, tmp_path: Path, influx: InfluxServer
) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    nc = await connect(nats_server.address(WORKER), name="w")
    metadata = {"worker": "w9", "model": "m", "model_name": "M", "quantization": "Q", "num_ctx": "1", "node": "n7"}
    await announce(nc, version="1.0.0", metadata=metadata | {"pid": str(process.pid)}, load=lambda: Load(1, 0, 0, 0.0))
    async with sidecar(nats_server, tmp_path, influx.url, "n7"):
        await eventually(lambda: influx.query("SELECT * FROM process WHERE worker = 'w9'"))
        process.kill()
        await process.wait()
        events = await eventually(lambda: influx.query("SELECT * FROM event WHERE kind = 'worker lost'"))
    assert (events[0]["worker"], events[0]["node"]) == ("w9", "n7")
    await nc.close()


@pytest.mark.parametrize(("namespace", "is_sampled"), [(pid_namespace(), True), ("", True), ("pid:[1]", False)])
async def test_a_sidecar_samples_the_workers_whose_process_ids_are_its_own(
    nats_server: EmbeddedServer, tmp_path: Path, namespace: str, is_sampled: bool
) -> None:
    """A pod's worker has the number that another process has in the next pod on the same node."""
    described = {"model": "m", "num_ctx": "1", "node": "n7", "pid_namespace": namespace}
    workers = []
    for worker, pid in (("w9", os.getpid()), ("w10", 2**31 - 1)):
        workers.append(await connect(nats_server.address(WORKER), name=worker))
        metadata = described | {"worker": worker, "pid": str(pid)}
        await announce(workers[-1], version="1.0.0", metadata=metadata, load=lambda: Load(1, 0, 0, 0.0))
    points_file = tmp_path / "points"
    async with sidecar(nats_server, tmp_path, f"file:{points_file}", "n7") as running:
        await eventually(lambda: len(running._queues.workers) == 2)
        seen_at = time.time_ns()
        stamps = re.compile(r"^cpu,.* (\d+)$", re.MULTILINE)
        await eventually(lambda: any(int(stamp) > seen_at for stamp in stamps.findall(points_file.read_text())))
    found = points_file.read_text()
    assert ("process,node=n7,worker=w9 " in found) == is_sampled
    assert ("w10 ended without a word" in found) == is_sampled
    for nc in workers:
        await nc.close()


def test_this_process_is_measured() -> None:
    resources = Resources(Path("/"), "n")
    first = resources.process(1, os.getpid(), "w")
    assert first is not None
    assert "cpu_ratio" not in first.fields
    sum(range(1_000_000))
    second = resources.process(2, os.getpid(), "w")
    assert second is not None
    assert 0 < float(second.fields["cpu_ratio"]) <= 2


@pytest.mark.parametrize("watts", ["1e308", "1e9", "-1", "null", '"x"'])
async def test_power_that_no_board_draws_costs_no_turn_its_end_and_its_point(
    watts: str, nats_server: EmbeddedServer, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    nc = await connect(nats_server.address(OPERATOR), name="reader")
    heard = await nc.subscribe("telemetry.>")
    side = await connect(nats_server.address(SIDECAR), name="side")
    async with start_worker(FakeEngine(step_seconds=0.01)), Client(nats_server.address(LOCAL)) as client:
        state = f'{{"v": 1, "watts": {watts}, "celsius": 50.0}}'.encode()
        await side.publish(subjects.node("unknown"), state, headers={codec.CONTENT_TYPE: codec.JSON})
        await side.flush()
        assert (await client.ask("m", "hello")).text == "echo hello"
        turns: list[Point] = []
        async with asyncio.timeout(10):
            while not turns:
                message = await heard.next_msg(timeout=5)
                points = codec.decode(message.data, Points, message.headers).points
                turns += [one for one in points if one.measurement == "turn"]
    assert "joules" not in turns[0].fields
    assert "turn failed" not in caplog.text
    await close(nc)
    await close(side)
