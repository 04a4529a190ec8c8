"""`turnpike install-service`: systemd units, whose settings are what was said to this command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from broker.declaring import Argument, Field, declared, variable
from broker.errors import SettingsError
from broker.settings import BrokerSettings, CommonSettings, MirrorSettings, ModelSettings, load
from producers.settings import GatewaySettings
from telemetry.settings import SidecarSettings
from turnpike.cli import units
from turnpike.cli.command import CONFIG, Command, Said, begin
from turnpike.cli.units import Given
from workers.boards.settings import BoardSettings
from workers.settings import WorkerSettings

if TYPE_CHECKING:
    from broker.services import Service

WAIT_SECONDS = 600.0
"""How long a service waits for its server after a machine's start, unless it is said."""


class InstallOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike install-service`, beside the flags of the service."""

    user: Annotated[str, Argument("whom it runs as")] = "turnpike"
    executable: Annotated[str | None, Argument("the command (default: this one)", path="file")] = None
    unit_dir: Annotated[str, Argument("where the unit goes", path="folder")] = "/etc/systemd/system"
    environment_dir: Annotated[str, Argument("where its settings go, mode 0600", path="folder")] = "/etc/turnpike"


def install[S: CommonSettings](kind: type[S], make: Callable[[S, Given, dict[str, str]], Service], said: Said) -> int:
    """Writes the unit of a service and its environment; its exit code."""
    given = _absolute(kind, said.flags)
    problems: list[str] = []
    options = _loaded(lambda: said.load(InstallOptions, kind), problems)
    settings = _loaded(lambda: load(kind, flags=given, environment={}), problems)
    if options is None or settings is None:
        raise SettingsError(list(dict.fromkeys(problems)))
    texts = {variable(name): _text(value) for name, value in given.items()}
    texts[variable("wait_seconds")] = f"{options.wait_seconds or WAIT_SECONDS:g}"
    return begin(partial(_write, partial(make, settings, given, texts), _written_folders(given)), options)


def _loaded[S: CommonSettings](load_it: Callable[[], S], problems: list[str]) -> S | None:
    """What is loaded, or None and what is wrong with it."""
    try:
        return load_it()
    except SettingsError as error:
        problems += error.problems
        return None


def _write(make: Callable[[], Service], writes: list[str], options: InstallOptions) -> int:
    import dataclasses

    from broker import services

    service = dataclasses.replace(make(), writes=writes)
    written = services.install(
        service,
        executable=_executable(options.executable),
        user=options.user,
        units=Path(options.unit_dir),
        environments=Path(options.environment_dir),
    )
    print("\n".join(str(path) for path in written))
    print(
        f"next: id {options.user} || sudo useradd --system --home-dir {services.STATE_DIR} {options.user}\n"
        f"      sudo systemctl daemon-reload && sudo systemctl enable --now {service.name}"
    )
    return 0


def _absolute(kind: type[CommonSettings], flags: Given) -> Given:
    """The flags that are the service's settings: it has another working directory than whoever installs it."""
    fields = {field.name: field for field in (*declared(kind), CONFIG) if field.is_setting or field is CONFIG}
    given = {name: _located(fields[name], value) for name, value in flags.items() if name in fields}
    lock = Path(ModelSettings().lock_file)
    if "lock_file" in fields and "lock_file" not in given and lock.exists():
        given["lock_file"] = str(lock.absolute())
    return given


def _located(field: Field, value: object) -> object:
    text = str(value)
    if field.declared.path is not None:
        return str(Path(text).expanduser().absolute())
    if text.startswith("file:"):  # where points are written
        return f"file:{Path(text.removeprefix('file:').removeprefix('//')).expanduser().absolute()}"
    return value


def _text(value: object) -> str:
    """As a variable has it."""
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _written_folders(given: Given) -> list[str]:
    """Where a service writes by what was said."""
    url = str(given.get("influx_url", ""))
    points = [str(Path(url.removeprefix("file:")).parent)] if url.startswith("file:") else []
    return [*([str(given["data_dir"])] if "data_dir" in given else []), *points]


def _executable(named: str | None) -> list[Path]:
    """The words that begin every command of this installation."""
    path = Path(named or sys.argv[0]).absolute()
    is_script = path.is_dir() or (path.suffix == ".py" and not os.access(path, os.X_OK))
    return [Path(sys.executable).absolute(), path] if is_script else [path]


def _service[S: CommonSettings](
    name: str, help: str, example: str, kind: type[S], make: Callable[[S, Given, dict[str, str]], Service]
) -> Command:
    """A command whose flags are those of the service, and this command's own."""
    return Command(
        name,
        help,
        f"sudo turnpike install-service {example}",
        InstallOptions,
        partial(install, kind, make),
        beside=(kind,),
        refusal="{flag}: nothing to a {name}",
    )


INSTALL_SERVICE = Command(
    "install-service",
    "write a systemd unit, for a Pi without Kubernetes",
    "sudo turnpike install-service worker --model llama-3-2-1b --credentials /etc/turnpike/worker.credentials",
    commands=(
        _service("broker", "the queue", "broker --model llama-3-2-1b", BrokerSettings, units.broker),
        _service("worker", "a worker of one model", "worker --model llama-3-2-1b", WorkerSettings, units.worker),
        _service("board", "workers of many models", "board --model llama-3-2-1b", BoardSettings, units.board),
        _service(
            "sidecar",
            "this node's telemetry",
            "sidecar --influx-url http://pi:8086/turnpike",
            SidecarSettings,
            units.sidecar,
        ),
        _service("gateway", "the OpenAI API", "gateway --keys /etc/turnpike/keys.toml", GatewaySettings, units.gateway),
        _service("mirror", "model files for the neighbours", "mirror --mirror-port 8180", MirrorSettings, units.mirror),
    ),
)
