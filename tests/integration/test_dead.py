"""`turnpike dead` and `turnpike cancel`, as an operator and a client run them."""

from __future__ import annotations

import asyncio
import json
import subprocess

from nats.aio.client import Client as NatsConnection

from broker import dead_letters, replies, subjects
from broker.accounts import LOCAL, OPERATOR, write_credentials
from broker.client import Answer, Client
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.support import TURNPIKE


async def run(server: EmbeddedServer, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    credentials = server.folder / f"{user}.credentials"
    write_credentials(credentials, server.address(user))
    command = [*TURNPIKE, *arguments, "--credentials", str(credentials)]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)


async def poisoned(client: Client, operator: NatsConnection, text: str) -> Answer:
    answer = client.ask("m", text)
    await answer.publish()
    for name in ("w1", "w2", "w3"):
        address = subjects.TurnAddress("m", "interactive", LOCAL, answer.turn.id)
        await replies.ReplyWriter(operator, address, name).start("f")
    return answer


async def test_a_turn_that_was_given_up_can_be_shown_and_queued_again(
    client: Client, operator: NatsConnection, nats_server: EmbeddedServer, start_worker: StartWorker
) -> None:
    answers = [await poisoned(client, operator, text) for text in ("one", "two", "three")]
    async with start_worker():
        for answer in answers:
            while await client.read(answer.turn.id) is None:
                await client.nc.flush()
        listed = json.loads((await run(nats_server, OPERATOR, "dead", "list", "--json")).stdout)
        assert [letter["workers"] for letter in listed] == [["w1", "w2", "w3"]] * 3
        numbers = [str(letter["number"]) for letter in listed]
        assert answers[0].turn.id in (await run(nats_server, OPERATOR, "dead", "list")).stdout.replace("\n", "")
        shown = json.loads((await run(nats_server, OPERATOR, "dead", "show", numbers[1])).stdout)
        assert "poison" in shown["reason"]
        again = await run(nats_server, OPERATOR, "dead", "replay", numbers[1])
        new = again.stdout.split()[-1]
        assert (await client.follow(new)).text == "echo two"
        assert len(await dead_letters.read(operator)) == 2
        missing = await run(nats_server, OPERATOR, "dead", "purge", numbers[1])
        assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
        assert "2 purged" in (await run(nats_server, OPERATOR, "dead", "purge")).stdout
        assert await dead_letters.read(operator) == []


async def test_a_producer_may_not_read_the_dead(nats_server: EmbeddedServer) -> None:
    found = await run(nats_server, LOCAL, "dead", "list")
    assert found.returncode == 1
    assert found.stderr.startswith("turnpike: ")


async def test_turns_are_cancelled_from_the_terminal(
    client: Client, nats_server: EmbeddedServer, start_worker: StartWorker
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running:
        running.engine.gate.clear()
        answers = [client.ask("m", "hello", conversation=name) for name in ("a", "b", "c")]
        for answer in answers:
            await answer.publish()
        await asyncio.to_thread(running.engine.stepped.wait)
        for which in (("--turn", answers[2].turn.id), ("--conversation", "b"), ("--all",)):
            assert (await run(nats_server, LOCAL, "cancel", *which)).returncode == 0
        running.engine.gate.set()
        assert [(await answer).finish_reason for answer in answers] == ["cancelled"] * 3
