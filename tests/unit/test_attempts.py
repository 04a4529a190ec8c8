"""What a reader makes of what arrives: an answer that was begun anew, holes, words of other releases, and the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from broker.answer import Answer
from broker.messages import (
    CallDelta,
    Chunk,
    Done,
    Message,
    Other,
    Reply,
    Started,
    Timings,
    ToolCall,
    Turn,
    Usage,
    new_id,
)
from broker.reassembly import Reassembly
from producers.gateway.openai.answers import Writer
from producers.gateway.strand import Strand
from producers.gateway.stream import Comments, Stream

ANSWER = '{"node": 7}'
TOKENS = (1, 2, 3, 4, 5)


def answer() -> Answer:
    client: Any = SimpleNamespace(name="c")
    return Answer(client, Turn(new_id(), "c", (Message("user", "hi"),)), "m", "interactive")


def done(text: str = ANSWER, tokens: tuple[int, ...] = TOKENS, attempt: int = 1, reason: str = "stop") -> Done:
    return Done(reason, text, tokens, Usage(1, 0, 5), Timings(0, 0, 0), "w2", attempt, 4)


def shown(chunks: list[Chunk]) -> str:
    """What a reader shows who does as docs/protocol.md says: a higher attempt means to drop the text so far."""
    text, attempt = "", 0
    for chunk in chunks:
        if chunk.attempt > attempt:
            attempt, text = chunk.attempt, ""
        text += chunk.text
    return text


def read(*replies: Reply | Other, end: Done) -> tuple[list[Chunk], Reassembly]:
    reader = Reassembly()
    chunks = [chunk for reply in replies for chunk in reader.take(reply)]
    return chunks + reader.rest(end), reader


@pytest.mark.parametrize(
    ("replies", "end"),
    [
        # The new attempt's beginning is the old one's, or is not.
        ((Started(0, 0, "w1"), Chunk(1, 0, '{"node": ', (1, 2, 3))), done()),
        ((Started(0, 0, "w1"), Chunk(1, 0, "something else", (8, 9))), done()),
        ((Started(0, 0, "w1"), Chunk(1, 0, ANSWER, TOKENS)), done()),
        # Tokens whose text was still held back.
        ((Started(0, 0, "w1"), Chunk(1, 0, "", (1, 2))), done()),
        # Some of the new attempt has come.
        ((Chunk(0, 0, '{"x', (1, 9)), Started(1, 1, "w2"), Chunk(2, 1, '{"node', (1, 2))), done()),
        # The end is an earlier attempt's: its worker was cut off, and wrote it first.
        ((Chunk(0, 0, '{"no', (1,)), Started(1, 1, "w2"), Chunk(2, 1, '{"x": 9', (1, 9))), done(attempt=0)),
        ((Chunk(0, 0, '{"no', (1,)), Started(1, 1, "w2"), Chunk(2, 1, '{"node', (1, 2))), done(attempt=0)),
        # Of one attempt, and not what was read: a killed server had lost it, and it was drawn otherwise.
        ((Started(0, 0, "w1"), Chunk(1, 0, '{"node": 9', (1, 2, 9))), done(attempt=0)),
        # Longer than the end.
        ((Started(0, 0, "w1"), Chunk(1, 0, ANSWER + "more", (*TOKENS, 6))), done(attempt=0)),
        # What comes of an attempt that is over is not mixed in.
        ((Chunk(0, 0, "abc", (1, 2, 3)), Chunk(1, 1, "xy", (8,)), Chunk(2, 0, "defgh", (4,), (), 0, 0)), done()),
        ((), done()),
        ((), done(attempt=0)),
    ],
)
def test_whatever_was_read_before_the_end_is_what_is_shown(replies: tuple[Reply, ...], end: Done) -> None:
    chunks, reader = read(*replies, end=end)
    assert shown(chunks) == end.text
    assert reader.text == end.text
    assert "".join(chunk.text for chunk in chunks if chunk.attempt == chunks[-1].attempt) == end.text
    last = [chunk for chunk in chunks if chunk.attempt == chunks[-1].attempt]
    assert tuple(token for chunk in last for token in chunk.tokens) == end.tokens


def test_an_answer_that_ended_empty_takes_back_what_was_told() -> None:
    chunks, reader = read(Chunk(0, 0, "some", (1,)), end=done("", (), 1))
    assert (shown(chunks), reader.text) == ("", "")


def test_what_was_read_of_a_turn_that_was_stopped_stays() -> None:
    # A worker that was never begun there knows of no text.
    chunks, reader = read(Chunk(0, 0, "some", (1,)), end=done("", (), 0, "cancelled"))
    assert (shown(chunks), reader.text) == ("some", "some")


def test_a_message_of_a_kind_of_a_later_release_has_its_place_and_no_more() -> None:
    replies = (Started(0, 0, "w1"), Other("progress", 1, 0), Chunk(2, 0, '{"node": ', (1, 2, 3)), Other("note", 3))
    chunks, _ = read(*replies, end=done(attempt=0))
    assert [chunk.text for chunk in chunks] == ['{"node": ', "7}"]


# --- The gateway's stream ---


def sent(chunks: list[Chunk], *, reads_comments: bool) -> tuple[str, Strand]:
    """The events' text as an API client joins it; comments of a restart are `!` for who reads them."""
    strand = Strand(0, answer(), Writer("t", "m", is_chat=False), reads_comments=reads_comments)
    body = b"".join(map(strand.chunk, chunks)).decode()
    text = ""
    for event in body.split("\n\n"):
        if event.startswith(": turnpike"):
            text += "!"
        elif event.startswith("data: "):
            text += event.partition('"text":"')[2].partition('","logprobs"')[0].replace('\\"', '"')
    return text, strand


def test_an_api_client_gets_an_answer_that_was_begun_anew_as_if_it_was_not() -> None:
    chunks = [
        Chunk(1, 0, '{"node', (1,)),
        Chunk(3, 1, '{"n', (1,)),
        Chunk(4, 1, 'ode": ', (2,)),
        Chunk(5, 1, "7}", (3,)),
    ]
    text, strand = sent(chunks, reads_comments=False)
    assert text == ANSWER
    assert not strand.is_contradicted


def test_an_api_client_is_told_where_the_new_answer_is_another() -> None:
    _, strand = sent([Chunk(1, 0, '{"node', (1,)), Chunk(3, 1, '{"x', (1,))], reads_comments=False)
    assert strand.is_contradicted


@pytest.mark.parametrize("again", ['{"nod', ""])
async def test_an_api_client_is_told_where_the_new_answer_ends_before_what_it_has(again: str) -> None:
    chunks = [Chunk(1, 0, '{"node', (1,)), Chunk(3, 1, again, (1,))]
    body = await streamed(chunks, done(again, (1,)))
    assert '"code":"restarted"' in body
    assert "[DONE]" not in body
    body = await streamed([*chunks, Chunk(4, 1, ANSWER[len(again) :], (2,))], done())
    assert '"code":"restarted"' not in body
    assert body.endswith("data: [DONE]\n\n")


CALLED = (ToolCall("a", "lamp", '{"on": true}'),)
FIRST_CALL = (CallDelta(0, "a", "lamp"), CallDelta(0, arguments='{"on"', offset=0))


def begun_anew(*calls: CallDelta) -> list[Chunk]:
    return [
        Chunk(1, 0, "Well.", (1,), reasoning="Hm."),
        Chunk(2, 0, "", (2,), calls=FIRST_CALL),
        Chunk(4, 1, "We", (1,), reasoning="Hm."),
        Chunk(5, 1, "ll.", (2,), calls=calls),
    ]


async def test_calls_and_thoughts_of_an_answer_that_was_begun_anew_go_on_where_they_are_the_same() -> None:
    chunks = begun_anew(CallDelta(0, "a", "lamp"), CallDelta(0, arguments='{"on": true}'))
    end = msgspec.structs.replace(done("Well."), finish_reason="tool_calls", tool_calls=CALLED, reasoning="Hm.")
    body = await streamed(chunks, end)
    events = [json.loads(line[6:]) for line in body.split("\n\n") if line.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    calls = [one for delta in deltas for one in delta.get("tool_calls", ())]
    assert [one["function"]["arguments"] for one in calls] == ['{"on"', ": true}"]
    assert (calls[0]["id"], calls[0]["function"]["name"], "id" in calls[1]) == ("a", "lamp", False)
    assert "".join(delta.get("content") or "" for delta in deltas) == "Well."
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm."
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "calls",
    [
        (CallDelta(0, "a", "lamp"), CallDelta(0, arguments='{"off')),
        (CallDelta(0, "a", "fan"),),
        (CallDelta(0, "b", "lamp"),),
        (),
        (CallDelta(0, "a", "lamp"), CallDelta(0, arguments='{"o')),
    ],
)
async def test_a_client_is_told_where_the_calls_of_an_answer_that_was_begun_anew_are_others(
    calls: tuple[CallDelta, ...],
) -> None:
    body = await streamed(begun_anew(*calls), done("Well."))
    assert '"code":"restarted"' in body
    assert "[DONE]" not in body


async def streamed(chunks: list[Chunk], end: Done) -> str:
    """All that a client gets of an answer with these chunks."""

    class Given(Answer):
        async def __aiter__(self) -> AsyncIterator[Chunk]:
            for chunk in chunks:
                yield chunk
            self.end = end

    given = Given(answer()._client, answer().turn, "m", "interactive")
    sent: list[bytes] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    await Stream([given], Writer("t", "m", is_chat=True), Comments()).run(receive, send)
    return b"".join(sent).decode()


def test_who_reads_comments_is_told_to_drop_what_it_has() -> None:
    chunks = [Chunk(1, 0, '{"node', (1,)), Chunk(3, 1, '{"node": ', (1,)), Chunk(4, 1, "7}", (3,))]
    text, strand = sent(chunks, reads_comments=True)
    assert text == '{"node!{"node": 7}'
    assert not strand.is_contradicted
