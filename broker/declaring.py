"""One declaration for each setting: a field of a struct, whose type says what it is for.

`num_ctx: Annotated[int, Setting("KV cells, shared by all slots")] = 8192` is the flag --num-ctx, the variable
TURNPIKE_NUM_CTX, the key num_ctx in the TOML file, its default, its help and its line in docs/settings.md.
"""

from __future__ import annotations

import functools
import math
import re
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

PREFIX = "TURNPIKE_"
_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


class Setting(Struct, frozen=True):
    """What stands beside the type, in `Annotated`: `num_ctx: Annotated[int, Setting("KV cells")] = 8192`."""

    help: str = ""
    metavar: str | None = None
    """What stands for the value in the help; by default the name in capitals, or the choices."""
    path: Literal["file", "folder"] | None = None
    """A path in the file system: a shell completes it, and a systemd unit has it absolute."""


class Argument(Setting, frozen=True):
    """Of one command and no setting: only whoever calls the command says it, no variable and no file."""

    is_positional: bool = False
    flag: str | None = None
    """By default as the field is called."""


class Field(Struct, frozen=True):
    """A setting or an argument, as a struct declares it."""

    name: str
    kind: Any
    """The type, as it is annotated."""
    default: Any
    """msgspec.NODEFAULT where one has to be given."""
    declared: Setting
    group: str
    """Under which title the help shows it."""

    @property
    def is_required(self) -> bool:
        """Whether it has to be given."""
        return self.default is msgspec.NODEFAULT

    @property
    def is_setting(self) -> bool:
        """Whether variables and files may say it too."""
        return not isinstance(self.declared, Argument)

    @property
    def is_positional(self) -> bool:
        """Whether it is given by its place and not by a flag."""
        return isinstance(self.declared, Argument) and self.declared.is_positional

    @property
    def alternatives(self) -> list[Any]:
        """The types that it may have, without None and without what bounds them."""
        return _alternatives(self.kind)

    @property
    def is_list(self) -> bool:
        """Whether it can be given several times."""
        return any(get_origin(one) is tuple for one in self.alternatives)

    @property
    def is_switch(self) -> bool:
        """Whether its flag has no value."""
        return bool in self.alternatives

    @property
    def choices(self) -> list[str]:
        """What it can be, where that is one of a few words."""
        return _choices(self.alternatives)

    @property
    def flag(self) -> str:
        """As it is typed, and named in errors."""
        if isinstance(self.declared, Argument) and self.declared.flag is not None:
            return self.declared.flag
        return self.metavar if self.is_positional else flag(self.name)

    @property
    def metavar(self) -> str:
        """What stands for its value in the help."""
        if self.declared.metavar is not None:
            return self.declared.metavar
        return f"{{{','.join(self.choices)}}}" if self.choices else self.name.upper()

    @property
    def variable(self) -> str:
        """The setting's name in the environment."""
        return variable(self.name)

    @property
    def help(self) -> str:
        """The help, with the default where there is one to be told."""
        if self.is_switch or self.default in (None, (), "") or self.is_required:
            return self.declared.help
        shown = f"{self.default:g}" if isinstance(self.default, float) else f"{self.default}"
        return f"{self.declared.help} (default {shown})".lstrip()


@functools.cache
def declared(kind: type[Struct]) -> tuple[Field, ...]:
    """The fields of a struct of settings, those of its bases first."""
    fields = []
    bases = [one for one in reversed(kind.__mro__) if issubclass(one, Struct) and one is not Struct]
    for field in msgspec.structs.fields(kind):
        first = next(base for base in bases if field.name in base.__struct_fields__)
        notes = get_args(field.type)[1:] if get_origin(field.type) is Annotated else ()
        note = next((one for one in notes if isinstance(one, Setting)), Setting())
        fields.append(Field(field.name, field.type, field.default, note, vars(first).get("GROUP", "")))
    return tuple(fields)


def setting_names(kinds: Iterable[type[Struct]]) -> set[str]:
    """The names of all the settings of some structs, without the arguments."""
    return {field.name for kind in kinds for field in declared(kind) if field.is_setting}


def flag(name: str) -> str:
    """A setting's flag, as it is typed."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """A setting's name in the environment."""
    return f"{PREFIX}{name.upper()}"


def convert(value: Any, kind: Any) -> Any:
    """A setting's value from a flag, a variable's text or a file; raises ValueError in words that people use."""
    alternatives = _alternatives(kind)
    if isinstance(value, str):
        if any(get_origin(one) is tuple for one in alternatives):
            value = [one.strip() for one in value.split(",") if one.strip()]  # the environment has no lists
        elif bool in alternatives:
            value = _WORDS.get(value.strip().lower(), value)
        else:
            choices = {one.lower(): one for one in _choices(alternatives)}
            value = choices.get(value.strip().lower(), value)
            if int in alternatives and re.fullmatch(r"\d+(_\d+)+", value):
                value = value.replace("_", "")
    try:
        found = msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(_in_words(str(error), value, alternatives)) from None
    if isinstance(found, float) and math.isnan(found):
        raise ValueError("must be a number")
    return found


def _alternatives(kind: Any) -> list[Any]:
    """The types that a setting may have, without None and without what bounds them."""
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (types.UnionType, typing.Union):
        return [one for part in get_args(kind) for one in _alternatives(part)]
    return [] if kind is type(None) else [kind]


def _choices(alternatives: Sequence[Any]) -> list[str]:
    return [text for one in alternatives if get_origin(one) is Literal for text in get_args(one)]


def _in_words(error: str, value: Any, alternatives: Sequence[Any]) -> str:
    """msgspec's words name Python's types."""
    bound = re.match(r"Expected `(?:int|float|str)` (of length )?([<>]=?) (\S+)", error)
    if bound is not None:
        words = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}[bound[2]]
        return f"must be {'of a length of ' if bound[1] else ''}{words} {bound[3]}"
    if choices := _choices(alternatives):
        number = ", and no whole number" if int in alternatives else ""
        return f"{str(value)[:80]!r} is none of {', '.join(choices)}{number}"
    for one, words in ((bool, "neither true nor false"), (int, "no whole number"), (float, "no number")):
        if one in alternatives:
            return f"{str(value)[:80]!r} is {words}"
    return error.replace("`", "'")
