"""`turnpike models add`: a model that is not in the catalogue, from a file or a repository of the hub."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from broker.declaring import Argument
from broker.settings import ModelSettings

if TYPE_CHECKING:
    from broker.catalogue import Locked

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
"""As the hub names one."""
LOCK_SECONDS = 60.0
"""How long it waits for another one that writes the same files."""


class AddOptions(ModelSettings, frozen=True, kw_only=True):
    """`turnpike models add`."""

    source: Annotated[str, Argument("a GGUF file, or OWNER/NAME of the hub", metavar="FILE|REPO", is_positional=True)]
    name: Annotated[str | None, Argument("what to call it (default: from the file's name)")] = None
    file: Annotated[
        str | None,
        Argument("the file in that repository, the first one of several (default: its one model, or the one Q4_K_M)"),
    ] = None
    revision: Annotated[str, Argument("a branch, tag or commit of it")] = "main"


def run_add(options: AddOptions) -> int:
    """Into one's own catalogue and the lock file, its files into the models' folder. Raises TurnpikeError."""
    from broker import subjects
    from broker.catalogue import read_catalogue, read_lock, write_catalogue, write_lock
    from broker.locks import Lock
    from workers.machine.memory import available_bytes
    from workers.model_facts import entry_of_files, facts_of

    lock_file, own = Path(options.lock_file), Path(options.catalogue)
    file = _file_of_hub(options)
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", Path(file or options.source).stem)
    token = subjects.token(options.name or re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:64], "model")
    with Lock.of(lock_file, "the lock file", wait_seconds=LOCK_SECONDS):
        locked = read_lock(lock_file, to_write=True) if lock_file.exists() else {}
        entries = read_catalogue(own) if own.exists() else {}
        found = _from_hub(options, file, token) if file is not None else _from_file(options, token)
        path = found.path_in(Path(options.models_dir).expanduser(), token)
        entries[token] = entry_of_files(path, facts_of(path, available_bytes()), found)
        write_lock(lock_file, locked | {token: found})
        write_catalogue(own, entries)
    sys.stdout.write(f"{token}: {path}: in {lock_file} and {own}\n")
    return 0


def _file_of_hub(options: AddOptions) -> str | None:
    """Which file of which the hub is asked; None where a file that is here is meant. Raises TurnpikeError."""
    source = Path(options.source).expanduser()
    if (
        options.file is not None
        or source.suffix == ".gguf"
        or source.exists()
        or not REPOSITORY.fullmatch(options.source)
    ):
        return options.file
    from broker import hub

    return hub.choose(options.source, revision=options.revision)


def _from_file(options: AddOptions, token: str) -> Locked:
    """Linked into the models' folder, or copied where that is another disk. Raises ModelFileError before."""
    from broker.catalogue import Locked, LockedFile, sha256_of
    from workers.architectures import KNOWN
    from workers.model_file import served_parts

    parts = served_parts(Path(options.source).expanduser(), KNOWN)
    files = tuple(LockedFile(part.name, sha256_of(part), part.stat().st_size) for part in parts)
    first = files[0]
    found = Locked("", "", first.file, first.sha256, first.size_bytes, files=files if len(files) > 1 else ())
    folder = Path(options.models_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for part, target in zip(parts, found.paths_in(folder, token), strict=True):
        if target.exists():
            continue
        try:
            os.link(part.resolve(), target)
        except OSError:
            copy = target.with_name(target.name + ".copy")
            shutil.copyfile(part, copy)
            copy.replace(target)
    return found


def _from_hub(options: AddOptions, file: str, token: str) -> Locked:
    from broker import hub

    found = hub.lock(options.source, file, revision=options.revision)
    hub.pull(token, found, Path(options.models_dir).expanduser(), wait_seconds=options.wait_seconds)
    return found
