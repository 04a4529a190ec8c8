"""`turnpike models`: what there is, what fits here, and the files themselves."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from broker.catalogue import (
    Entry,
    FileError,
    Locked,
    entry_of,
    known_models,
    locked_as,
    read_lock,
    verify,
    write_lock,
)
from broker.discovery import MirrorInfo
from broker.errors import TurnpikeError
from broker.locks import InUse, Lock
from broker.process import EXIT_ERROR
from broker.settings import ModelSettings, PullSettings
from producers.terminal.tables import FoldingTable

WIDE = 140
"""Columns of a terminal that has room for everything."""
EXIT_NO_ANSWERS = 3
"""Of `turnpike models verify`: all is as locked, and something of it is no model that answers."""

ATTENTION = {"full": "all tokens", "sliding-window": "a window", "none": "embeds"}
"""What a model looks back on; recurrent ones on none of them, and those that make vectors have no conversations."""
LOCK_SECONDS = 60.0
"""How long `turnpike models lock` waits for another one: it asks the hub a question for each name."""

WhyNot = Callable[[Path], str | None]
"""Why the file there cannot answer a turn, in one sentence; None where it may."""
LargestContext = Callable[[Entry], int]
"""The largest context of a model that fits this machine, in tokens; 0 where none does."""


def _lock_of(options: ModelSettings, *, may_be_missing: bool = False, to_write: bool = False) -> dict[str, Locked]:
    path = Path(options.lock_file)
    return {} if may_be_missing and not path.exists() else read_lock(path, to_write=to_write)


def _chosen(options: ModelSettings, names: list[str]) -> dict[str, Locked]:
    path = Path(options.lock_file)
    return {name: locked_as(name, path, DATASETS) for name in names} or read_lock(path)


def list_models(options: ModelSettings, largest_context: LargestContext, *, as_json: bool) -> int:
    """The catalogue, with what fits here and what is already here."""
    locked = _lock_of(options, may_be_missing=True)
    folder = Path(options.models_dir).expanduser()
    rows = []
    for token, entry in known_models(Path(options.catalogue)).items():
        rows.append((token, entry, largest_context(entry), _state_of(locked.get(token), folder, token)))
    if as_json:
        fields = [
            {"token": token, **msgspec.to_builtins(entry), "largest_context": context, "state": state}
            for token, entry, context, state in rows
        ]
        sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")
        return 0
    console = Console()
    is_wide = console.width >= WIDE
    table = FoldingTable(
        caption="KV: the cache of 1,000 tokens. Fits: the largest context, of all turns together, that this machine "
        "has memory for; here: whether its file is. *: its name at the hub could not be checked."
    )
    for column in ("name", "size", "KV", "attention", "fits", *(("model", "licence") if is_wide else ()), "here"):
        table.add_column(column, justify="right" if column in ("size", "KV", "fits") else "left")
    for token, entry, context, state in rows:
        table.add_row(
            token + ("*" if "unchecked" in entry.checked else ""),
            f"{entry.size_bytes / 1e9:.2f} GB",
            f"{_thousand_tokens(entry) / 1e6:.0f} MB",
            ATTENTION.get(entry.memory, entry.memory),
            f"{context:,}" if context else "no",
            *((f"{entry.name} {entry.quantization}", entry.licence) if is_wide else ()),
            {"here": "yes", "damaged": "not as locked", "locked": "no, locked"}.get(state, "no"),
        )
    console.print(table)
    return 0


def _state_of(locked: Locked | None, folder: Path, token: str) -> str:
    """Of a model's files, by their sizes: here, damaged where one is not as it was locked, locked where one is missing;
    empty where none is locked."""
    if locked is None:
        return ""
    paths = locked.paths_in(folder, token)
    if not all(path.exists() for path in paths):
        return "locked"
    is_whole = all(path.stat().st_size == one.size_bytes for path, one in zip(paths, locked.each, strict=True))
    return "here" if is_whole else "damaged"


def _thousand_tokens(entry: Entry) -> int:
    """The cache of them: of windows the last tokens only, of recurrent layers one state."""
    return 1000 * entry.kv_bytes_per_token + min(1000, entry.window) * entry.window_bytes_per_token + entry.state_bytes


def lock_models(
    options: ModelSettings, names: list[str], *, revision: str, repository: str | None, file: str | None
) -> int:
    """Asks the hub what the names stand for now, and writes it down."""
    path = Path(options.lock_file)
    # From before it is read until it is written: two at once would leave the names of one of them.
    with Lock.of(path, "the lock file", wait_seconds=LOCK_SECONDS):
        locked = _lock_of(options, may_be_missing=True, to_write=True)
        catalogue = known_models(Path(options.catalogue))
        _lock_names(path, catalogue, locked, names, revision=revision, repository=repository, file=file)
    return 0


def _lock_names(
    path: Path,
    catalogue: dict[str, Entry],
    locked: dict[str, Locked],
    names: list[str],
    *,
    revision: str,
    repository: str | None,
    file: str | None,
) -> None:
    from broker import hub

    for name in names:
        if repository is not None and file is not None:
            found = hub.lock(repository, file, revision=revision)
        elif name in DATASETS:
            found = hub.lock(*DATASETS[name], revision=revision, kind="dataset")
        else:
            entry = entry_of(name, catalogue, "the catalogue")
            found = hub.lock(entry.repository, entry.file, revision=revision)
        locked[name] = found
        write_lock(path, locked)
        size = f"{found.total_bytes / 1e9:.2f} GB" + (f" in {len(found.files)} files" if found.files else "")
        print(f"{name}: {found.repository}/{found.file} at {found.revision[:12]}, {size}")  # noqa: T201


DATASETS = {
    # The trees of the paper's conversations.
    "oasst1": ("OpenAssistant/oasst1", "2023-04-12_oasst_ready.trees.jsonl.gz"),
}


async def pull_models(
    options: PullSettings,
    names: list[str],
    stop: asyncio.Event,
    why_not: WhyNot,
    mirrors: Sequence[MirrorInfo] = (),
) -> int:
    """Fetches what the lock file names and is not here, with a bar for each; goes on where it was interrupted.

    From a mirror that has it, else from the hub. What is as locked and no model that answers is told and kept.
    """
    from broker import hub

    folder = Path(options.models_dir).expanduser()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    failed = 0
    chosen = _chosen(options, names)
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name, locked in chosen.items():
            task = progress.add_task(name, total=locked.total_bytes)

            def show(done: int, total: int, task: object = task) -> None:
                if stop.is_set():
                    raise _Stopped
                progress.update(task, completed=done, total=total)  # type: ignore[arg-type]

            try:
                wanted = {one.sha256 for one in locked.each}
                near = [*options.mirror, *(mirror.url for mirror in mirrors if wanted & set(mirror.sha256))]
                path = await asyncio.to_thread(
                    hub.pull, name, locked, folder, mirrors=near, on_progress=show, wait_seconds=options.wait_seconds
                )
            except _Stopped:
                return 130
            except (FileError, InUse) as error:
                failed += 1
                progress.console.print(f"turnpike: {error}", markup=False, highlight=False)
                continue
            progress.update(task, completed=locked.total_bytes)
            print(path)  # noqa: T201
            if locked.kind == "model" and (reason := await asyncio.to_thread(why_not, path)) is not None:
                progress.console.print(f"turnpike: {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
    return 1 if failed else 0


class _Stopped(Exception):
    """^C while a file was coming; what has come stays for the next time."""


def verify_models(options: ModelSettings, names: list[str], why_not: WhyNot) -> int:
    """Reads every byte of what is here; 1 where some are not as locked, else EXIT_NO_ANSWERS where some are and are no
    models that answer."""
    folder = Path(options.models_dir).expanduser()
    failed = num_silent = 0
    for name, locked in _chosen(options, names).items():
        try:
            path = verify(name, locked, folder)
            print(f"{name}: {path}: as locked")  # noqa: T201
            if locked.kind == "model" and (reason := why_not(path)) is not None:
                num_silent += 1
                sys.stderr.write(f"turnpike: {name}: {reason}\n")
        except TurnpikeError as error:
            failed += 1
            sys.stderr.write(f"turnpike: {error}\n")
    if failed:
        return EXIT_ERROR
    return EXIT_NO_ANSWERS if num_silent else 0
