"""A worker's conversations as it starts: RAM's share, and what an earlier process left in files."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

from broker.errors import TurnpikeError
from broker.messages import Remembered
from workers.kv.board_folder import BoardFolder
from workers.kv.board_store import BoardStore
from workers.kv.cache import OffloadCache
from workers.kv.checks import StateLayout
from workers.kv.disk import Disk
from workers.kv.index import Key
from workers.prompts.history import History
from workers.settings import WorkerSettings


async def open_cache(
    max_bytes: int,
    layout: StateLayout,
    model: str,
    config: WorkerSettings,
    history: History,
    stop: asyncio.Event,
    cleanup: ExitStack,
    *,
    can_remove_part: bool,
    canonical_chunk: int,
) -> OffloadCache:
    """The tiers below the context of one model: `max_bytes` of RAM, its board's memory and the disk where they are
    wanted. What is remembered of conversations in files is `history`'s from now on. Raises TurnpikeError."""

    def recall(key: Key) -> Remembered | None:
        return history.recall(key.client, key.conversation)

    board: BoardStore | None = None
    disk: Disk | None = None
    if config.board_dir:
        board = BoardStore(BoardFolder(Path(config.board_dir).expanduser()), model, layout, recall)
    if config.disk_bytes:
        folder = Path(config.kv_dir or f"{config.data_dir}/kv").expanduser() / model
        disk = Disk(folder, config.disk_bytes, layout, recall)
    for files in (board, disk):
        if files is not None:
            cleanup.callback(files.close)
            await asyncio.to_thread(
                files.open,
                lambda key, told: history.adopt(key.client, key.conversation, told),
                wait_seconds=config.wait_seconds,
                while_waiting=lambda: _go_on_waiting(stop),
            )
    cache = OffloadCache(
        max_bytes,
        disk,
        board=board,
        share_across_clients=config.share_prefixes,
        can_remove_part=can_remove_part,
        canonical_chunk=canonical_chunk,
    )
    cleanup.callback(cache.close)
    return cache


def _go_on_waiting(stop: asyncio.Event) -> None:
    if stop.is_set():
        raise TurnpikeError("stopped before its folder of parked conversations was free")
