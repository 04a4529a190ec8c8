"""`GET /cluster`: what there is, what waits, and one's own turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from nats.aio.client import Client as NatsConnection

from broker import placing
from broker.client import Client
from broker.messages.boards import AVAILABLE, LOADING, BoardState, ModelOnBoard
from broker.server import EmbeddedServer
from producers.gateway.keys import ClientKeys, new_key
from tests.fakes import FakeEngine
from tests.gateway import USER, StartGateway
from tests.integration.conftest import StartWorker

BOARD = BoardState(
    "pi-1",
    8_000_000_000,
    4,
    (
        ModelOnBoard("m", LOADING, 3_000_000_000, 20.0, loaded=0.4, num_slots=8),
        ModelOnBoard("other", AVAILABLE, 4_000_000_000, 30.0),
    ),
    num_swaps=3,
)
Seen = dict[str, Any]


async def until(plain: httpx2.AsyncClient, is_so: Callable[[Seen], bool], key: str = "none") -> Seen:
    """The cluster, once it is so."""
    async with asyncio.timeout(15):
        while True:
            answer = await plain.get("/cluster", headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 200, answer.text
            found: Seen = answer.json()
            if is_so(found):
                return found
            await asyncio.sleep(0.05)  # the gateway itself looks each second


@asynccontextmanager
async def asked(plain: httpx2.AsyncClient, *, detached: bool = False, key: str = "none") -> AsyncIterator[str]:
    """A turn that somebody reads, by its id."""
    headers = {"Authorization": f"Bearer {key}"} | ({"Turnpike-Detached": "1"} if detached else {})
    body = {"model": "m", "messages": USER, "stream": True}
    async with plain.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        yield answer.headers["turnpike-turn"]


async def test_it_tells_models_workers_and_ones_own_turns_with_their_places_and_tokens(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine(num_slots=1, answer="All is well. " * 40, step_seconds=0.01)
    engine.gate.clear()
    async with start_worker(engine), start_gateway() as url, httpx2.AsyncClient(base_url=url, timeout=30) as plain:
        async with asked(plain) as first, asked(plain) as second:
            found = await until(plain, lambda found: found["models"] and found["models"][0]["waiting"] == 1)
            (model,), (worker,) = found["models"], found["workers"]
            assert (model["model"], model["state"], model["workers"], model["slots"]) == ("m", "loaded", 1, 1)
            assert (worker["worker"], worker["node"], worker["model"], worker["slots"]) == ("w1", "unknown", "m", 1)
            assert {one["turn"] for one in found["turns"]} == {first, second}
            waiting = next(one for one in found["turns"] if one["state"] == "waiting")
            assert waiting["turns_ahead"] == 0
            assert waiting["tokens"] == 0
            engine.gate.set()
            found = await until(plain, lambda found: any(one["tokens_per_second"] for one in found["turns"]))
            (working,) = (one for one in found["turns"] if one["tokens_per_second"])
            assert (working["state"], working["worker"]) == ("working", "w1")
            assert working["tokens"] > 0
        await until(plain, lambda found: not found["turns"])


async def test_a_turn_that_goes_on_without_its_reader_is_told_until_it_ends(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with start_worker(engine), start_gateway() as url, httpx2.AsyncClient(base_url=url, timeout=30) as plain:
        async with asked(plain, detached=True) as turn:
            pass
        found = await until(plain, lambda found: len(found["turns"]) == 1)
        assert (found["turns"][0]["turn"], found["turns"][0]["model"]) == (turn, "m")
        async with plain.stream("GET", f"/turns/{turn}") as read:
            assert (await until(plain, lambda _: True))["turns"][0]["turn"] == turn  # and once, whoever reads it
            engine.gate.set()
            await read.aread()
        await until(plain, lambda found: not found["turns"])


async def test_others_turns_are_numbers_and_a_key_is_wanted(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    (hers, digest), (his, other) = new_key(), new_key()
    keys = {"alice": ClientKeys((digest,)), "bob": ClientKeys((other,))}
    engine = FakeEngine()
    engine.gate.clear()
    async with (
        start_worker(engine),
        start_gateway(keys) as url,
        httpx2.AsyncClient(base_url=url) as plain,
        asked(plain, key=hers) as turn,
    ):
        seen_by_her = await until(plain, lambda found: bool(found["turns"]), hers)
        seen_by_him = await until(plain, lambda found: found["turns_of_others"] == 1, his)
        assert ([one["turn"] for one in seen_by_her["turns"]], seen_by_her["turns_of_others"]) == ([turn], 0)
        assert seen_by_him["turns"] == []
        assert turn not in str(seen_by_him)
        assert (await plain.get("/cluster")).status_code == 401
        engine.gate.set()


async def test_it_tells_what_boards_do_and_what_waits_for_a_model_that_nobody_serves(
    nats_server: EmbeddedServer, operator: NatsConnection, client: Client, start_gateway: StartGateway
) -> None:
    await placing.announce(operator, BOARD)
    answer = client.ask("m", "hello")
    await answer.publish()
    async with start_gateway() as url, httpx2.AsyncClient(base_url=url) as plain:
        found = await until(plain, lambda found: bool(found["boards"]))
        (board,) = found["boards"]
        assert (board["board"], board["used_bytes"], board["memory_bytes"]) == ("pi-1", 3_000_000_000, 8_000_000_000)
        assert [(one["model"], one["state"]) for one in board["models"]] == [("m", "loading"), ("other", "available")]
        models = {one["model"]: one for one in found["models"]}
        assert (models["m"]["state"], models["m"]["share"], models["m"]["waiting"]) == ("loading", 0.4, 1)
        assert models["m"]["words"].startswith("loading 40 %")
        assert models["other"]["state"] == "available"
    await answer.close()
