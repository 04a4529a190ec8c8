"""Hostile turns through a real server: each one that is acknowledged gets its end, and the worker goes on."""

from __future__ import annotations

import asyncio
import json
from itertools import islice

from broker import subjects
from broker.accounts import LOCAL
from broker.client import Client
from tests.fakes import FakeEngine
from tests.fuzz import mutants
from tests.integration.conftest import StartWorker

COUNT = 400


async def test_every_acknowledged_turn_is_answered_whatever_is_in_it(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(num_slots=8)):
        queued = []
        for index, (payload, headers) in enumerate(islice(mutants(2), COUNT)):
            subject = subjects.turn("m", "interactive", LOCAL, f"hostile-{index}")
            reply = await client.nc.request(subject, payload, headers=headers or None, timeout=5)
            assert "seq" in json.loads(reply.data)
            queued.append(f"hostile-{index}")
        async with asyncio.timeout(60):
            for turn in queued:
                while await client.read(turn) is None:
                    await client.nc.flush()
        assert (await client.ask("m", "still there")).text == "echo still there"
