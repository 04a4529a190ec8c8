"""What a board is started with, and what it starts each of its workers with; `turnpike board --help` explains."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from broker import subjects
from broker.declaring import Setting, declared, flag, variable
from workers.boards.view import Rules
from workers.settings import BoardFd, ComputeSettings, ModelFile, WorkerName, WorkerSettings

ALL = "all"
CONFIG = variable("config")


class BoardSettings(ComputeSettings, frozen=True, kw_only=True):
    """`turnpike board`."""

    model: Annotated[
        tuple[str, ...],
        Setting("a model that this board may load; can be given several times (default: all that are locked and here)"),
    ] = ()
    models: Annotated[
        Literal["all"] | None, Setting("all: those that are locked and whose files are here, as far as they fit")
    ] = None
    pin: Annotated[
        tuple[str, ...],
        Setting("a model that is loaded at the start and never unloaded for another; can be given several times"),
    ] = ()
    preload: Annotated[
        tuple[str, ...],
        Setting("a model to have on some board before anybody asks for it; can be given several times"),
    ] = ()
    keep_alive_seconds: Annotated[
        float | None,
        Setting("a model that has had nothing to do for so long is unloaded (default: once another wants its room)"),
    ] = None
    max_wait_seconds: Annotated[
        float, Setting("after so long an interactive turn's model begins to load, whatever other models have queued")
    ] = 60.0
    min_stay_seconds: Annotated[
        float, Setting("a model that has turns stays for so long at the least; any stays for as long as its load took")
    ] = 10.0
    spare: Annotated[
        bool,
        Setting(
            "keep a worker without a model ready: a load begins with the file, and the memory of one more process is "
            "taken at all times"
        ),
    ] = False
    memory_bytes: Annotated[
        int | None, Setting("of RAM for all models of a board together (default: what the node, or its cgroup, has)")
    ] = None

    def named(self) -> list[tuple[str, str]]:
        """The models and the node."""
        own = [(name, one) for name in ("model", "pin", "preload") for one in getattr(self, name)]
        return [*own, *ComputeSettings.named(self)]

    def problems(self) -> list[str]:
        """A board's own too."""
        found = ComputeSettings.problems(self)
        for name in ("model", "pin", "preload"):
            given = getattr(self, name)
            twice = sorted({one for one in given if given.count(one) > 1})
            found += [f"{flag(name)}: {one} is given twice" for one in twice]
        if self.models == ALL and self.model:
            found.append("--models all, and --model: one of the two")
        for name in self.pin:
            if self.model and name not in self.model:
                found.append(f"--pin: {name} is none of the models that this board may load")
        for name in ("max_wait_seconds", "min_stay_seconds"):
            if getattr(self, name) < 0:
                found.append(f"{flag(name)}: must not be negative")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            found.append("--memory-bytes: must be at least 1")
        return found

    @property
    def rules(self) -> Rules:
        """How it decides what is loaded."""
        return Rules(
            interactive_seconds=self.max_wait_seconds,
            residency_seconds=self.min_stay_seconds,
            keep_alive_seconds=self.keep_alive_seconds,
            preloads=self.preload,
        )

    @property
    def board_name(self) -> str:
        """The node's: a node has one board. Raises InvalidName."""
        return subjects.node_name(self.node)


class WorkersSettings(BoardSettings, frozen=True, kw_only=True):
    """`turnpike worker`: one model's worker; of several models, or of all, a board."""

    model: Annotated[
        tuple[str, ...],
        Setting(
            "the model's name in subjects (default: from the file's name); of several, a flag each, every one has a "
            "worker of its own and this process is their board"
        ),
    ] = ()
    model_file: ModelFile = None
    worker_name: WorkerName = None
    board_fd: BoardFd = None

    @property
    def are_several(self) -> bool:
        """Whether it takes a board."""
        return self.board_fd is None and (self.models == ALL or len(self.model) > 1)

    def named(self) -> list[tuple[str, str]]:
        """The worker's, too."""
        found = BoardSettings.named(self)
        return found if self.worker_name is None else [*found, ("worker_name", self.worker_name)]

    def problems(self) -> list[str]:
        """What does not go with several models, too."""
        found = BoardSettings.problems(self) if self.are_several else ComputeSettings.problems(self)
        if self.are_several:
            for name in ("model_file", "worker_name"):
                if getattr(self, name) is not None:
                    found.append(f"{flag(name)}: several models have several of it")
        return found

    def one(self) -> WorkerSettings:
        """The worker's, of the one model."""
        return worker_settings(self, self.model[0] if self.model else None)

    def board(self) -> BoardSettings:
        """The board's."""
        return BoardSettings(**_shared(self, BoardSettings))


def worker_settings(settings: BoardSettings, model: str | None, **more: Any) -> WorkerSettings:
    """A worker's, of one of a board's models; `more` is what is its own."""
    return WorkerSettings(**(_shared(settings, WorkerSettings) | {"model": model} | more))


def as_environment(settings: WorkerSettings) -> dict[str, str | None]:
    """The variables that say the same to a worker that is started, whatever else its environment and files say; None
    for one that is not to be there.

    By variables and not by flags: an address may hold a password, and process lists show flags.
    """
    # All that its command reads, and no file: what a board's environment says of several models is nothing to it.
    fields = [field for field in declared(WorkersSettings) if field.is_setting]
    found = {variable(field.name): _text(getattr(settings, field.name, None)) for field in fields}
    found[CONFIG] = None
    return found


def _shared(settings: ComputeSettings, kind: type[ComputeSettings]) -> dict[str, Any]:
    """What both kinds of settings have."""
    names = {field.name for field in declared(type(settings))}
    return {field.name: getattr(settings, field.name) for field in declared(kind) if field.name in names}


def _text(value: object) -> str | None:
    """As a variable has it."""
    if isinstance(value, tuple):
        return ",".join(value)
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)
