"""Settings from flags, then TURNPIKE_* environment variables, then a TOML file, as frozen structs.

All problems are reported at once, unknown names included. Nothing here reads the environment by itself: the entry
point passes it in.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

from broker.declaring import PREFIX, Setting, convert, declared, setting_names
from broker.errors import SettingsError
from broker.toml_files import read_toml

# Read by the set-up and the tests, not by a command.
OTHER_NAMES = {"TURNPIKE_CMAKE_ARGS", "TURNPIKE_CONFIG"}


Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]
MIN_QUEUED_BYTES = 4 * 1024 * 1024
"""Of a queue: a turn may have a megabyte."""
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
Level = Annotated[LogLevel, Setting("which lines are logged to standard error, by their level at least")]
Node = Annotated[str | None, Setting("the node's name (default: the host's)")]
HealthPort = Annotated[Port | None, Setting("answer GET /live and /ready there, for probes (default: nothing listens)")]


class CommonSettings(Struct, frozen=True, kw_only=True):
    """What every command knows."""

    GROUP: ClassVar[str] = "common"

    data_dir: Annotated[
        str, Setting("where the broker on this machine keeps its store and credentials", path="folder")
    ] = "~/.local/state/turnpike"
    log_level: Level = "WARNING"
    url: Annotated[str | None, Setting("nats://USER:PASSWORD@HOST:PORT (or NATS_URL)")] = None
    credentials: Annotated[str | None, Setting("a credentials file, as `turnpike user add` writes it", path="file")] = (
        None
    )
    tls_ca: Annotated[
        str | None,
        Setting("the certificates that a tls:// server is trusted by (default: the system's)", path="file"),
    ] = None
    # On a cluster all starts at once.
    wait_seconds: Annotated[float, Setting("how long to wait for a server, streams or a turn's worker")] = 0.0

    def check(self) -> None:
        """Raises SettingsError with every problem that no single field's type tells."""


class ModelSettings(CommonSettings, frozen=True, kw_only=True):
    """`turnpike models`, and whoever wants a model by its name: which bytes, and where they lie."""

    lock_file: Annotated[str, Setting("which bytes a name stands for", path="file")] = "turnpike.models.lock"
    models_dir: Annotated[str, Setting("where the files lie", path="folder")] = "~/.local/share/turnpike/models"
    catalogue: Annotated[
        str, Setting("one's own models, which `turnpike models add` writes, besides the shipped ones", path="file")
    ] = "turnpike.models.toml"


class PullSettings(ModelSettings, frozen=True, kw_only=True):
    """`turnpike models pull`."""

    mirror: Annotated[
        tuple[str, ...],
        Setting(
            "ask http://HOST:PORT first, besides the mirrors that NATS knows of; can be given again",
            metavar="http://HOST:PORT",
        ),
    ] = ()


class MirrorSettings(ModelSettings, frozen=True, kw_only=True):
    """`turnpike models serve`."""

    log_level: Level = "INFO"
    mirror_host: Annotated[str, Setting("the interface to listen at; 0.0.0.0 is all of them")] = "0.0.0.0"
    mirror_port: Annotated[Port, Setting("the port; 0 takes a free one")] = 8180
    mirror_url: Annotated[str | None, Setting("how others reach it (default: this node's address towards NATS)")] = None
    node: Node = None


class QueueSettings(CommonSettings, frozen=True, kw_only=True):
    """`turnpike broker ensure`: which queues there are, and their bounds."""

    log_level: Level = "INFO"
    model: Annotated[
        tuple[str, ...],
        Setting("a model to queue turns for; can be given several times (`turnpike broker` alone: demo)"),
    ] = ()
    lock_file: Annotated[
        str | None,
        Setting(
            "a queue for each model of this lock file, too (default: for those that are named, or that boards have)",
            path="file",
        ),
    ] = None
    max_queued_turns: Annotated[Count, Setting("the bound of a model's queue")] = 10_000
    max_queued_bytes: Annotated[
        Annotated[int, Meta(ge=MIN_QUEUED_BYTES)] | None,
        Setting(
            "the same in bytes, which the server sets aside on its disk (default: 268435456; 16777216 of a queue that "
            "a lock file or boards want, and less where there is less)"
        ),
    ] = None
    ack_wait_seconds: Annotated[
        float, Meta(ge=1, le=24 * 3600), Setting("a silent worker's turn goes to another after so long")
    ] = 30.0


class BrokerSettings(QueueSettings, frozen=True, kw_only=True):
    """`turnpike broker`."""

    host: Annotated[str, Setting("the address to listen on")] = "127.0.0.1"
    port: Annotated[Port, Setting("the port; 0 takes a free one")] = 4222
    tls_cert: Annotated[
        str | None, Setting("this server's certificate: turns TLS on, with --tls-key and --tls-ca", path="file")
    ] = None
    tls_key: Annotated[str | None, Setting("the certificate's key", path="file")] = None

    def check(self) -> None:
        """Raises SettingsError: TLS wants all three of its files."""
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_cert is not None and self.tls_ca is None):
            raise SettingsError(["--tls-cert, --tls-key and --tls-ca: TLS wants all three"])


class InfluxSettings(CommonSettings, frozen=True, kw_only=True):
    """Whoever writes points or reads them: where the database is."""

    influx_url: Annotated[
        str | None, Setting("http://USER:PASSWORD@HOST:8086/DATABASE or file:PATH (or INFLUX_URL)", metavar="URL")
    ] = None
    influx_token: Annotated[
        str | None, Setting("of InfluxDB 2 and 3 (or INFLUX_TOKEN, which no process list shows)", metavar="TOKEN")
    ] = None
    influx_org: Annotated[str | None, Setting("of InfluxDB 2 (or INFLUX_ORG)", metavar="ORG")] = None


def load[S: Struct](
    kind: type[S],
    *,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Path | None = None,
    known: Sequence[type[Struct]] = (),
    problems: Sequence[str] = (),
) -> S:
    """The settings of type `kind`. A flag that is None was not given. Raises SettingsError with every problem.

    `known` are the settings of the other commands, whose names in the environment and the file are no mistakes.
    `problems` are those that the caller has found already.
    """
    found = list(problems)
    values = _named(environment, file, (kind, *known), found)
    converted: dict[str, Any] = {}
    wrong = []
    for field in declared(kind):
        source, value = values.get(field.name, ("", None)) if field.is_setting else ("", None)
        if flags.get(field.name) is not None:
            source, value = field.flag, flags[field.name]
        if value == "" and str not in field.alternatives:
            value = None  # as a shell or a manifest leaves out what is not set
        if value is not None:
            try:
                converted[field.name] = convert(value, field.kind)
            except ValueError as error:
                found.append(f"{source}: {error}")
                wrong.append(field)
        elif field.is_required:
            found.append(f"{field.flag} is missing" + (f" (or {field.variable})" if field.is_setting else ""))
            wrong.append(field)
    if not any(field.is_required for field in wrong):
        settings = kind(**converted)
        try:
            if isinstance(settings, CommonSettings):
                settings.check()
        except SettingsError as error:
            # What is wrong stands at its default here, of which nothing needs to be said.
            found += [one for one in error.problems if not any(field.flag in one for field in wrong)]
        if not found:
            return settings
    raise SettingsError(found)


def _named(
    environment: Mapping[str, str], file: Path | None, kinds: Sequence[type[Struct]], problems: list[str]
) -> dict[str, tuple[str, Any]]:
    """Where each setting was found, and its value: the environment wins over the file."""
    given = [(f"{file}: {name}", name, value) for name, value in _read_file(file, problems).items()]
    given += [
        (variable, variable.removeprefix(PREFIX).lower(), text)
        for variable, text in environment.items()
        if variable.startswith(PREFIX) and variable not in OTHER_NAMES
    ]
    values = {name: (source, value) for source, name, value in given}
    # All kinds' fields take longer to look up than a command to begin: they are where there is something to look for.
    names = setting_names(kinds) if values else set()
    problems += [
        f"{source}: unknown setting{suggestion(name, names)}" for source, name, _ in given if name not in names
    ]
    return values


def _read_file(file: Path | None, problems: list[str]) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return read_toml(file)
    except OSError as error:
        problems.append(f"{file}: {error.strerror}")
    except ValueError as error:
        problems.append(f"{file}: {error}")
    return {}


def suggestion(name: str, names: Iterable[str]) -> str:
    """What may have been meant, in brackets, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
