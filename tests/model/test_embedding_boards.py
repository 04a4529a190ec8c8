"""A board with a chat model and one that makes vectors, side by side: each is loaded for who asks, and answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from broker.accounts import BOARD, LOCAL, write_credentials
from broker.client import Client
from broker.discovery import EMBED
from broker.messages import Sampling
from broker.process import spawn, terminate
from broker.server import EmbeddedServer
from tests.support import TURNPIKE, lock_files
from workers.boards.file_facts import facts_of_files
from workers.boards.line import FromWorker
from workers.boards.settings import BoardSettings
from workers.llama.bert_model import write_random_bert
from workers.models import DEMO

FLAGS = ("--num-ctx", "512", "--num-slots", "2", "--threads", "1", "--park-bytes", "0", "--node", "b1")


async def test_a_board_serves_a_chat_s_model_and_an_embedding_model_side_by_side(tmp_path: Path) -> None:
    bert = write_random_bert(tmp_path / "bert.gguf")
    lock_files(tmp_path, {"chat": DEMO.path, "e": bert})
    async with EmbeddedServer(tmp_path / "server") as server, Client(server.address(LOCAL)) as client:
        await server.ensure(["chat", "e"])
        write_credentials(tmp_path / "board.credentials", server.address(BOARD))
        where: list[str | Path] = ["--credentials", tmp_path / "board.credentials", "--data-dir", tmp_path / "data"]
        where += ["--lock-file", tmp_path / "lock", "--models-dir", tmp_path / "models"]
        words = ["board", "--model", "chat", "--model", "e", "--max-wait-seconds", "0"]
        with (tmp_path / "log").open("wb") as log:
            board = await spawn([*TURNPIKE, *words, *FLAGS, *map(str, where)], stdout=log.fileno(), stderr=log.fileno())
        try:
            async with asyncio.timeout(90):
                vectors = await client.embed("e", ["where is the mast", "check the fan"])
                answer = await client.ask("chat", "Hello.", sampling=Sampling(max_tokens=4))
                (told,) = [one for one in (await client.boards())[0].models if one.model == "e"]
                workers = {one.model: one.can for one in await client.workers()}
        finally:
            await terminate(board)
    assert np.linalg.norm(np.frombuffer(vectors.data, "<f4").reshape(2, 64), axis=1).round(5).tolist() == [1, 1]
    assert answer.text
    assert told.can == (EMBED,) == workers["e"]
    assert told.num_ctx == 128
    assert EMBED not in (workers["chat"] or ())


def test_what_a_header_tells_is_what_an_embedding_worker_would_tell_and_it_yields_its_cores(tmp_path: Path) -> None:
    bert = write_random_bert(tmp_path / "bert.gguf")
    found = facts_of_files([bert], "e", BoardSettings(num_ctx=64))
    assert (found.num_ctx, found.can) == (64, (EMBED,))
    assert found.file.architecture == "bert"
    assert FromWorker(can=(EMBED,)).yields
    assert not FromWorker(can=("chat",)).yields
    assert not FromWorker().yields
