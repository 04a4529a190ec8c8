"""Settings from flags, then TURNPIKE_* environment variables, then a TOML file, as frozen structs.

All problems are reported at once, unknown names included. Nothing here reads the environment by itself: the entry
point passes it in.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from broker.errors import SettingsError
from broker.toml import read_toml

PREFIX = "TURNPIKE_"
# Read by the set-up and the tests, not by a command.
OTHER_NAMES = {"TURNPIKE_CMAKE_ARGS", "TURNPIKE_CONFIG"}


Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
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


class CommonSettings(Struct, frozen=True, kw_only=True):
    """What every command knows."""

    data_dir: str = "~/.local/state/turnpike"
    log_level: LogLevel = "INFO"
    url: str | None = None
    credentials: str | None = None
    tls_ca: str | None = None
    """The certificates that a tls:// server is trusted by; default: the system's."""
    wait_seconds: float = 0.0
    """How long to wait at the start for what is needed to be there: a server, streams, and for turns a worker. On a
    cluster all starts at once."""


class ModelSettings(CommonSettings, frozen=True, kw_only=True):
    """`turnpike models`, and whoever wants a model by its name: which bytes, and where they lie."""

    lock_file: str = "turnpike.models.lock"
    models_dir: str = "~/.local/share/turnpike/models"
    mirror: tuple[str, ...] = ()
    """Where to ask before the hub, besides the mirrors that NATS knows of: http://HOST:PORT."""


class MirrorSettings(ModelSettings, frozen=True, kw_only=True):
    """`turnpike models serve`."""

    mirror_host: str = "0.0.0.0"
    mirror_port: Port = 8180
    mirror_url: str | None = None
    """How others reach it; default: this node's address towards NATS."""
    node: str | None = None


class BrokerSettings(CommonSettings, frozen=True, kw_only=True):
    """`turnpike broker`."""

    host: str = "127.0.0.1"
    port: Port = 4222
    model: tuple[str, ...] = ()
    tls_cert: str | None = None
    """The broker's own certificate, with `tls_key` and, for its clients, `tls_ca`."""
    tls_key: str | None = None
    max_queued_turns: Count = 10_000
    ack_wait_seconds: Annotated[float, Meta(ge=1, le=24 * 3600)] = 30.0


def load[S: Struct](
    kind: type[S],
    *,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Path | None = None,
    known: Sequence[type[Struct]] = (),
) -> S:
    """The settings of type `kind`. A flag that is None was not given. Raises SettingsError with every problem.

    `known` are the settings of the other commands, whose names in the environment and the file are no mistakes.
    """
    problems: list[str] = []
    names = {field.name for field in msgspec.structs.fields(kind)}
    every_name = names.union(*({field.name for field in msgspec.structs.fields(other)} for other in known))
    values: dict[str, tuple[str, Any]] = {}

    for name, value in _read_file(file, problems).items():
        if name in every_name:
            values[name] = (f"{file}: {name}", value)
        else:
            problems.append(f"{file}: {name}: unknown setting{_suggest(name, every_name)}")
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in OTHER_NAMES:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in every_name:
            values[name] = (variable, text)
        else:
            problems.append(f"{variable}: unknown setting{_suggest(name, every_name)}")
    for name, value in flags.items():
        if value is not None and name in names:
            values[name] = (flag(name), value)

    converted: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.name in values:
            source, value = values[field.name]
            if value == "" and str not in _alternatives(field.type):
                continue  # as a shell or a manifest leaves out what is not set
            try:
                converted[field.name] = convert(value, field.type)
            except ValueError as error:
                problems.append(f"{source}: {error}")
        elif field.required:
            problems.append(f"{flag(field.name)} is missing (or {PREFIX}{field.name.upper()})")
    if problems:
        raise SettingsError(problems)
    return kind(**converted)


def flag(name: str) -> str:
    """A setting's flag, as it is typed."""
    return f"--{name.replace('_', '-')}"


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
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("must be a number")
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(_in_words(str(error), value, alternatives)) from None


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
    if choices := _choices(alternatives):
        return f"{str(value)[:80]!r} is none of {', '.join(choices)}"
    bound = re.match(r"Expected `(?:int|float|str)` (of length )?([<>]=?) (\S+)", error)
    if bound is not None:
        words = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}[bound[2]]
        return f"must be {'of a length of ' if bound[1] else ''}{words} {bound[3]}"
    for one, words in ((bool, "neither true nor false"), (int, "no whole number"), (float, "no number")):
        if one in alternatives:
            return f"{str(value)[:80]!r} is {words}"
    return error.replace("`", "'")


def _read_file(file: Path | None, problems: list[str]) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return read_toml(file)
    except OSError as error:
        problems.append(f"{file}: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{file}: {error}")
    return {}


def _suggest(name: str, names: set[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
