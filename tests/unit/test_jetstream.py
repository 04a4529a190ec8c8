"""What JetStream's server says is read by its codes, and what it counts is counted alike. Without a server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import nats.errors
import pytest
from nats.aio.msg import Msg

from broker import jetstream, publishing
from broker.errors import Duplicate, NoStream, NotAcknowledged, NotStored, PayloadTooLarge, ServerError
from tests.fake_jetstream import FakeMessages, message

CONSUMER = {
    "config": {"name": "batch", "ack_wait": 30_000_000_000},
    "delivered": {"consumer_seq": 4, "stream_seq": 7},
    "ack_floor": {"consumer_seq": 3, "stream_seq": 5},
    "num_pending": 2,
    "num_ack_pending": 1,
    "num_redelivered": 0,
    "num_waiting": 3,
}
STATE = {"messages": 1, "bytes": 9, "first_seq": 4, "last_seq": 4, "first_ts": "2026-01-02T03:04:05.9Z"}


class Answering:
    """A wire on which each request meets the next of these: an answer's fields, its bytes, a message, or an error."""

    def __init__(self, *answers: Any, max_payload: int = 1024 * 1024) -> None:
        self.max_payload = max_payload
        self.is_closed = False
        self.requests: list[tuple[str, bytes, dict[str, str]]] = []
        self._answers = list(answers)

    def new_inbox(self) -> str:
        return "_INBOX.x"

    async def request(
        self, subject: str, payload: bytes, timeout: float, *, headers: dict[str, str] | None = None
    ) -> Msg:
        self.requests.append((subject, payload, headers or {}))
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Msg):
            return answer
        return message("", answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        raise AssertionError("nothing is published unheard")

    async def subscribe(self, subject: str) -> FakeMessages:
        raise AssertionError("nothing is listened to")


def refusal(err_code: int, code: int = 400) -> dict[str, Any]:
    return {"error": {"code": code, "err_code": err_code, "description": "words"}, "seq": 0}


# --- Counting ---


@pytest.mark.parametrize(
    ("headers", "size"),
    [
        (None, 3),
        ({}, len(b"NATS/1.0\r\n\r\nabc")),
        ({"A": "b"}, len(b"NATS/1.0\r\nA: b\r\n\r\nabc")),
        ({" A ": " b "}, len(b"NATS/1.0\r\nA: b\r\n\r\nabc")),
        ({"Ä": "ß", "C": ""}, len("NATS/1.0\r\nÄ: ß\r\nC: \r\n\r\nabc".encode())),
    ],
)
def test_headers_count_as_they_are_on_the_wire(headers: Mapping[str, str] | None, size: int) -> None:
    assert publishing.num_bytes(b"abc", headers) == size


async def test_one_byte_too_many_is_never_sent() -> None:
    head = publishing.num_bytes(b"", publishing.with_content_type({jetstream.MESSAGE_ID: "i"}))
    wire = Answering({"seq": 1}, max_payload=head + 10)
    assert (await publishing.publish(wire, "turn.x", b"x" * 10, message_id="i")).sequence == 1
    with pytest.raises(PayloadTooLarge) as refused:
        await publishing.publish(wire, "turn.x", b"x" * 11, message_id="i")
    assert (refused.value.num_bytes, refused.value.limit) == (head + 11, head + 10)
    assert len(wire.requests) == 1


async def test_our_streams_bound_counts_where_the_server_takes_more() -> None:
    wire = Answering(max_payload=64 * 1024 * 1024)
    with pytest.raises(PayloadTooLarge):
        await publishing.publish(wire, "turn.x", b"x" * 1024 * 1024)
    assert wire.requests == []


# --- What the server says of a publish ---


@pytest.mark.parametrize("code", jetstream.TOO_LARGE)
async def test_too_large_by_the_servers_word(code: int) -> None:
    with pytest.raises(PayloadTooLarge):
        await publishing.publish(Answering(refusal(code)), "x", b"")


@pytest.mark.parametrize("code", [*jetstream.WRONG_LAST_SEQUENCE, jetstream.NOT_TAKEN, 10060])
async def test_any_other_refusal_keeps_its_code(code: int) -> None:
    with pytest.raises(NotStored, match=f"words.*{code}") as refused:
        await publishing.publish(Answering(refusal(code)), "x", b"")
    assert refused.value.code == code


@pytest.mark.parametrize("answer", [b"what", b"[1]", {}, {"seq": "1"}, {"error": "words"}])
async def test_an_answer_that_is_none_is_no_acknowledgement(answer: Any) -> None:
    with pytest.raises(NotStored) as refused:
        await publishing.publish(Answering(answer), "x", b"")
    assert refused.value.code is None


async def test_without_an_id_it_is_tried_once_and_with_one_twice() -> None:
    once = Answering(nats.errors.TimeoutError())
    with pytest.raises(NotAcknowledged):
        await publishing.publish(once, "x", b"")
    twice = Answering(nats.errors.TimeoutError(), {"seq": 3, "duplicate": True})
    stored = await publishing.publish(twice, "x", b"", message_id="i")
    assert (stored.sequence, stored.is_duplicate) == (3, True)
    assert [headers[jetstream.MESSAGE_ID] for _, _, headers in twice.requests] == ["i", "i"]


async def test_a_duplicate_on_the_first_try_is_somebody_elses_unless_such_ids_are_ours() -> None:
    answer = {"seq": 3, "duplicate": True}
    with pytest.raises(Duplicate):
        await publishing.publish(Answering(answer), "x", b"", message_id="i")
    assert (await publishing.publish(Answering(answer), "x", b"", message_id="i", is_id_ours=True)).sequence == 3


async def test_that_no_stream_answers_is_sure_on_the_first_try_alone() -> None:
    with pytest.raises(NoStream):
        await publishing.publish(Answering(nats.errors.NoRespondersError()), "x", b"", message_id="i")
    wire = Answering(nats.errors.TimeoutError(), nats.errors.NoRespondersError())
    with pytest.raises(NotAcknowledged):
        await publishing.publish(wire, "x", b"", message_id="i")


async def test_a_connection_that_closes_leaves_it_open_whether_it_is_stored() -> None:
    wire = Answering(nats.errors.TimeoutError())
    wire.is_closed = True
    with pytest.raises(NotAcknowledged):
        await publishing.publish(wire, "x", b"", message_id="i")
    assert len(wire.requests) == 1


# --- The API ---


async def test_what_is_not_found_is_none_and_all_else_an_error_in_the_servers_words() -> None:
    assert await jetstream.stream(Answering(refusal(10059, 404)), "S") is None
    assert not await jetstream.delete(Answering(refusal(10037, 404)), "S", 3)
    with pytest.raises(ServerError, match=r"STREAM.INFO.S: words \(code 10025\)"):
        await jetstream.stream(Answering(refusal(10025, 503)), "S")
    with pytest.raises(ServerError, match=r"CONSUMER.INFO.S.c: .*timeout"):
        await jetstream.consumer(Answering(nats.errors.TimeoutError()), "S", "c")


async def test_an_answer_of_another_shape_is_an_error_and_no_crash() -> None:
    with pytest.raises(ServerError, match="not understood"):
        await jetstream.consumer(Answering({"config": {}}), "S", "c")


async def test_a_stream_and_a_consumer_are_read() -> None:
    wire = Answering({"config": {"name": "S", "max_bytes": -1}, "state": STATE | {"consumer_count": 2}}, CONSUMER)
    stream = await jetstream.stream(wire, "S")
    assert stream is not None
    assert (stream.name, stream.max_bytes, stream.state.num_consumers) == ("S", None, 2)
    assert stream.state.first_stored_at == 1767323045.0
    consumer = await jetstream.consumer(wire, "S", "batch")
    assert consumer is not None
    assert (consumer.ack_wait_seconds, consumer.num_pending, consumer.ack_floor.stream_sequence) == (30.0, 2, 5)
    assert [subject for subject, _, _ in wire.requests] == ["$JS.API.STREAM.INFO.S", "$JS.API.CONSUMER.INFO.S.batch"]


async def test_pages_are_asked_for_until_all_is_there() -> None:
    wire = Answering({"streams": ["a", "b"], "total": 3}, {"streams": ["c"], "total": 3})
    assert await jetstream.stream_names(wire, "turn.>") == ["a", "b", "c"]
    asked = [json.loads(payload) for _, payload, _ in wire.requests]
    assert asked == [{"subject": "turn.>", "offset": 0}, {"subject": "turn.>", "offset": 2}]
    # A server that counts more than it tells must not be asked for ever.
    assert await jetstream.stream_names(Answering({"streams": ["a"], "total": 9}, {"streams": None})) == ["a"]
    counted = Answering({"state": {"subjects": {"x": 1}}, "total": 2}, {"state": {"subjects": {"y": 1}}, "total": 2})
    assert await jetstream.subjects_in(counted, "S", "x.>") == ["x", "y"]


async def test_a_deletion_overwrites_unless_told_not_to() -> None:
    wire = Answering({"success": True}, {"success": True})
    assert await jetstream.delete(wire, "S", 3)
    assert await jetstream.delete(wire, "S", 4, overwrite=False)
    assert [json.loads(payload) for _, payload, _ in wire.requests] == [{"seq": 3}, {"seq": 4, "no_erase": True}]


# --- Direct gets ---


async def test_a_message_that_claims_a_status_is_a_message_all_the_same() -> None:
    headers = {"Status": "404", "Nats-Sequence": "8", "Nats-Subject": "a.b"}
    found = await jetstream.last_stored(Answering(message("", b"x", headers)), "S", "a.b")
    assert found is not None
    assert (found.payload, found.sequence, found.subject) == (b"x", 8, "a.b")


async def test_a_direct_get_tells_nothing_there_from_no_answer() -> None:
    assert await jetstream.stored_at(Answering(message("", b"", {"Status": "404"})), "S", 8) is None
    odd = message("", b"", {"Status": "408", "Description": "Bad Request"})
    with pytest.raises(ServerError, match="408 Bad Request"):
        await jetstream.last_stored(Answering(odd), "S", "a.b")
    with pytest.raises(ServerError):
        await jetstream.last_stored(Answering(nats.errors.NoRespondersError()), "S", "a.b")


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("2026-01-02T03:04:05.678901234Z", 1767323045.678901),
        ("2026-01-02T03:04:05Z", 1767323045.0),
        ("2026-01-02T03:04:05.5Z", 1767323045.5),
    ],
)
def test_when_a_message_was_stored(stamp: str, seconds: float) -> None:
    assert jetstream.StoredMessage(b"", 1, {"Nats-Time-Stamp": stamp}).stored_at == seconds


# --- The words of a delivery ---


def test_a_pull_waits_or_does_not() -> None:
    assert json.loads(jetstream.pull_request(1.5)) == {"batch": 1, "expires": 1_500_000_000}
    assert json.loads(jetstream.pull_request(0)) == {"batch": 1, "no_wait": True}


def test_a_turn_is_given_back_for_later() -> None:
    assert jetstream.nak_after(2.0) == b'-NAK {"delay": 2000000000}'
