"""How an answer's messages wait for their reader, on a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client as NatsConnection

from broker.accounts import OPERATOR
from broker.connection import close, connect
from broker.mailbox import MAX_READ_AT_ONCE, Mailbox
from broker.server import EmbeddedServer
from tests.support import eventually


async def opened(
    nc: NatsConnection, subject: str = "live.c.t", max_messages: int = 1000, max_bytes: int = 1000
) -> Mailbox:
    return await Mailbox.subscribed(nc, subject, max_messages=max_messages, max_bytes=max_bytes)


async def sent(nc: NatsConnection, *payloads: bytes, subject: str = "live.c.t") -> None:
    """They have come when this comes back."""
    for payload in payloads:
        await nc.publish(subject, payload)
    await nc.flush()


async def test_messages_are_read_in_order_whether_they_wait_or_are_waited_for(operator: NatsConnection) -> None:
    mailbox = await opened(operator)
    await sent(operator, b"1", b"2")
    assert [(await mailbox.next_msg(5)).data for _ in range(2)] == [b"1", b"2"]
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(mailbox.next_msg(5))
        group.create_task(sent(operator, b"3"))
    assert reading.result().data == b"3"


async def test_reading_makes_no_task(operator: NatsConnection) -> None:
    made = []

    def count(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **options)

    mailbox = await opened(operator)
    await sent(operator, b"1", b"2")
    asyncio.get_running_loop().set_task_factory(count)
    for number in range(3, 6):
        await mailbox.next_msg(5)
        await operator.publish("live.c.t", b"%d" % number)
    assert [(await mailbox.next_msg(5)).data for _ in range(2)] == [b"4", b"5"]
    asyncio.get_running_loop().set_task_factory(None)
    assert made == []


async def test_a_slow_reader_loses_what_is_over_its_bounds_and_no_other_reader_does(operator: NatsConnection) -> None:
    few, light, other = (
        await opened(operator, max_messages=2),
        await opened(operator, max_bytes=9),
        await opened(operator),
    )
    await sent(operator, b"12345", b"1234", b"1", b"2")
    assert [(await few.next_msg(5)).data for _ in range(2)] == [b"12345", b"1234"]
    assert [(await light.next_msg(5)).data for _ in range(2)] == [b"12345", b"1234"]
    assert [(await other.next_msg(5)).data for _ in range(4)] == [b"12345", b"1234", b"1", b"2"]
    await sent(operator, b"5")
    assert (await few.next_msg(5)).data == (await light.next_msg(5)).data == b"5"


async def test_a_wait_ends_in_its_time_whatever_an_earlier_one_had(operator: NatsConnection) -> None:
    mailbox = await opened(operator)
    async with asyncio.timeout(2):
        async with asyncio.TaskGroup() as group:
            group.create_task(mailbox.next_msg(60))
            group.create_task(sent(operator, b"1"))
        for seconds in (0.01, 0.02, 0):
            with pytest.raises(nats.errors.TimeoutError):
                await mailbox.next_msg(seconds)
        # A timer of an earlier wait that goes off ends no later one.
        async with asyncio.TaskGroup() as group:
            group.create_task(mailbox.next_msg(0.02))
            group.create_task(sent(operator, b"2"))
        began = asyncio.get_running_loop().time()
        with pytest.raises(nats.errors.TimeoutError):
            await mailbox.next_msg(0.05)
        assert asyncio.get_running_loop().time() - began >= 0.049


async def test_a_reader_that_is_cancelled_takes_no_message_with_it(operator: NatsConnection) -> None:
    mailbox = await opened(operator)
    reading = asyncio.create_task(mailbox.next_msg(60))
    await asyncio.sleep(0)
    reading.cancel()
    another = asyncio.create_task(mailbox.next_msg(5))  # before the first has heard of it
    await sent(operator, b"1")
    assert (await another).data == b"1"
    assert reading.cancelled()


async def test_a_reader_that_catches_up_lets_others_have_their_turn(operator: NatsConnection) -> None:
    mailbox = await opened(operator)
    num_messages = MAX_READ_AT_ONCE + 5
    await sent(operator, *[b"1"] * num_messages)
    read: list[int] = []

    async def read_all() -> None:
        for number in range(num_messages):
            await mailbox.next_msg(5)
            read.append(number)

    async with asyncio.TaskGroup() as group:
        group.create_task(read_all())
        await asyncio.sleep(0)
        assert 0 < len(read) < num_messages


async def test_nobody_waits_on_a_connection_that_is_closed_for_good(nats_server: EmbeddedServer) -> None:
    nc = await connect(nats_server.address(OPERATOR), name="reader")
    mailbox = await opened(nc)
    await sent(nc, b"1")
    assert (await mailbox.next_msg(5)).data == b"1"
    reading = asyncio.create_task(mailbox.next_msg(60))
    await asyncio.sleep(0)
    await close(nc)
    async with asyncio.timeout(5):
        for waiting in (reading, mailbox.next_msg(60)):
            with pytest.raises(nats.errors.ConnectionClosedError):
                await waiting
    await mailbox.unsubscribe()


async def test_nobody_waits_for_what_is_unsubscribed(operator: NatsConnection) -> None:
    mailbox = await opened(operator)
    reading = asyncio.create_task(mailbox.next_msg(60))
    await asyncio.sleep(0)
    await mailbox.unsubscribe()
    async with asyncio.timeout(4):
        with pytest.raises(nats.errors.ConnectionClosedError):
            await reading
    with pytest.raises(nats.errors.ConnectionClosedError):
        await mailbox.next_msg(60)


async def test_a_connection_that_is_made_anew_is_listened_on(
    nats_server: EmbeddedServer, operator: NatsConnection
) -> None:
    nc = await connect(nats_server.address(OPERATOR), name="reader")
    kept, left = await opened(nc), await opened(nc, "live.c.left")
    await nc.flush()
    await left.unsubscribe()
    await nc.force_reconnect()
    await eventually(lambda: nc.stats["reconnects"] > 0 and nc.is_connected)
    await nc.flush()
    await sent(operator, b"1")
    assert (await kept.next_msg(5)).data == b"1"
    with pytest.raises(nats.errors.NoRespondersError):
        await operator.request("live.c.left", b"", timeout=5)
    await close(nc)


async def test_nothing_is_sent_to_whoever_has_unsubscribed(
    nats_server: EmbeddedServer, operator: NatsConnection
) -> None:
    nc = await connect(nats_server.address(OPERATOR), name="reader")
    mailbox = await opened(nc)
    await nc.flush()
    await mailbox.unsubscribe()
    await mailbox.unsubscribe()
    await nc.publish("anything", b"")  # it goes out with this, or with the next ping
    await nc.flush()
    with pytest.raises(nats.errors.NoRespondersError):
        await operator.request("live.c.t", b"", timeout=5)
    await close(nc)


async def test_many_requests_at_once_each_have_their_own_answer(
    nats_server: EmbeddedServer, operator: NatsConnection
) -> None:
    async def echo(message: Any) -> None:
        await operator.publish(message.reply, message.data)

    await operator.subscribe("echo", cb=echo)
    await operator.flush()
    nc = await connect(nats_server.address(OPERATOR), name="asker")
    answers = await asyncio.gather(*(nc.request("echo", b"%d" % number, timeout=5) for number in range(100)))
    assert [one.data for one in answers] == [b"%d" % number for number in range(100)]
    with pytest.raises(nats.errors.NoRespondersError):
        await nc.request("nobody", b"", timeout=5)
    await close(nc)
