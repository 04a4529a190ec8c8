"""What was typed, understood: which command, its flags wherever they stood, and all that is wrong with them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from broker.declaring import Field
from broker.errors import SettingsError
from broker.settings import suggestion
from turnpike.cli.command import Command, Said
from turnpike.cli.parsers import parser_of, with_commands

HELP = ("-h", "--help")
_FLAG = re.compile(r"--[a-zA-Z][\w-]*")


def read(root: Command, words: Sequence[str]) -> tuple[Command, Said]:
    """The command that is meant, and what was said to it. Raises SettingsError; SystemExit behind --help."""
    path, command, rest = _command(root, list(words))
    clean, problems = _known_flags(root, command, path, rest)
    parser = parser_of(command, path)
    if _wants_help(clean):
        with_commands(parser, command).parse_args(["--help"])
    for action in parser._actions:
        action.required = False  # what is missing is told with all the rest
    namespace, unread = parser.parse_known_args(clean)
    if unread:
        problems.append(f"unrecognized arguments: {' '.join(unread)}")
    flags = {name: value for name, value in vars(namespace).items() if value is not None and value != []}
    known = tuple(dict.fromkeys(kind for _, one in root.walk() for kind in (one.options, *one.beside)))
    return command, Said(path, flags, tuple(problems), known, command.refusal)


def _command(root: Command, words: list[str]) -> tuple[str, Command, list[str]]:
    """Its full name, itself, and the words that are not its name: those that stood before it are said to it, too."""
    path, command, rest = "", root, []
    while words and command.commands and words[0] != "--":
        word = words.pop(0)
        if word == "help" or word in HELP:
            rest.append("--help")  # and nothing is looked for in all commands, which takes longer than the help
            continue
        if word.startswith("-"):
            rest.append(word)
            field = _field(command, word) or _anywhere(root, word)
            if field is None and _FLAG.match(word):
                every = {field.flag for _, one in root.walk() for field in one.fields if not field.is_positional}
                raise SettingsError([f"unrecognized arguments: {word}{suggestion(word, every)}"])
            if _has_its_value_in(words, word, field):
                rest.append(words.pop(0))
            continue
        inner = next((one for one in command.commands if one.name == word), None)
        path = f"{path} {word}".strip()
        if inner is None:
            names = [one.name for one in command.commands]
            raise SettingsError(
                [f"{path}: unknown command{suggestion(word, names) or ', none of ' + ', '.join(names)}"]
            )
        command = inner
    return path, command, rest + words


def _known_flags(root: Command, command: Command, path: str, words: list[str]) -> tuple[list[str], list[str]]:
    """The words without the flags that the command does not have, and what is to be said about those."""
    clean: list[str] = []
    problems: list[str] = []
    left = list(words)
    while left and left[0] != "--":
        word = left.pop(0)
        flag = word.partition("=")[0]
        if not _FLAG.fullmatch(flag) or flag in HELP or _field(command, flag):
            clean.append(word)
            continue
        meant = _anywhere(root, flag)
        if meant is not None:
            problems.append(command.refusal.format(flag=flag, path=path, name=command.name))
        else:
            flags = {field.flag: field for field in command.fields if not field.is_positional}
            problems.append(f"unrecognized arguments: {flag}{suggestion(flag, flags)}")
            meant = next((flags[one] for one in difflib.get_close_matches(flag, list(flags), n=1)), None)
        if _has_its_value_in(left, word, meant):
            del left[0]
    return clean + left, problems


def _field(command: Command, word: str) -> Field | None:
    """What a flag stands for, also where only its beginning was typed."""
    flag = word.partition("=")[0]
    flags = {field.flag: field for field in command.fields if not field.is_positional}
    begun = [field for name, field in flags.items() if name.startswith(flag) and len(flag) > 2]
    return flags.get(flag) or (begun[0] if len(begun) == 1 else None)


def _anywhere(root: Command, word: str) -> Field | None:
    """What a flag stands for in whichever command has it."""
    flag = word.partition("=")[0]
    return next((field for _, one in root.walk() for field in one.fields if field.flag == flag), None)


def _has_its_value_in(words: list[str], flag: str, field: Field | None) -> bool:
    """Whether the flag's value is the next word."""
    wants = field is not None and not field.is_switch and "=" not in flag
    return wants and bool(words) and not _FLAG.match(words[0])


def _wants_help(words: list[str]) -> bool:
    return any(word in HELP for word in (words[: words.index("--")] if "--" in words else words))
