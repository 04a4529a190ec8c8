"""`turnpike dead` and `turnpike cancel`, as an operator and a client run them."""

from __future__ import annotations

import asyncio
import json
import subprocess

import pytest
from nats.aio.client import Client as NatsConnection

from broker import codec, dead_letters, replies, subjects
from broker.accounts import LOCAL, OPERATOR, write_credentials
from broker.answer import Answer
from broker.client import Client
from broker.messages import DeadLetter
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
        assert shown["payload"]["messages"] == [{"role": "user", "content": "two"}]
        assert shown["payload"]["id"] == answers[1].turn.id
        again = await run(nats_server, OPERATOR, "dead", "replay", numbers[1])
        new = again.stdout.split()[-1]
        assert (await client.follow(new)).text == "echo two"
        told = await run(nats_server, LOCAL, "read", new)
        assert (told.returncode, told.stdout) == (0, "echo two\n")
        assert json.loads((await run(nats_server, LOCAL, "read", new, "--json")).stdout)["text"] == "echo two"
        failed = await run(nats_server, LOCAL, "read", answers[1].turn.id)
        assert failed.returncode == 1
        assert failed.stderr.startswith("turnpike: poison: ")
        assert len(await dead_letters.read(operator)) == 2
        missing = await run(nats_server, OPERATOR, "dead", "purge", numbers[1])
        assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
        assert "2 purged" in (await run(nats_server, OPERATOR, "dead", "purge")).stdout
        assert await dead_letters.read(operator) == []
        nothing = await run(nats_server, OPERATOR, "dead", "list")
        assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "no turn was given up on\n")


async def test_the_answer_of_a_turn_that_has_none_is_a_sentence(nats_server: EmbeddedServer) -> None:
    found = await run(nats_server, LOCAL, "read", "nosuch")
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (1, "", 1)
    assert "turn nosuch of local has no end" in found.stderr


@pytest.mark.parametrize(
    ("payload", "content_type", "shown"),
    [
        (b'{"v": 9, "x": [1]}', "application/json", {"v": 9, "x": [1]}),
        (b"\x81\xa1v\x09", None, {"v": 9}),
        ("no turn: ä".encode(), None, "no turn: ä"),
        (b"\x85\xff", None, {"base64": "hf8="}),
        (b"\x82\xa1v\x01\xa1a\xd6\xff\x80\x00\x00\x00", None, {"base64": "gqF2AaFh1v+AAAAA"}),  # a time stamp
    ],
)
async def test_what_is_no_turn_is_shown_as_far_as_it_can_be_read(
    operator: NatsConnection, nats_server: EmbeddedServer, payload: bytes, content_type: str | None, shown: object
) -> None:
    letter = DeadLetter("turn.m.batch.local.t1", "why", 4, payload, content_type)
    acknowledged = await operator.request(subjects.dead("m"), codec.encode(letter), timeout=5)
    number = str(json.loads(acknowledged.data)["seq"])
    found = json.loads((await run(nats_server, OPERATOR, "dead", "show", number)).stdout)
    assert (found["payload"], found["num_deliveries"]) == (shown, 4)


async def test_a_producer_may_not_read_the_dead(nats_server: EmbeddedServer) -> None:
    found = await run(nats_server, LOCAL, "dead", "list")
    assert found.returncode == 1
    assert (
        found.stderr == "turnpike: dead letters are the operator's, not local's: --credentials operator.credentials\n"
    )


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
