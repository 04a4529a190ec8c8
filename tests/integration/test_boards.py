"""Turns for models that no worker has yet, and boards may load: queued, told what they wait for, or refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from nats.aio.client import Client as NatsConnection

from broker import availability, jetstream, placing, subjects
from broker.accounts import BOARD, LOCAL, OPERATOR, REAPER, read_credentials
from broker.catalogue import Locked, write_lock
from broker.client import Client
from broker.connection import Address, close, connect
from broker.errors import NoRoom, NotLoaded, NotServed, UnservedModel
from broker.messages import Failed
from broker.messages.boards import ALWAYS, BROKEN, NEVER, SERVING, BoardState, Order
from broker.queues import Queues, keep_queues
from broker.reaper import reap
from broker.server import EmbeddedServer
from broker.topology import Limits
from producers.commands import top
from producers.routing.policies import Policy, Routes
from tests.boards import NOW, board, loading, on_board
from tests.gateway import USER, StartGateway, events, talk, text_of
from tests.integration.conftest import StartWorker
from tests.terminal import Bench, output, started


class Boards:
    """What boards say, again and again, as supervisors do."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self._states: tuple[BoardState, ...] = ()

    async def say(self, *states: BoardState) -> None:
        self._states = states
        for state in states:
            await placing.announce(self._nc, state)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(placing.SAY_SECONDS)
            await self.say(*self._states)


@pytest.fixture
async def boards(nats_server: EmbeddedServer) -> AsyncIterator[Boards]:
    nc = await connect(nats_server.address(BOARD), name="boards")
    found = Boards(nc)
    running = asyncio.create_task(found.run())
    yield found
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await close(nc)


@asynccontextmanager
async def beside(work: Any, stop: asyncio.Event) -> AsyncIterator[None]:
    """Work of the broker's that goes on until `stop`."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


BAD = board("pi-1", on_board("m", BROKEN, reason="the file is cut off", retry_at=NOW + 30))


# --- Queues ---


async def test_a_model_has_its_queue_as_soon_as_a_board_announces_it(
    nats_server: EmbeddedServer, client: Client, operator: NatsConnection, boards: Boards
) -> None:
    stop = asyncio.Event()
    async with beside(keep_queues(nats_server.address(OPERATOR), Limits(max_queued_turns=7), stop), stop):
        with pytest.raises(UnservedModel):
            await client.until_served("new")
        await boards.say(board("pi-1", on_board("new"), on_board("m"), on_board("away", pin=NEVER)))
        async with asyncio.timeout(10):
            status = await client.until_served("new")
        assert status is not None
        assert status.words() == "not loaded yet, about 12 s"
        await client.ask("new", "hello").publish()
        sizes = {one.name: one.config["max_msgs"] for one in await jetstream.streams(operator, subjects.ALL_TURNS)}
        assert sizes == {"TURNS-new": 7, "TURNS-m": 10_000}, "a queue that is there stays as it is"


async def until_it_has_a_queue(there: Address, model: str) -> None:
    """A board announces the model, and somebody makes its queue."""
    nc = await connect(there, name="pi-1")
    await placing.announce(nc, board("pi-1", on_board(model)))
    async with asyncio.timeout(10):
        while not await availability.has_queue(nc, model):
            pass
    await close(nc)


async def test_a_broker_makes_the_queues_that_boards_want(tmp_path: Path) -> None:
    arguments = ["broker", "--data-dir", str(tmp_path), "--port", "0", "--model", "m"]
    async with started(arguments, tmp_path) as broker:
        await broker.until_it_says("nats-server at")
        await until_it_has_a_queue(read_credentials(tmp_path / "board.credentials"), "new")
        assert await broker.interrupted() == 0


async def test_an_operator_makes_the_queues_that_boards_want_on_any_server(bench: Bench) -> None:
    async with bench.command("broker", "ensure", "--model", "m", "--follow", user=OPERATOR) as ensuring:
        await ensuring.until_it_says("nothing to change")
        await until_it_has_a_queue(bench.server.address(BOARD), "new")
        assert await ensuring.interrupted() == 0


async def test_boards_cannot_have_any_number_of_queues_made(
    operator: NatsConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.queues.MAX_QUEUES", 2)
    many = board("pi-1", *(on_board(f"model-{number}") for number in range(5)))
    await Queues(operator, Limits()).look(placing.Placement((many,)))
    names = {one.name for one in await jetstream.streams(operator, subjects.ALL_TURNS)}
    assert names == {"TURNS-m", "TURNS-model-0", "TURNS-model-1"}


class SmallServer(EmbeddedServer):
    """With room for two gibibytes of streams, of which the house's own set aside two thirds."""

    def _configuration(self) -> dict[str, object]:
        found = super()._configuration()
        jetstream = found["jetstream"]
        assert isinstance(jetstream, dict)
        return found | {"jetstream": jetstream | {"max_file_store": 2 * 1024**3}}


async def test_a_small_disk_has_room_for_the_queues_of_many_models_and_says_where_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"model-{number:02}" for number in range(48)]
    async with SmallServer(tmp_path / "server") as server:
        await server.ensure(["named"])
        nc = await connect(server.address(OPERATOR), name="operator")
        queues = Queues(nc, Limits())
        await queues.look(placing.Placement((board("pi-1", *map(on_board, names)),)))
        sizes = {one.name: one.config["max_bytes"] for one in await jetstream.streams(nc, subjects.ALL_TURNS)}
        assert sizes.pop("TURNS-named") == 256 * 1024**2
        assert sum(sizes.values()) > 400 * 1024**2
        assert [sizes.get(f"TURNS-{name}") for name in names[:20]] == [16 * 1024**2] * 20
        assert min(sizes.values()) < 16 * 1024**2, "what is left is used"
        assert queues.refused == names[len(sizes) :] != []
        async with Client(server.address(LOCAL)) as client:
            await client.ask(names[len(sizes) - 1], "hello").publish()
        with pytest.raises(NoRoom, match=r"insufficient storage.* smaller --max-queued-bytes"):
            await server.ensure(["another"])
        await close(nc)
    warned = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    (said,) = [one for one in warned if names[-1] in one]
    assert "insufficient storage resources available" in said


async def test_the_queues_of_a_lock_files_models_are_made_by_ensure_and_by_the_broker(
    bench: Bench, operator: NatsConnection, tmp_path: Path
) -> None:
    lock, one = tmp_path / "models.lock", Locked("o/r", "c" * 40, "m.gguf", "0" * 64, 5)
    write_lock(lock, {"one": one, "two": one, "data": Locked("o/d", "c" * 40, "d.gz", "0" * 64, 5, kind="dataset")})

    async def queues(nc: NatsConnection) -> dict[str, int]:
        found = await jetstream.streams(nc, subjects.ALL_TURNS)
        return {one.name.removeprefix("TURNS-"): one.config["max_bytes"] for one in found}

    arguments = ("broker", "ensure", "--lock-file", str(lock), "--max-queued-bytes", "5000000")
    code, out, _ = await output(bench, *arguments, user=OPERATOR)
    assert (code, "stream TURNS-one: created" in out) == (0, True)
    found = await queues(operator)
    assert {name: found[name] for name in ("one", "two")} == {"one": 5_000_000, "two": 5_000_000}
    assert "data" not in found
    code, out, _ = await output(bench, *arguments, user=OPERATOR)
    assert (code, out) == (0, "nothing to change\n")
    code, _, said = await output(bench, "broker", "ensure", "--lock-file", str(tmp_path / "none"), user=OPERATOR)
    assert (code, "there is no such file" in said) == (1, True)
    own = ["broker", "--data-dir", str(tmp_path / "own"), "--port", "0", "--lock-file", str(lock)]
    async with started(own, tmp_path) as broker:
        await broker.until_it_says("nats-server at")
        nc = await connect(read_credentials(tmp_path / "own" / "operator.credentials"), name="operator")
        assert await queues(nc) == {"one": 16 * 1024**2, "two": 16 * 1024**2}
        await close(nc)
        assert await broker.interrupted() == 0


# --- Whoever asks ---


async def test_a_turn_waits_for_a_load_and_is_told_how_far_it_is(
    bench: Bench, boards: Boards, start_worker: StartWorker
) -> None:
    await boards.say(board("pi-1", on_board("m", load_seconds=20.0)))
    async with bench.command("ask", "m", "hello") as asked:
        await asked.until_it_says("[m: not loaded yet, about 20 s]")
        await boards.say(board("pi-1", loading("m", 0.4, 8.0)))
        await asked.until_it_says("[m: loading 40 %, about 12 s]")
        async with start_worker():
            assert await asked.ends() == 0
    assert "echo hello" in asked.said
    assert "nobody serves" not in asked.said


async def test_a_terminal_is_told_of_the_load_of_the_line_and_why_it_ends(bench: Bench, boards: Boards) -> None:
    await boards.say(board("pi-1", loading("m", 0.25, 3.0)))
    async with bench.terminal("ask", "m", "hello") as asked:
        await asked.until_it_says("m: loading 25 %, about 9 s; 0 turns ahead")
        stop = asyncio.Event()
        async with beside(reap(bench.server.address(REAPER), stop), stop):
            await boards.say(BAD)
            assert await asked.ends() == 1
        assert "not_loaded: model 'm' cannot be loaded: the file is cut off" in asked.said


async def test_a_policy_asks_the_next_model_where_the_first_cannot_be_loaded(
    bench: Bench, nats_server: EmbeddedServer, boards: Boards, start_worker: StartWorker
) -> None:
    await nats_server.ensure(["m", "other"])
    await boards.say(board("pi-1", on_board("m"), on_board("other", load_seconds=60.0)))
    stop = asyncio.Event()
    async with bench.command("ask", "auto", "hello") as asked:
        await asked.until_it_says("[m: not loaded yet, about 12 s]")
        async with beside(reap(nats_server.address(REAPER), stop), stop), start_worker(model="other"):
            broken = on_board("m", BROKEN, reason="the file is cut off")
            await boards.say(board("pi-1", broken, on_board("other", SERVING)))
            assert await asked.ends() == 0
    assert "echo hello" in asked.said


async def test_a_policy_takes_what_a_board_would_load(bench: Bench, boards: Boards, start_worker: StartWorker) -> None:
    await boards.say(board("pi-1", on_board("m")))
    async with bench.command("ask", "auto", "hello") as asked:
        await asked.until_it_says("[m: not loaded yet, about 12 s]")
        async with start_worker():
            assert await asked.ends() == 0


async def test_what_nobody_may_serve_is_refused_with_what_there_is(
    client: Client, boards: Boards, start_worker: StartWorker
) -> None:
    await boards.say(board("pi-1", on_board("cold"), on_board("bad", BROKEN), on_board("m", pin=NEVER)))
    with pytest.raises(NotServed) as unserved:
        await client.until_served("m")
    assert unserved.value.choices == ("cold",)
    with pytest.raises(UnservedModel, match=r"not served here.*; these are: cold") as refused:
        await client.until_served("other")
    assert refused.value.choices == ("cold",)
    async with start_worker():
        with pytest.raises(UnservedModel, match="these are: cold, m"):
            await client.until_served("other")


# --- What cannot be loaded ---


async def test_a_model_that_boards_cannot_load_is_refused_with_the_reason(client: Client, boards: Boards) -> None:
    await boards.say(BAD)
    with pytest.raises(NotLoaded, match="'m' cannot be loaded: the file is cut off; a board tries again in 30 s"):
        await client.until_served("m")
    await boards.say(BAD, board("pi-2", on_board("m")))
    assert (await client.until_served("m")) is not None, "another board may"


async def test_turns_that_wait_for_what_cannot_be_loaded_end_with_one_error(
    nats_server: EmbeddedServer, client: Client, boards: Boards
) -> None:
    await boards.say(board("pi-1", on_board("m")))
    answers = [client.ask("m", str(number)) for number in range(3)]
    for answer in answers:
        await answer.publish()
    stop = asyncio.Event()
    async with beside(reap(nats_server.address(REAPER), stop), stop):
        await boards.say(BAD)
        for answer in answers:
            async with asyncio.timeout(10):
                while (end := await client.read(answer.turn.id)) is None:
                    pass
            detail = "model 'm' cannot be loaded: the file is cut off"
            assert end == Failed("not_loaded", detail, retryable=True, worker="reaper", retry_after=30.0)


# --- The gateway ---


async def test_all_models_are_listed_with_what_boards_do_about_them(
    nats_server: EmbeddedServer, boards: Boards, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    state = board(
        "pi-1",
        on_board("m", SERVING),
        on_board("cold", num_ctx=4096, can=("chat", "thinking")),
        loading("warm", 0.4, 8.0),
        on_board("bad", BROKEN, reason="cut off", retry_at=NOW + 7),
    )
    await boards.say(state)
    async with start_worker(), start_gateway() as url, httpx2.AsyncClient(base_url=url) as http:
        listed = {one["id"]: one for one in (await http.get("/v1/models")).json()["data"]}
        assert {name: one.get("state") for name, one in listed.items()} == {
            "m": "loaded",
            "cold": "available",
            "warm": "loading",
            "auto": None,
        }
        cold = listed["cold"]
        assert (cold["context_length"], cold["thinking"], cold["workers"]) == (4096, True, 0)
        assert (listed["warm"]["loaded_share"], listed["warm"]["expected_wait_seconds"]) == (0.4, pytest.approx(12))
        assert (await http.get("/v1/models/warm")).json()["state"] == "loading"
        missing = (await http.get("/v1/models/none")).json()["error"]
        assert missing["message"] == "the model 'none' is not served here; these are: cold, m, warm"
        async with talk(url) as api:
            with pytest.raises(openai.NotFoundError, match="these are: cold, m, warm"):
                await api.chat.completions.create(model="none", messages=USER)
            await nats_server.ensure(["bad"])
            with pytest.raises(openai.InternalServerError, match="'bad' cannot be loaded: cut off") as refused:
                await api.chat.completions.create(model="bad", messages=USER)
            assert refused.value.status_code == 503
            assert refused.value.code == "model_not_loaded"
            assert refused.value.response.headers["retry-after"] == "7"


async def test_a_stream_says_how_far_its_model_is_and_answers_when_it_is_loaded(
    boards: Boards, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    await boards.say(board("pi-1", loading("m", 0.4, 8.0)))
    routes = Routes(policies={"quick": Policy(by="smallest")})
    async with start_gateway(routes=routes) as url, httpx2.AsyncClient(base_url=url, timeout=30) as http:
        body = {"model": "quick", "messages": USER, "stream": True}
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            said = events(answer)
            first = await anext(said)
            assert first["comment"] == {
                "turns_ahead": 0,
                "seconds": pytest.approx(12),
                "workers": 0,
                "state": "loading",
                "share": 0.4,
                "load_seconds": pytest.approx(12),
            }
            async with start_worker():
                text = "".join([text_of(event) async for event in said])
        assert text == "echo hello there"


# --- The operator ---


async def test_an_operator_loads_unloads_and_pins(bench: Bench, boards: Boards, operator: NatsConnection) -> None:
    async def orders(*arguments: str) -> tuple[int, str, dict[tuple[str, str | None], Order]]:
        code, out, said = await output(bench, "models", *arguments, user=OPERATOR)
        return code, out + said, dict((await placing.read(operator)).orders)

    assert (await orders("load", "m"))[:2] == (
        1,
        "turnpike: no board has announced itself: they are started by `turnpike board`\n",
    )
    slow, quick = board("slow", on_board("m", load_seconds=40.0)), board("quick", on_board("m"), on_board("x", SERVING))
    await boards.say(slow, quick)
    code, said, found = await orders("load", "m")
    assert (code, said) == (0, "quick: m is to be loaded, about 12 s\n")
    assert found["m", "quick"].load is True
    code, said, found = await orders("pin", "m", "--board", "quick")
    assert (code, said, found["m", "quick"].pin) == (0, "quick: m is always loaded\n", ALWAYS)
    assert found["m", "quick"].load is None, "an order to load is not given once more"
    code, said, found = await orders("load", "m", "--board", "quick")
    assert (found["m", "quick"].pin, found["m", "quick"].load) == (ALWAYS, True), "what was said of a pin stands"
    code, said, found = await orders("unload", "x")
    assert (code, said, found["x", None].load) == (0, "quick: x is to be unloaded\n", False)


async def test_an_order_that_nobody_could_follow_is_refused(
    boards: Boards, client: Client, bench: Bench, operator: NatsConnection
) -> None:
    await boards.say(
        board("pi-1", on_board("m", SERVING, pin=ALWAYS), on_board("bad", BROKEN, reason="cut off")),
        board("pi-2", on_board("other", pin=NEVER)),
    )
    for arguments, words in (
        (("load", "nobody"), "no board has model 'nobody'; there are: bad, m, other"),
        (("load", "m", "--board", "pi-3"), "there is no board 'pi-3'; these are: pi-1, pi-2"),
        (("pin", "m", "--board", "pi-2"), "board 'pi-2' does not have model 'm'; there are: other"),
        (("load", "bad"), "no board can load 'bad': pi-1: cannot be loaded: cut off"),
        (("unload", "m"), "'m' is pinned on pi-1: `turnpike models pin m none` lets go of it"),
    ):
        code, _, said = await output(bench, "models", *arguments, user=OPERATOR)
        assert (code, said) == (1, f"turnpike: {words}\n")
    assert (await placing.read(operator)).orders == {}
    assert (await output(bench, "models", "load", "m", user=OPERATOR))[1] == "pi-1: m loaded\n"
    assert [one.board for one in (await top.look(client)).boards] == ["pi-1", "pi-2"]
