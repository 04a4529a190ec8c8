"""Turns that take no slot: so many at once, whoever has the slots."""

from __future__ import annotations

import asyncio

import pytest

from broker.delivery import Delivery
from broker.errors import NotReady
from broker.priorities import ASIDE
from tests.unit.test_pulling import SECONDS, FakeQueue
from workers.queue import asides
from workers.queue.asides import AsidePuller


async def test_so_many_turns_without_a_slot_are_taken_at_once() -> None:
    queue, taken, closing = FakeQueue(), asyncio.Queue[Delivery](), asyncio.Event()
    puller = AsidePuller(queue, 2.0, max_held=2)
    await queue.put(ASIDE, 3)
    running = asyncio.ensure_future(puller.run(taken.put_nowait, closing))
    first, _ = await taken.get(), await taken.get()
    assert (len(queue.waiting[ASIDE]), queue.num_open[ASIDE]) == (1, 0)
    puller.free(first)
    puller.free(await taken.get())
    await queue.until_open(ASIDE)
    closing.set()
    await asyncio.wait_for(running, SECONDS)
    assert (taken.empty(), queue.num_stopped) == (True, 1)


async def test_a_failed_pull_of_turns_without_a_slot_costs_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asides, "RETRY_SECONDS", 0.0)
    queue, taken, closing = FakeQueue(), asyncio.Queue[Delivery](), asyncio.Event()
    queue.error = NotReady("consumer")
    await queue.put(ASIDE)
    running = asyncio.ensure_future(AsidePuller(queue, 2.0, max_held=1).run(taken.put_nowait, closing))
    await asyncio.wait_for(taken.get(), SECONDS)
    closing.set()
    await asyncio.wait_for(running, SECONDS)
