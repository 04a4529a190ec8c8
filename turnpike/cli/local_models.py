"""Models by what somebody types: a file, or a name whose file is on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from broker.settings import ModelSettings
from turnpike.cli.addresses import ENTRY, address, data_dir, is_named

if TYPE_CHECKING:
    from producers.bringing_up import ForTheWhile, LocalModel


def for_the_while(options: ModelSettings, num_ctx: int | None, say: Callable[[str], object]) -> ForTheWhile:
    """The broker that is meant. Where none was named, one is started if none runs here, and workers of models that
    nobody serves, as far as the broker's folder lets us."""
    from broker.accounts import LOCAL, OPERATOR, WORKER, read_credentials
    from producers.bringing_up import ForTheWhile

    may_start, folder, accounts = not is_named(options), data_dir(options), {}
    if may_start and (folder / f"{LOCAL}.credentials").exists():
        for user in (OPERATOR, WORKER):
            if (path := folder / f"{user}.credentials").exists():
                accounts[user] = read_credentials(path)
    return ForTheWhile(
        address(options, LOCAL),
        ENTRY,
        find=lambda name: _found(options, name, num_ctx),
        may_start=may_start,
        accounts=accounts if len(accounts) == 2 else {},
        say=say,
    )


def _found(options: ModelSettings, name: str, num_ctx: int | None) -> LocalModel | None:
    """A file's model, the one that Turnpike ships, or one that is locked and here; None for a name that nothing is
    known of. Raises Missing for one that could be here, with the commands that fetch it; ModelFileError."""
    from broker import subjects
    from broker.catalogue import Missing, known_models, read_lock
    from producers.bringing_up import LocalModel
    from workers.chosen_file import model_token
    from workers.model_file import answering_parts
    from workers.models import DEMO

    context = ("--num-ctx", str(num_ctx)) if num_ctx is not None else ()
    where = ("--data-dir", data_dir(options).absolute())
    if not subjects.is_token(name):
        parts = answering_parts(Path(os.path.expanduser(name)))
        flags = ("--model-file", parts[0].absolute(), *where, *context)
        return LocalModel(model_token(parts[0]), flags, sum(one.stat().st_size for one in parts))
    if name == DEMO.token:
        return LocalModel(name, (*where, *context), DEMO.path.stat().st_size)
    lock_file, folder = Path(options.lock_file), Path(options.models_dir).expanduser()
    locked = read_lock(lock_file).get(name) if lock_file.exists() else None
    if locked is None:
        if (entry := known_models(Path(options.catalogue)).get(name)) is None:
            return None
        cure = f"`turnpike models lock {name}` and `turnpike models pull {name}` fetch it"
        raise Missing(name, f"{entry.size_bytes / 1e9:.2f} GB, not on this machine yet: {cure}")
    if not all(path.exists() for path in locked.paths_in(folder, name)):
        size = f"{locked.total_bytes / 1e9:.2f} GB"
        raise Missing(name, f"{size}, locked and not on this machine yet: `turnpike models pull {name}` fetches it")
    files = ("--lock-file", lock_file.absolute(), "--models-dir", folder.absolute())
    return LocalModel(name, (*files, *where, *context), locked.total_bytes)
