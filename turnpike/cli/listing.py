"""`turnpike settings` and `turnpike completion`: what the declarations are made into besides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from broker.declaring import Argument, Field, declared, flag, variable
from broker.settings import CommonSettings
from turnpike.cli.command import Command, command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEAD = "# What may stand in the file of --config; TURNPIKE_NAME and flags win over it. Values shown are the defaults."
PREAMBLE = """# Settings

By `turnpike settings --markdown`, from their declarations. Each is a flag, a variable and a key of the TOML file that
`--config` or `TURNPIKE_CONFIG` names: `--num-ctx 4096`, `TURNPIKE_NUM_CTX=4096`, `num_ctx = 4096`. Flags win over
variables, and those over the file. A list is a flag given several times, commas in a variable and an array in the file.
Where commands share a name, they share what is set, though not always its default.
"""


class SettingsOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike settings`."""

    json: Annotated[bool, Argument("for programs")] = False
    markdown: Annotated[bool, Argument("as docs/settings.md has it")] = False


class CompletionOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike completion`."""

    shell: Annotated[Literal["bash", "zsh", "tcsh"], Argument("which shell", metavar="SHELL", is_positional=True)]


class Meaning(msgspec.Struct, frozen=True):
    """What a setting is to the commands that have it: most are the same to all of them."""

    help: str
    default: object
    commands: tuple[str, ...]


def meanings(root: Command) -> dict[str, list[Meaning]]:
    """Of each setting, by its name; what it is to most commands comes first."""
    found: dict[str, dict[tuple[str, str], tuple[Field, list[str]]]] = {}
    for path, one in root.walk():
        for field in declared(one.options):
            if field.is_setting and one.start is not None:
                key = field.declared.help, repr(field.default)
                found.setdefault(field.name, {}).setdefault(key, (field, []))[1].append(path)
    listed: dict[str, list[Meaning]] = {}
    for name in sorted(found):
        several = sorted(found[name].values(), key=lambda one: -len(one[1]))
        listed[name] = [
            Meaning(field.declared.help, None if field.is_required else field.default, tuple(paths))
            for field, paths in several
        ]
    return listed


def run_settings(options: SettingsOptions) -> int:
    """All that may be set."""
    from turnpike.cli.tree import TURNPIKE

    shape = as_json if options.json else as_markdown if options.markdown else as_toml
    print(shape(meanings(TURNPIKE)))
    return 0


def as_json(found: Mapping[str, Sequence[Meaning]]) -> str:
    """An object for each setting. Where it means several things, `help` and `default` are of the first."""
    return json.dumps(
        {
            name: {
                "default": several[0].default,
                "variable": variable(name),
                "help": several[0].help,
                "commands": [path for one in several for path in one.commands],
                "meanings": msgspec.to_builtins(several),
            }
            for name, several in found.items()
        },
        indent=1,
    )


def as_toml(found: Mapping[str, Sequence[Meaning]]) -> str:
    """A file of settings, in which every line is a comment."""
    lines = [HEAD]
    for name, several in found.items():
        lines.append("")
        for number, one in enumerate(several):
            other = f"; default {json.dumps(one.default)}" if number and one.default is not None else ""
            lines.append(f"# {one.help or flag(name)} ({_whose(one, found)}{other})")
        value = several[0].default
        lines.append(f"# {name} =" if value is None else f"# {name} = {json.dumps(value)}")
    return "\n".join(lines)


def as_markdown(found: Mapping[str, Sequence[Meaning]]) -> str:
    """The text of docs/settings.md."""
    lines = [PREAMBLE, "| flag | variable | default | commands | what it is |", "|---|---|---|---|---|"]
    for name, several in found.items():
        for one in several:
            default = "" if one.default is None else f"`{json.dumps(one.default)}`"
            cells = (f"`{flag(name)}`", f"`{variable(name)}`", default, _whose(one, found), one.help)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _whose(one: Meaning, found: Mapping[str, Sequence[Meaning]]) -> str:
    every = {path for several in found.values() for each in several for path in each.commands}
    if set(one.commands) == every:
        return "every command"
    return ", ".join(one.commands) if len(one.commands) <= 12 else "all others"


def run_completion(options: CompletionOptions) -> int:
    """A script for a shell."""
    import shtab

    from turnpike.cli.parsers import whole
    from turnpike.cli.tree import TURNPIKE

    parser = whole(TURNPIKE, {"file": shtab.FILE, "folder": shtab.DIRECTORY})
    print(shtab.complete(parser, shell=options.shell))
    return 0


SETTINGS = command(
    "settings",
    "all that may be set, as the file of --config has it",
    "turnpike settings > turnpike.toml",
    SettingsOptions,
    run_settings,
)
COMPLETION = command(
    "completion",
    "what a shell completes, as a script for it",
    'eval "$(turnpike completion bash)"',
    CompletionOptions,
    run_completion,
)
