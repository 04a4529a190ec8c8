"""argparse's parsers, made of the structs that commands declare: for reading, for --help and for completion.

They convert nothing and want nothing: `broker.settings.load` does, and tells all problems at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import NoReturn

from broker.declaring import Field
from broker.errors import SettingsError
from turnpike.cli.command import Command

COMMON = "common"


class Parser(argparse.ArgumentParser):
    """One that raises SettingsError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raises SettingsError with what argparse has to say."""
        raise SettingsError([message.removeprefix("argument ")])


def parser_of(command: Command, path: str) -> Parser:
    """The command's parser, without its subcommands."""
    parser = Parser(
        prog=f"turnpike {path}".strip(),
        description=command.help,
        epilog=f"example: {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _fill(parser, command)
    return parser


def _fill(parser: argparse.ArgumentParser, command: Command, completing: Mapping[str, object] | None = None) -> None:
    """Adds what the command takes. `completing` tells how a shell completes a file or a folder."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for field in sorted(command.fields, key=lambda one: one.group == COMMON):
        group = parser if not field.group else groups.get(field.group)
        if group is None:
            group = groups[field.group] = parser.add_argument_group(field.group)
        action = _add(group, field)
        if completing is not None:
            action.choices = field.choices or None  # which are else left to `load`
            if field.declared.path is not None:
                action.complete = completing[field.declared.path]  # type: ignore[attr-defined]


def _add(group: argparse._ActionsContainer, field: Field) -> argparse.Action:
    help = field.help.replace("%", "%%")
    if field.is_positional:
        nargs = ("+" if field.is_required else "*") if field.is_list else (None if field.is_required else "?")
        return group.add_argument(field.name, nargs=nargs, metavar=field.metavar, help=help)
    if field.is_switch:
        return group.add_argument(field.flag, dest=field.name, action="store_true", default=None, help=help)
    action = "append" if field.is_list else "store"
    return group.add_argument(
        field.flag, dest=field.name, action=action, metavar=field.metavar, required=field.is_required, help=help
    )


def with_commands(parser: Parser, command: Command) -> Parser:
    """The same parser, whose help lists the subcommands too."""
    if command.commands:
        names = "|".join(one.name for one in command.commands)
        below = parser.add_subparsers(title="commands", metavar=f"[{names}]" if command.start else "COMMAND")
        for one in command.commands:
            below.add_parser(one.name, help=one.help.replace("%", "%%"), add_help=False)
    return parser


def whole(root: Command, completing: Mapping[str, object]) -> argparse.ArgumentParser:
    """The parser of all commands, for what is made of it: completion."""

    def add(parser: argparse.ArgumentParser, command: Command) -> None:
        _fill(parser, command, completing)
        if command.commands:
            below = parser.add_subparsers()
            for one in command.commands:
                add(below.add_parser(one.name, help=one.help.replace("%", "%%")), one)

    parser = argparse.ArgumentParser(prog=root.name, description=root.help)
    add(parser, root)
    return parser
