"""A model is drained for another one and comes back, on its board or on another: its conversations go on from what was
kept, and what was not is counted as computed again because of that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client as NatsConnection

from broker import codec, publishing, subjects
from broker.accounts import WORKER
from broker.client import Client
from broker.connection import close, connect
from broker.messages import Done, Holding, Message, Sampling
from broker.server import EmbeddedServer
from tests.fakes import FakeRenderer
from tests.integration.conftest import Running, StartWorker
from tests.integration.test_offloading import computed
from tests.integration.test_transfer import FAST, TEXT, Conversation, directory, of_each_kind, slow_engine
from tests.kv_fakes import LAYOUT, WITH_CHECKPOINTS, state_of
from workers.boards.parked import Parked
from workers.kv.board_folder import BoardFolder
from workers.kv.board_store import BoardStore, giver_name
from workers.kv.cache import OffloadCache
from workers.kv.index import Key, KvEntry
from workers.kv.peers import NatsPeerClient
from workers.prompts.history import History

NUM_CONVERSATIONS = 8


class Named(Conversation):
    """One that says what no other one says."""

    def question(self) -> str:
        return f"{self.name} {super().question()}"


class Board:
    """A board's folder, what gives of it, and workers of the model on it, one after the other."""

    def __init__(
        self, nc: NatsConnection, group: asyncio.TaskGroup, start: StartWorker, folder: Path, name: str, cut: bool
    ) -> None:
        self._start = start
        self._group = group
        self._nc = nc
        self._path = folder / name
        self._name = name
        self._can_remove_part = cut
        self.parked = Parked(nc, name, self._path, 1 << 20)

    @asynccontextmanager
    async def worker(self, name: str) -> AsyncIterator[Running]:
        """From its start to its drain."""
        engine = slow_engine(self._can_remove_part)
        history = History(FakeRenderer(), engine.vocabulary)
        layout = LAYOUT if self._can_remove_part else WITH_CHECKPOINTS
        folder = BoardFolder(self._path)
        store = BoardStore(folder, "m", layout, lambda key: history.recall(key.client, key.conversation))
        store.open(lambda key, told: history.adopt(key.client, key.conversation, told))
        cache = OffloadCache(1_000_000, board=store, can_remove_part=self._can_remove_part)
        kept = {"offload_cache": cache, "history": history, "fetch_bytes_per_second": FAST}
        try:
            async with self._start(engine, name=name, **kept) as running:
                yield running
        finally:
            store.close()

    async def start(self) -> None:
        """Gives what workers leave."""
        await self.parked.start("m", self._group)

    async def give(self) -> None:
        """Says too what is there already."""
        await self.parked.found("m", self._group)

    async def held(self) -> Holding:
        """What the directory says of the conversation."""
        return await directory(self._nc)

    async def hold(self, holding: Holding) -> None:
        subject = subjects.held("m", "local", "c")
        await publishing.publish(self._nc, subject, codec.encode(holding), timeout=5)


@asynccontextmanager
async def boards(server: EmbeddedServer, start: StartWorker, folder: Path, cut: bool) -> AsyncIterator[list[Board]]:
    nc = await connect(server.address(WORKER), name="boards")
    async with asyncio.TaskGroup() as group:
        found = [Board(nc, group, start, folder, name, cut) for name in ("a", "b")]
        try:
            yield found
        finally:
            for one in found:
                await one.parked.close()
    await close(nc)


@of_each_kind
async def test_a_models_conversations_are_found_again_by_its_next_worker_on_the_board(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker, tmp_path: Path, can_remove_part: bool
) -> None:
    talks = [Named(client, f"c{number}") for number in range(NUM_CONVERSATIONS)]
    async with boards(nats_server, start_worker, tmp_path, can_remove_part) as (board, _):
        async with board.worker("w1"):
            for _ in range(2):
                for talk in talks:
                    await talk.next()
        kept_bytes = board.parked.num_bytes
        assert board.parked.models == ["m"]
        async with board.worker("w2"):
            done = [await talk.next() for talk in talks]
            assert {one.usage.cached_in for one in done} == {"board"}
            assert all(one.usage.recomputed_tokens == 0 for one in done)
            assert max(map(computed, done)) < len(TEXT) + 40
            assert board.parked.num_bytes == 0, "it is in the worker's memory, and nowhere twice"
        assert board.parked.num_bytes > kept_bytes


@of_each_kind
async def test_another_boards_worker_is_given_them_while_the_model_has_no_worker_here(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker, tmp_path: Path, can_remove_part: bool
) -> None:
    talk = Conversation(client)
    async with boards(nats_server, start_worker, tmp_path, can_remove_part) as (board, other):
        async with board.worker("w1") as running:
            await talk.next()
            await talk.next()
            assert (await directory(running.nc)).worker == "w1"
        await board.give()
        async with other.worker("w2") as running:
            kept = await directory(running.nc)
            assert (kept.worker, kept.is_swapped) == (giver_name("a", "m"), True)
            done = await talk.next()
            now = await directory(running.nc)
    assert done.usage.cached_in == "peer"
    assert done.usage.recomputed_tokens == 0
    assert computed(done) < len(TEXT) + 40
    assert (now.worker, now.is_swapped) == ("w2", False)


async def test_another_board_finds_them_at_any_time_of_a_swap(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    """From the worker's own word as it is drained to its successor's, with nobody else's between them."""
    talk = Conversation(client)
    async with boards(nats_server, start_worker, tmp_path, cut=True) as (board, other):
        async with board.worker("w1"):
            await talk.next()
            await board.start()
        async with other.worker("w2"):
            here = await talk.next()
        async with board.worker("w3") as running:
            assert board.parked.num_bytes > 0, "what it was before the other board took it up"
            async with asyncio.timeout(10):
                while (await directory(running.nc)).worker != giver_name("b", "m"):
                    pass
            await other.start()
            back = await talk.next()
    assert [one.usage.cached_in for one in (here, back)] == ["peer", "peer"]
    assert [one.usage.recomputed_tokens for one in (here, back)] == [0, 0]


async def test_what_a_worker_that_was_killed_had_not_taken_up_is_found(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    talk = Conversation(client)
    async with boards(nats_server, start_worker, tmp_path, cut=True) as (board, other):
        async with board.worker("w1"):
            await talk.next()
        killed = Holding("w2", "f", (await board.held()).num_tokens, 1)
        await board.hold(killed)  # as the next worker said when it started
        await board.give()
        async with other.worker("w3"):
            done = await talk.next()
    assert done.usage.cached_in == "peer"


@pytest.mark.parametrize("name", ["w1", "w2"], ids=["of the same name", "of another name"])
async def test_what_the_board_has_no_room_for_is_computed_again_because_of_the_swap(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker, tmp_path: Path, name: str
) -> None:
    talk = Conversation(client)
    async with boards(nats_server, start_worker, tmp_path, cut=True) as (board, _):
        async with board.worker("w1"):
            await talk.next()
            board.parked.bound(10)
        await board.give()
        async with board.worker(name):
            done = await talk.next()
            later = await talk.next()
    assert done.usage.recomputed_for == "swapped"
    assert done.usage.recomputed_tokens > len(TEXT)
    assert later.usage.recomputed_tokens == 0


@pytest.mark.parametrize("is_given", [True, False], ids=["while it is given", "with its board gone"])
async def test_what_the_board_lets_go_is_computed_again_because_of_the_swap(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker, tmp_path: Path, is_given: bool
) -> None:
    talk = Conversation(client)
    async with boards(nats_server, start_worker, tmp_path, cut=True) as (board, other):
        async with board.worker("w1"):
            await talk.next()
        await board.give()
        if is_given:
            assert board.parked.clear() == 0
        else:
            await board.parked.close()
        async with other.worker("w2"):
            done = await talk.next()
    assert done.usage.recomputed_for == "swapped"
    assert done.usage.recomputed_tokens > len(TEXT)


async def test_a_new_conversation_that_begins_as_a_kept_one_is_given_its_beginning(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    async def first_turn(name: str) -> Done:
        messages = [Message("system", TEXT * 6), Message("user", f"{name}?")]
        done: Done = await client.ask("m", messages, conversation=name, sampling=Sampling(max_tokens=4))
        return done

    async with boards(nats_server, start_worker, tmp_path, cut=True) as (board, other):
        async with board.worker("w1"):
            await first_turn("a")
        await board.give()
        async with other.worker("w2"):
            done = await first_turn("b")
    assert done.usage.cached_in == "peer"
    assert computed(done) < 40


async def test_each_models_conversation_of_a_name_is_its_own(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    nc = await connect(nats_server.address(WORKER), name="board")
    folder = BoardFolder(tmp_path)
    tokens = {"one": list(range(100)), "two": list(range(200, 240))}
    async with asyncio.TaskGroup() as group:
        parked = Parked(nc, "a", tmp_path, 1 << 20)
        for model, numbers in tokens.items():
            store = BoardStore(folder, model, LAYOUT)
            store.open()
            OffloadCache(1 << 20, board=store).flush(10, [state_of(numbers)])
            store.close()
            await parked.start(model, group)
        for model, numbers in tokens.items():
            entry: KvEntry = state_of(numbers)[0]
            opened = await NatsPeerClient(nc).open(giver_name("a", model), Key("alice", "c"))
            assert opened.tokens == entry.tokens
        await parked.close()
    await close(nc)


@pytest.mark.parametrize(("board", "model"), [("a", "m"), ("b" * 64, "m" * 64), ("b" * 64, "n" * 64)])
def test_a_board_gives_under_one_token_of_its_own(board: str, model: str) -> None:
    name = giver_name(board, model)
    assert len(name) <= 64
    assert name not in {giver_name("a" * 64, "m" * 64), board, model}
