"""Well-known clients, as their users run them, before a gateway whose model calls rightly: each call is run once, its
result comes back, and the conversation goes on. `make e2e-clients` has the same with a real model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from broker.server import EmbeddedServer
from tests.clients import environments
from tests.clients.programs import features, house
from tests.clients.running import FEATURES, FILES, account_of, features_of, num_right
from tests.embedding_fakes import FakeEmbedder, embedding_worker
from tests.gateway import StartGateway
from tests.integration.conftest import StartWorker
from tests.tool_fakes import READERS, Knowing, ScriptedEngine, called

TEXTS = [f"Answer {number}." for number in range(len(house.REQUESTS))]
SCRIPT = [
    said
    for (_, name, arguments), text in zip(house.REQUESTS, TEXTS, strict=True)
    for said in (called(name, **arguments), text)
]

CITY = '{"name": "Oslo", "population": 700000}'
KNOWN = {
    features.CALLED_SCHEMA: called("City", name="Oslo", population=700000),
    features.SCHEMA: CITY,
    features.CHAT: "Oslo.",
    features.STREAM: "one, two, three, four, five",
    features.TOOLS: called("read_temperature", room="attic"),
    features.THOUGHTS: "<think>\nNothing divides it.\n</think>\n\nYes.",
}
TAKEN = {("langchain", "thoughts"): "taken", ("ai-sdk-openai", "thoughts"): "taken"}
"""What a client asks for, and drops when it comes."""


def interpreter_for(name: str) -> Path:
    """The test is skipped where the client's packages are not there."""
    if name == "openai":  # that one is ours too
        return Path(sys.executable)
    skip_without(FILES[name])
    return environments.PYTHON / "bin" / "python"


def skip_without(program: str) -> None:
    """Skips the test where the packages of a client's program are not there."""
    if program.endswith(".mjs"):
        if not environments.has_node():
            pytest.skip("no Node, or its packages are not installed: npm ci in tests/clients/programs")
    elif not environments.has_python():
        pytest.skip("its packages are not installed: `make e2e-clients` does it")


@pytest.mark.parametrize("name", FILES)
async def test_a_client_runs_every_call_and_gets_its_answer(
    start_worker: StartWorker, start_gateway: StartGateway, name: str
) -> None:
    python = interpreter_for(name)
    async with start_worker(ScriptedEngine(*SCRIPT), readers=READERS), start_gateway() as url:
        account = await account_of(name, f"{url}/v1", "m", python=python)
    assert num_right(account) == len(house.REQUESTS)
    assert [(one["text"], one["answers"]) for one in account["requests"]] == [(text, 2) for text in TEXTS]
    assert account["lamps"] == {"kitchen": True, "attic": False, "workshop": False}


@pytest.mark.parametrize("name", FEATURES)
async def test_a_client_can_what_it_offers(
    nats_server: EmbeddedServer, start_worker: StartWorker, start_gateway: StartGateway, name: str
) -> None:
    skip_without(FEATURES[name][0])
    engine = Knowing(KNOWN, f"It is {features.CELSIUS}.")
    await nats_server.ensure(["m", "e"])
    async with (
        start_worker(engine, readers=READERS),
        embedding_worker(nats_server, FakeEmbedder(), name="w2", model="e"),
        start_gateway() as url,
    ):
        found = (await features_of(name, url, "m", "e"))["features"]
    assert found == {feature: TAKEN.get((name, feature), "yes") for feature in found}
    assert found
