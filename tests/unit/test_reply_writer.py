"""What a worker writes of a turn's answer is there once, whoever else writes and whatever is lost on the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from broker import replies
from broker.errors import ConnectionLost, Fenced
from broker.messages import Chunk, Done, Failed, HandedBack, Started, Timings, TokenLogprob, Usage
from broker.replies import ReplyWriter, read_end, read_replies, write_end
from broker.subjects import TurnAddress
from tests.fake_jetstream import FakeJetStream

ADDRESS = TurnAddress("m", "interactive", "c", "t")
DONE = Done("stop", "hello", (1, 2), Usage(1, 0, 2), Timings(0, 0, 0), "w1")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "RETRY_SECONDS", 0.0)


async def written(server: FakeJetStream) -> list[object]:
    return [one.reply for one in await read_replies(server, "c", "t")]


async def test_chunks_are_numbered_and_say_what_comes_before_them() -> None:
    server = FakeJetStream()
    writer = ReplyWriter(server, ADDRESS, "w1")
    await writer.start("model")
    await writer.write("hel", (1, 2))
    await writer.write("lo", (3,))
    assert await written(server) == [
        Started(0, 0, "w1", 1, "model"),
        Chunk(1, 0, "hel", (1, 2)),
        Chunk(2, 0, "lo", (3,), (), 3, 2),
    ]
    assert writer.num_chunks == 3


async def test_a_chunk_whose_acknowledgement_is_lost_is_stored_once() -> None:
    server = FakeJetStream()
    writer = ReplyWriter(server, ADDRESS, "w1")
    await writer.start()
    server.script.append("unheard")
    await writer.write("hello", (1,))
    await writer.write("!", (2,))
    assert [one.text for one in await written(server) if isinstance(one, Chunk)] == ["hello", "!"]
    assert server.num_published == 4  # the unheard one again


async def test_a_chunk_that_is_lost_on_its_way_is_sent_again() -> None:
    server = FakeJetStream()
    writer = ReplyWriter(server, ADDRESS, "w1")
    server.script.extend(["arrives", "lost", "lost"])
    await writer.start()
    await writer.write("hello", (1,))
    assert [one.text for one in await written(server) if isinstance(one, Chunk)] == ["hello"]
    assert server.num_published == 4


async def test_who_was_cut_off_is_fenced_once_another_worker_has_begun() -> None:
    server = FakeJetStream()
    first, second = ReplyWriter(server, ADDRESS, "w1"), ReplyWriter(server, ADDRESS, "w2")
    await first.start()
    await first.write("he", (1,))
    await second.start()
    num_before = len(await written(server))
    with pytest.raises(Fenced):
        await first.write("llo", (2,))
    assert len(await written(server)) == num_before
    assert second.workers == ("w1",)


class BusyJetStream(FakeJetStream):
    """One on which something happens between somebody's reading and what he writes then: each of `between` once."""

    def __init__(self) -> None:
        super().__init__()
        self.between: list[Callable[[], Awaitable[object]]] = []

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        await super().publish(subject, payload, reply, headers)
        if self.between:
            await self.between.pop(0)()


async def test_a_start_takes_over_from_who_still_writes_while_it_reads() -> None:
    server = BusyJetStream()
    first, second = ReplyWriter(server, ADDRESS, "w1"), ReplyWriter(server, ADDRESS, "w1")
    await first.start("m1")
    await first.write("h", (1,))
    server.between = [lambda: first.write("e", (2,)), lambda: first.write("l", (3,))]
    started = await second.start("m1")
    assert started == Started(4, 0, "w1", 2, "m1")
    assert (second.resumed_text, second.resumed_tokens) == ("hel", (1, 2, 3))
    with pytest.raises(Fenced):
        await first.write("x", (9,))
    await second.write("lo", (4, 5))
    assert (await written(server))[-1] == Chunk(5, 0, "lo", (4, 5), (), 3, 3)


async def test_a_start_that_takes_over_while_it_reads_forgets_what_it_had_read() -> None:
    server = BusyJetStream()
    first, second = ReplyWriter(server, ADDRESS, "w1"), ReplyWriter(server, ADDRESS, "w2")
    await first.start("m1")
    await first.write("he", (1, 2))
    server.between = [lambda: first.write("llo", (3,))]
    assert await second.start("m2") == Started(3, 1, "w2", 2, "m2")
    assert (second.resumed_text, second.resumed_tokens) == ("", ())


async def test_a_turn_that_is_handed_back_while_it_is_begun_anew_is_begun_and_was_no_crash() -> None:
    server = BusyJetStream()
    first, second = ReplyWriter(server, ADDRESS, "w1"), ReplyWriter(server, ADDRESS, "w2")
    await first.start()
    server.between = [first.hand_back]
    assert await second.start() == Started(2, 0, "w2", 1)


@pytest.mark.parametrize("name", ["w1", "w2"])
async def test_of_two_that_begin_at_once_one_gives_up_whatever_they_are_called(name: str) -> None:
    server = BusyJetStream()
    first, second = ReplyWriter(server, ADDRESS, "w1"), ReplyWriter(server, ADDRESS, name)
    server.between = [second.start]
    with pytest.raises(Fenced):
        await first.start()
    assert await written(server) == [Started(0, 0, name, 1)]
    await second.write("hello", (1,))


@pytest.mark.parametrize(
    ("model", "grammar", "can_resume", "is_resumed"),
    [("m1", "g1", True, True), ("m2", "g1", True, False), ("m1", "g2", True, False), ("m1", "g1", False, False)],
)
async def test_the_next_worker_goes_on_if_it_has_the_model_and_may(
    model: str, grammar: str, can_resume: bool, is_resumed: bool
) -> None:
    server = FakeJetStream()
    first = ReplyWriter(server, ADDRESS, "w1")
    await first.start("m1", grammar="g1")
    await first.write("he", (1, 2))
    second = ReplyWriter(server, ADDRESS, "w2")
    started = await second.start(model, grammar=grammar, can_resume=can_resume, num_prompt_tokens=5)
    assert (second.resumed_text, second.resumed_tokens) == (("he", (1, 2)) if is_resumed else ("", ()))
    assert started == Started(2, 0 if is_resumed else 1, "w2", 2, model, grammar, 5)


@pytest.mark.parametrize(("token", "is_resumed"), [(8, True), (9, False), (-1, False), (2**31, False), (2**62, False)])
async def test_what_is_no_token_of_the_model_is_computed_anew(token: int, is_resumed: bool) -> None:
    server = FakeJetStream()
    first = ReplyWriter(server, ADDRESS, "w1")
    await first.start("m1")
    await first.write("he", (1,))
    await first.write("llo", (token,))
    second = ReplyWriter(server, ADDRESS, "w2", num_tokens=9)
    assert (await second.start("m1")).attempt == (0 if is_resumed else 1)
    assert second.resumed_tokens == ((1, token) if is_resumed else ())


async def test_an_attempt_with_a_hole_is_not_built_upon() -> None:
    server = FakeJetStream()
    first = ReplyWriter(server, ADDRESS, "w1")
    await first.start("m1")
    await first.write("he", (1,))
    await first.write("llo", (2,))
    del server.streams["REPLIES"].messages[2]
    second = ReplyWriter(server, ADDRESS, "w2")
    assert (await second.start("m1")).attempt == 1
    assert second.resumed_tokens == ()


async def test_a_start_that_was_handed_back_is_no_crash() -> None:
    server = FakeJetStream()
    first = ReplyWriter(server, ADDRESS, "w1")
    await first.start()
    await first.hand_back()
    started = await ReplyWriter(server, ADDRESS, "w2").start()
    assert started.num_starts == 1
    assert (await written(server))[1] == HandedBack(1, 0)


async def test_more_than_half_a_message_goes_in_pieces_that_add_up() -> None:
    server = FakeJetStream(max_payload=4096)
    writer = ReplyWriter(server, ADDRESS, "w1")
    await writer.start()
    tokens = tuple(range(200))
    logprobs = tuple(TokenLogprob(token, -1.0, ((token, -1.0),)) for token in tokens)
    await writer.write("x" * 400, tokens, logprobs)
    chunks = [one for one in await written(server) if isinstance(one, Chunk)]
    assert len(chunks) > 1
    assert "".join(one.text for one in chunks) == "x" * 400
    assert sum((one.tokens for one in chunks), ()) == tokens
    assert sum((one.logprobs for one in chunks), ()) == logprobs
    assert [one.token_offset for one in chunks] == [one.tokens[0] for one in chunks]
    assert max(map(len, server.streams["REPLIES"].payloads())) <= 2048


async def test_a_connection_that_is_closed_for_good_ends_the_tries() -> None:
    server = FakeJetStream()
    writer = ReplyWriter(server, ADDRESS, "w1")
    await writer.start()
    server.is_closed = True
    with pytest.raises(ConnectionLost, match="closed"):
        await writer.write("hello", (1,))
    with pytest.raises(ConnectionLost, match="closed"):
        await writer.end(DONE)


# --- The end ---


async def test_a_turn_has_one_end_the_first() -> None:
    server = FakeJetStream()
    assert await write_end(server, ADDRESS, DONE)
    assert not await write_end(server, ADDRESS, Failed("deadline", "late"))
    assert await read_end(server, "c", "t") == DONE


async def test_an_end_whose_acknowledgement_is_lost_is_still_ours() -> None:
    server = FakeJetStream()
    server.script.append("unheard")
    assert await write_end(server, ADDRESS, DONE)
    assert len(server.streams["ENDS"].messages) == 1


async def test_a_full_stream_of_ends_makes_room_by_its_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "ENDS_REMOVED", 1)
    server = FakeJetStream(max_end_bytes=3000)
    for number in range(2):
        assert await write_end(server, TurnAddress("m", "batch", "c", f"old{number}"), Failed("x", "y" * 1200))
    assert await write_end(server, ADDRESS, Failed("x", "y" * 1200))
    assert await read_end(server, "c", "old0") is None
    assert await read_end(server, "c", "old1") is not None
    assert await read_end(server, "c", "t") is not None


async def test_an_answer_over_the_servers_bound_says_so_and_a_strangers_value_is_cut() -> None:
    server = FakeJetStream(max_payload=4096)
    large = Done("stop", "x" * 5000, (), Usage(1, 0, 2), Timings(0, 0, 0), "w1", attempt=3)
    assert await write_end(server, ADDRESS, large)
    found = await read_end(server, "c", "t")
    assert isinstance(found, Failed)
    assert (found.code, found.worker, found.attempt) == ("answer_too_large", "w1", 3)
    assert await write_end(server, TurnAddress("m", "batch", "c", "u"), Failed("x", "9" * 5000))
    cut = await read_end(server, "c", "u")
    assert isinstance(cut, Failed)
    assert cut.detail == "9" * replies.MAX_DETAIL + "…"
