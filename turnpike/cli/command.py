"""What a command is: a struct of settings and arguments, and a function that takes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from broker.declaring import PREFIX, Argument, Field, declared
from broker.settings import CommonSettings, load

CONFIG = Field(
    "config", str | None, None, Argument("a TOML file of settings (or TURNPIKE_CONFIG)", path="file"), "common"
)
"""The one argument that every command has and that is no setting: a file cannot name itself."""
FROM_OTHERS = ("INFLUX_URL", "INFLUX_TOKEN", "INFLUX_ORG")
"""Variables as everyone else names them; ours, where it is set too, is meant more."""


class Said(Struct, frozen=True):
    """What was typed behind a command's name."""

    path: str
    """The command's name, with those of its groups: `broker ensure`."""
    flags: Mapping[str, str | bool | list[str]]
    """By the field's name, as it was typed."""
    problems: tuple[str, ...]
    """What is wrong with it as such."""
    known: tuple[type[CommonSettings], ...]
    """The settings of all commands, whose names in the environment and in files are no mistakes."""

    refusal: str
    """What is said to a flag of another command's."""

    def load[S: CommonSettings](self, kind: type[S], *beside: type[CommonSettings]) -> S:
        """The command's settings: flags, then TURNPIKE_* variables, then the TOML file. Raises SettingsError.

        Flags that neither `kind` nor those `beside` have are refused.
        """
        environment = dict(os.environ)
        for name in FROM_OTHERS:
            if name in environment:
                environment.setdefault(f"{PREFIX}{name}", environment[name])
        file = self.flags.get(CONFIG.name) or os.environ.get(CONFIG.variable)
        return load(
            kind,
            flags=self.flags,
            environment=environment,
            file=Path(str(file)) if file else None,
            known=self.known,
            problems=(*self.problems, *self._refused((kind, *beside))),
        )

    def _refused(self, kinds: Sequence[type[CommonSettings]]) -> list[str]:
        named = {CONFIG.name, *(field.name for kind in kinds for field in declared(kind))}
        refused = [name for name in self.flags if name not in named]
        known = {field.name: field.flag for kind in self.known for field in declared(kind)} if refused else {}
        return [
            self.refusal.format(flag=known[name], path=self.path, name=self.path.rpartition(" ")[2]) for name in refused
        ]


class Command(Struct, frozen=True):
    """A command, or a group of commands, or both."""

    name: str
    help: str
    example: str
    options: type[CommonSettings] = CommonSettings
    """What it takes."""
    start: Callable[[Said], int] | None = None
    """What it does; its exit code. A group does nothing by itself."""
    commands: tuple[Command, ...] = ()
    beside: tuple[type[CommonSettings], ...] = ()
    """Whose settings' flags it takes, too."""
    refusal: str = "{flag} is nothing to `{path}`"
    """What is said to a flag of another command's."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """All that it takes, each name once."""
        found = {field.name: field for one in (self.options, *self.beside) for field in declared(one)}
        return (*found.values(), CONFIG)

    def walk(self, path: str = "") -> Iterator[tuple[str, Command]]:
        """It and all below it, by their full names."""
        yield path, self
        for one in self.commands:
            yield from one.walk(f"{path} {one.name}".strip())


def command[S: CommonSettings](
    name: str, help: str, example: str, options: type[S], run: Callable[[S], int], *commands: Command
) -> Command:
    """A command that loads its options, sets the log up as they say, and runs."""

    def start(said: Said) -> int:
        return begin(run, said.load(options))

    return Command(name, help, example, options, start, commands)


def begin[S: CommonSettings](run: Callable[[S], int], options: S) -> int:
    """Runs with the log set up as the options say."""
    from broker import logs

    logs.set_up_logging(options.log_level)
    return run(options)
