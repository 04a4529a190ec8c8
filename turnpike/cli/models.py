"""`turnpike models`: the models by name, and their files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from broker.declaring import Argument
from broker.settings import MirrorSettings, ModelSettings, PullSettings
from turnpike.cli.adding import AddOptions, run_add
from turnpike.cli.addresses import address, data_dir, is_named, version
from turnpike.cli.command import Command, command
from turnpike.cli.placing import ORDERS
from turnpike.cli.showing import ShowOptions, run_show

if TYPE_CHECKING:
    import asyncio

    from broker.catalogue import Entry
    from broker.discovery import MirrorInfo

AllNames = Annotated[
    tuple[str, ...], Argument("the models (default: all that are locked)", metavar="NAME", is_positional=True)
]


class ListOptions(ModelSettings, frozen=True, kw_only=True):
    """`turnpike models list`."""

    json: Annotated[bool, Argument("the catalogue as JSON")] = False


class LockOptions(ModelSettings, frozen=True, kw_only=True):
    """`turnpike models lock`."""

    names: Annotated[
        tuple[str, ...], Argument("models and data sets of the catalogue", metavar="NAME", is_positional=True)
    ]
    revision: Annotated[str, Argument("a branch, tag or commit")] = "main"
    repository: Annotated[str | None, Argument("for a model that is not in the catalogue, with --file")] = None
    file: Annotated[str | None, Argument("the file in that repository")] = None


class PullOptions(PullSettings, frozen=True, kw_only=True):
    """`turnpike models pull`."""

    names: AllNames = ()


class VerifyOptions(ModelSettings, frozen=True, kw_only=True):
    """`turnpike models verify`."""

    names: AllNames = ()


def run_list(options: ListOptions) -> int:
    """The catalogue, and what of it fits here."""
    from producers.models.command import list_models

    return list_models(options, _largest_context(), as_json=options.json)


def _largest_context() -> Callable[[Entry], int]:
    """By the worker's own memory plan and settings."""
    from workers.machine.memory import available_bytes, largest_ctx
    from workers.machine.model_plan import plan

    available = available_bytes()
    return lambda entry: largest_ctx(lambda num_ctx: plan(entry, num_ctx), entry.context, available)


def run_lock(options: LockOptions) -> int:
    """Notes what names stand for."""
    from producers.models.command import lock_models

    return lock_models(
        options,
        list(options.names),
        revision=options.revision,
        repository=options.repository,
        file=options.file,
    )


def run_verify(options: VerifyOptions) -> int:
    """Reads every byte of what is here."""
    from producers.models.command import verify_models

    return verify_models(options, list(options.names), _why_not)


def _why_not(path: Path) -> str | None:
    """By the file's header, without llama.cpp."""
    from workers.architectures import KNOWN
    from workers.model_file import ModelFileError, served_parts

    try:
        served_parts(path, KNOWN)
    except ModelFileError as error:
        return str(error)
    return None


def run_pull(options: PullOptions) -> int:
    """Fetches what is locked."""
    from broker import process

    return process.run(lambda stop: _pull(options, stop), patience=process.PATIENCE_SECONDS)


async def _pull(options: PullOptions, stop: asyncio.Event) -> int:
    """From neighbours where NATS is there to name them; the hub does without."""
    from broker.connection import close, connect
    from broker.discovery import find_mirrors
    from broker.errors import ServerError
    from producers.models.command import pull_models

    mirrors: list[MirrorInfo] = []
    if is_named(options) or (data_dir(options) / "local.credentials").exists():
        try:
            nc = await connect(address(options, "local"), name="turnpike-pull", timeout=3.0)
        except ServerError as error:
            if is_named(options):  # and not merely remembered from when there was one
                print(f"turnpike: no mirrors are looked for: {error}", file=sys.stderr)
        else:
            mirrors = await find_mirrors(nc)
            await close(nc)
    return await pull_models(options, list(options.names), stop, _why_not, mirrors)


def run_serve(options: MirrorSettings) -> int:
    """Gives files to the neighbours, until a signal."""
    from broker import process
    from broker.accounts import WORKER
    from broker.catalogue import read_lock
    from broker.subjects import node_name
    from producers.models.mirror import Mirror, serve

    async def run(stop: asyncio.Event) -> int:
        mirror = Mirror(read_lock(Path(options.lock_file)), Path(options.models_dir).expanduser())
        return await serve(
            address(options, WORKER),
            mirror,
            host=options.mirror_host,
            port=options.mirror_port,
            url=options.mirror_url,
            node=node_name(options.node),
            version=version(),
            stop=stop,
        )

    return process.run(run)


SERVE = command(
    "serve", "give this node's files to its neighbours", "turnpike models serve --mirror-port 8180",
    MirrorSettings, run_serve,
)  # fmt: skip
MODELS = Command(
    "models",
    "the models by name, their files, and where they are loaded",
    "turnpike models list",
    commands=(
        command(
            "list", "the catalogue, and what of it fits this machine", "turnpike models list", ListOptions, run_list
        ),
        command(
            "add",
            "a model that is not in the catalogue",
            "turnpike models add model.gguf --name mine",
            AddOptions,
            run_add,
        ),
        command("show", "what a model's file says of it", "turnpike models show llama-3-2-1b", ShowOptions, run_show),
        command(
            "lock",
            "write down what names stand for: revision and SHA-256",
            "turnpike models lock llama-3-2-1b oasst1",
            LockOptions,
            run_lock,
        ),
        command(
            "pull",
            "fetch and verify what the lock file names",
            "turnpike models pull llama-3-2-1b",
            PullOptions,
            run_pull,
        ),
        command(
            "verify",
            "read every byte of what is here; exit code 1 where a file is not as locked, 3 where one is no chat model",
            "turnpike models verify",
            VerifyOptions,
            run_verify,
        ),
        SERVE,
        *ORDERS,
    ),
)
