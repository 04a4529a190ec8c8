"""What came of a stream's answers, and a client that takes it in its own time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from broker.answer import Answer
from broker.messages import Chunk, Message, Turn, new_id
from broker.waiting import Bell
from producers.gateway.arrivals import Arrivals
from producers.gateway.openai.answers import Writer
from producers.gateway.reading import ClientGone
from producers.gateway.strand import Strand


def strand() -> Strand:
    client: Any = SimpleNamespace(name="c")
    answer = Answer(client, Turn(new_id(), "c", (Message("user", "hi"),)), "m", "interactive")
    return Strand(0, answer, Writer("t", "m", is_chat=True), reads_comments=False)


def chunk(index: int) -> Chunk:
    return Chunk(index, 0, "x", (1,))


async def test_what_came_meanwhile_is_taken_at_once_and_in_its_order() -> None:
    arrivals, one = Arrivals(8), strand()
    for index in range(3):
        await arrivals.put(one, chunk(index))
    assert [found.what for found in await arrivals.take(1.0)] == [chunk(0), chunk(1), chunk(2)]
    assert await arrivals.take(0.001) == []


async def test_who_puts_more_than_it_holds_is_held_back_until_somebody_takes() -> None:
    arrivals, one = Arrivals(2), strand()
    first = asyncio.Event()

    async def read() -> None:
        for index in range(5):
            await arrivals.put(one, chunk(index))
            first.set()

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(read())
        await first.wait()
        taken = [len(await arrivals.take(1.0)) for _ in range(3)]
    assert taken == [2, 2, 1]


async def test_nothing_is_taken_for_a_client_that_is_gone_also_where_somebody_waits_for_it() -> None:
    arrivals = Arrivals(2)
    async with asyncio.timeout(5):
        taking = asyncio.ensure_future(arrivals.take(60.0))
        await asyncio.sleep(0)
        arrivals.end()
        with pytest.raises(ClientGone):
            await taking
        await arrivals.put(strand(), chunk(0))
        with pytest.raises(ClientGone):
            await arrivals.take(60.0)


async def test_a_bell_is_waited_for_as_long_as_each_one_says_though_its_timer_is_older() -> None:
    bell, loop = Bell(), asyncio.get_running_loop()
    waiting = asyncio.ensure_future(bell.rung(0.02))
    await asyncio.sleep(0)
    bell.ring()
    await waiting
    began_at = loop.time()
    await bell.rung(0.05)  # the first one's timer goes off before
    assert loop.time() - began_at >= 0.05
    waiting = asyncio.ensure_future(bell.rung(60.0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    began_at = loop.time()
    await bell.rung(0.01)  # and that of a long wait does not hold up a short one
    assert loop.time() - began_at < 30
    bell.close()
