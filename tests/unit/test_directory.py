"""What a worker says in the directory and what it believes of it. No NATS: a bucket in memory answers as the server."""

from __future__ import annotations

import json
from typing import Any

import nats.errors
import pytest
from nats.aio.msg import Msg

from broker import codec, jetstream, subjects
from broker.errors import ServerError
from broker.messages import Holding, Message, Remembered, Tool, Turn
from tests.kv_fakes import FINGERPRINT, KEY, LAYOUT, state_bytes, state_of
from workers.kv.beginnings import MAX_KNOWN, Beginnings, beginning_in, beginning_of
from workers.kv.cache import MIN_OFFLOADED_TOKENS, OffloadCache
from workers.kv.directory import Directory
from workers.kv.index import Key
from workers.prompts.besides import given_besides

SUBJECT = subjects.held("m", KEY.client, KEY.conversation)


class FakeBucket:
    """A connection whose server has one bucket; or that is away."""

    max_payload = 1 << 20
    is_closed = False

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.is_away = False

    async def request(
        self, subject: str, payload: bytes = b"", timeout: float = 1.0, headers: dict[str, str] | None = None
    ) -> Msg:
        if self.is_away:
            raise nats.errors.TimeoutError
        get = f"{jetstream.API}.{jetstream.DIRECT_GET}.{subjects.KV_HELD}."
        if not subject.startswith(get):
            self.stored[subject] = payload
            return self._message(json.dumps({"stream": subjects.KV_HELD, "seq": len(self.stored)}).encode(), {})
        found = self.stored.get(subject.removeprefix(get))
        if found is None:
            return self._message(b"", {"Status": "404", "Description": "Message Not Found"})
        return self._message(found, {jetstream.SEQUENCE: "1", codec.CONTENT_TYPE: codec.MSGPACK})

    def _message(self, data: bytes, headers: dict[str, str]) -> Msg:
        return Msg(_client=None, data=data, headers=headers)  # type: ignore[arg-type]

    def holding(self) -> Holding | None:
        payload = self.stored.get(SUBJECT)
        return None if payload is None else codec.decode(payload, Holding, {codec.CONTENT_TYPE: codec.MSGPACK})

    def hold(self, num_tokens: int) -> None:
        self.stored[SUBJECT] = codec.encode(Holding("other", FINGERPRINT, num_tokens, state_bytes(num_tokens)))


def directory_of(bucket: FakeBucket, *, is_on: bool = True, worker: str = "me", is_swapped: bool = False) -> Directory:
    return Directory(
        bucket,  # type: ignore[arg-type]
        LAYOUT,
        model="m",
        worker=worker,
        is_on=is_on,
        is_swapped=is_swapped,
    )


async def test_what_is_announced_is_found_with_all_that_a_peer_weighs() -> None:
    bucket = FakeBucket()
    await directory_of(bucket).announce(KEY.client, KEY.conversation, 100)
    found = await directory_of(bucket).look_up(KEY)
    assert found == Holding("me", FINGERPRINT, 100, state_bytes(100))


async def test_fewer_tokens_than_are_worth_a_transfer_are_not_announced() -> None:
    bucket = FakeBucket()
    await directory_of(bucket).announce(KEY.client, KEY.conversation, MIN_OFFLOADED_TOKENS - 1)
    assert bucket.stored == {}
    await directory_of(bucket).announce(KEY.client, KEY.conversation, MIN_OFFLOADED_TOKENS)
    assert [*bucket.stored] == [SUBJECT]


async def test_a_directory_that_is_off_says_and_knows_nothing() -> None:
    bucket = FakeBucket()
    bucket.hold(100)
    off = directory_of(bucket, is_on=False)
    await off.announce("alice", "other", 100)
    assert [*bucket.stored] == [SUBJECT]
    assert await off.look_up(KEY) is None


async def test_an_answer_does_not_fail_for_a_directory_that_is_away_and_a_look_says_so() -> None:
    bucket = FakeBucket()
    bucket.is_away = True
    await directory_of(bucket).announce(KEY.client, KEY.conversation, 100)
    with pytest.raises(ServerError):
        await directory_of(bucket).look_up(KEY)


@pytest.mark.parametrize("payload", [b"", b"nonsense"], ids=["deleted", "nonsense"])
async def test_an_entry_that_says_nothing_is_no_entry(payload: bytes) -> None:
    bucket = FakeBucket()
    bucket.stored[SUBJECT] = payload
    assert await directory_of(bucket).look_up(KEY) is None


@pytest.mark.parametrize(("num_others", "worker"), [(0, "me"), (99, "me"), (100, "me"), (101, "other")])
async def test_at_the_start_a_worker_announces_what_it_has_unless_another_has_more_by_now(
    num_others: int, worker: str
) -> None:
    bucket = FakeBucket()
    if num_others:
        bucket.hold(num_others)
    cache = OffloadCache(1_000_000)
    cache.offload(*state_of(list(range(100))))
    await directory_of(bucket).announce_cached(cache)
    found = bucket.holding()
    assert found is not None
    assert found.worker == worker


async def test_a_board_says_that_it_has_what_a_worker_had_which_made_room() -> None:
    bucket = FakeBucket()
    bucket.hold(100)
    cache = OffloadCache(1_000_000)
    cache.offload(*state_of(list(range(100))))
    await directory_of(bucket, is_swapped=True).announce_cached(cache)
    assert bucket.holding() == Holding("me", FINGERPRINT, 100, state_bytes(100), is_swapped=True)


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize(
    ("known", "num_tokens", "is_told"),
    [("me", 100, True), (None, 100, True), ("other", 100, False), ("me", MIN_OFFLOADED_TOKENS - 1, False)],
    ids=["as it was", "nobody", "another worker has it by now", "not worth a word"],
)
async def test_a_worker_that_makes_room_says_what_its_board_has_kept_and_what_nobody_has(
    known: str | None, num_tokens: int, is_told: bool, is_kept: bool
) -> None:
    bucket = FakeBucket()
    if known is not None:
        bucket.stored[SUBJECT] = codec.encode(Holding(known, FINGERPRINT, 100, state_bytes(100)))
    before = bucket.holding()
    await directory_of(bucket).tell_swapped({KEY: num_tokens}, {KEY} if is_kept else (), "board")
    worker = "board" if is_kept else "me"
    told = Holding(worker, FINGERPRINT, num_tokens, state_bytes(num_tokens), is_swapped=True)
    assert bucket.holding() == (told if is_told else before)


async def test_a_worker_that_makes_room_waits_for_no_directory_that_is_away() -> None:
    bucket = FakeBucket()
    bucket.is_away = True
    await directory_of(bucket).tell_swapped({KEY: 100, Key("alice", "d"): 100}, (), "board")
    assert bucket.stored == {}


@pytest.mark.parametrize("begins", [KEY.conversation, "another", None])
async def test_what_conversations_begin_with_is_told_anew_where_it_was_known_by_one_that_is_kept(
    begins: str | None,
) -> None:
    bucket = FakeBucket()
    messages = (Message("system", "x" * 1024), Message("user", "?"), Message("assistant", "!"))
    name = beginning_of(Turn("t", "c", messages[:2]))
    assert name is not None
    if begins is not None:
        other = directory_of(bucket, worker="other")
        await other.announce_beginning(KEY.client, name, begins, 90)
    cache = OffloadCache(1_000_000)
    cache.offload(*state_of(list(range(100))))
    remembered = Remembered(messages, "", b"")
    await directory_of(bucket).announce_cached(cache, lambda client, conversation: remembered)
    found = await directory_of(bucket).look_up(Key(KEY.client, name))
    expected = {KEY.conversation: "me", "another": "other"}.get(begins or "")
    assert (found.worker if found is not None else None) == expected


def test_a_beginning_is_known_by_the_same_name_from_what_is_remembered() -> None:
    system, user, told = Message("system", "x" * 1024), Message("user", "?"), Message("assistant", "!")
    for fields in ({}, {"chat_template_kwargs": {"a": 1}}, {"tools": (Tool("lamp", "y" * 1024),)}):
        turn = Turn("t", "c", (system, user), **fields)
        remembered = Remembered((system, user, told), "", b"", given_besides(turn))
        assert beginning_in(remembered) == beginning_of(turn) is not None
    assert beginning_in(Remembered((Message("system", "Be brief."), user, told), "", b"")) is None


async def test_a_directory_that_is_away_at_the_start_costs_the_entries_and_nothing_else() -> None:
    bucket = FakeBucket()
    bucket.is_away = True
    cache = OffloadCache(1_000_000)
    cache.offload(*state_of(list(range(100))))
    await directory_of(bucket).announce_cached(cache)
    assert bucket.stored == {}
    assert cache.entry_of(KEY) is not None
    assert cache.entry_of(Key("alice", "other")) is None


async def test_what_a_conversation_begins_with_is_found_under_a_name_of_its_own() -> None:
    bucket = FakeBucket()
    await directory_of(bucket).announce_beginning(KEY.client, "begins-a", KEY.conversation, 100)
    found = await directory_of(bucket).look_up(Key(KEY.client, "begins-a"))
    assert found == Holding("me", FINGERPRINT, 100, state_bytes(100), KEY.conversation)
    assert await directory_of(bucket).look_up(KEY) is None


def test_conversations_that_begin_alike_have_one_name_and_others_have_another() -> None:
    system, user = Message("system", "x" * 1024), Message("user", "?")
    tools = (Tool("lamp", "y" * 1024), Tool("bell"))

    def name(*messages: Message, **fields: Any) -> str | None:
        return beginning_of(Turn("t", "c", messages, **fields))

    names = [
        name(system, user),
        name(system, system, user),
        name(user, tools=tools),
        name(user, tools=tools[:1]),
        name(system, user, tools=tools),
        name(system, user, chat_template_kwargs={"a": 1}),
    ]
    assert len({*names, None}) == 7
    assert name(system, Message("user", "Another?")) == names[0]
    assert name(Message("user", "Another?"), tools=tools) == names[2]
    for others in ((user,), (Message("system", "Be brief."), user), (system, user, Message("assistant", ""), user)):
        assert name(*others) is None
    assert name(user, tools=tools, tool_choice="none") is None
    assert name(user, raw=True) is None


def test_a_worker_asks_for_a_beginning_once_and_forgets_the_oldest() -> None:
    seen = Beginnings()
    assert [seen.is_new("alice", "a"), seen.is_new("alice", "a"), seen.is_new("bob", "a")] == [True, False, True]
    for number in range(MAX_KNOWN - 1):
        assert seen.is_new("alice", str(number))
    assert (seen.is_new("bob", "a"), seen.is_new("alice", "a")) == (False, True)
