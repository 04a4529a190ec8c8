"""Settings from flags, then TURNPIKE_* environment variables, then a TOML file, as frozen structs.

All problems are reported at once, unknown names included. Nothing here reads the environment by itself: the entry
point passes it in.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

import msgspec
from msgspec import Struct

from broker.errors import SettingsError

PREFIX = "TURNPIKE_"
# Read by the set-up and the tests, not by a command.
OTHER_NAMES = {"TURNPIKE_CMAKE_ARGS", "TURNPIKE_CONFIG"}


class CommonSettings(Struct, frozen=True, kw_only=True):
    """What every command knows."""

    data_dir: str = "~/.local/state/turnpike"
    log_level: str = "INFO"
    url: str | None = None
    credentials: str | None = None
    tls_ca: str | None = None
    """The certificates that a tls:// server is trusted by; default: the system's."""
    wait_seconds: float = 0.0
    """How long to wait at the start for what is needed to be there: on a cluster all starts at once."""


class ModelSettings(CommonSettings, frozen=True, kw_only=True):
    """`turnpike models`, and whoever wants a model by its name: which bytes, and where they lie."""

    lock_file: str = "turnpike.models.lock"
    models_dir: str = "~/.local/share/turnpike/models"
    mirror: tuple[str, ...] = ()
    """Where to ask before the hub, besides the mirrors that NATS knows of: http://HOST:PORT."""


class MirrorSettings(ModelSettings, frozen=True, kw_only=True):
    """`turnpike models serve`."""

    mirror_host: str = "0.0.0.0"
    mirror_port: int = 8180
    mirror_url: str | None = None
    """How others reach it; default: this node's address towards NATS."""
    node: str | None = None


class BrokerSettings(CommonSettings, frozen=True, kw_only=True):
    """`turnpike broker`."""

    host: str = "127.0.0.1"
    port: int = 4222
    model: tuple[str, ...] = ()
    tls_cert: str | None = None
    """The broker's own certificate, with `tls_key` and, for its clients, `tls_ca`."""
    tls_key: str | None = None
    max_queued_turns: int = 10_000
    ack_wait_seconds: float = 30.0


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
            values[name] = (f"--{name.replace('_', '-')}", value)

    converted: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.name in values:
            source, value = values[field.name]
            if isinstance(value, str) and get_origin(field.type) is tuple:
                value = value.split(",")  # the environment has no lists
            try:
                converted[field.name] = msgspec.convert(value, field.type, strict=False)
            except msgspec.ValidationError as error:
                problems.append(f"{source}: {error}")
        elif field.required:
            problems.append(f"--{field.name.replace('_', '-')} is missing (or {PREFIX}{field.name.upper()})")
    if problems:
        raise SettingsError(problems)
    return kind(**converted)


def _read_file(file: Path | None, problems: list[str]) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        problems.append(f"{file}: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{file}: {error}")
    return {}


def _suggest(name: str, names: set[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
