"""`turnpike install-service`: systemd units, whose settings are what was said to this command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from broker.declaring import Argument, Field, declared, variable
from broker.errors import SettingsError
from broker.settings import BrokerSettings, CommonSettings, MirrorSettings, ModelSettings, load
from producers.settings import GatewaySettings
from telemetry.settings import SidecarSettings
from turnpike.cli.command import CONFIG, Command, Said, begin
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


Given = Mapping[str, object]
"""What was said of a service's settings, by their names; paths are absolute."""


def install[S: CommonSettings](kind: type[S], make: Callable[[S, Given, dict[str, str]], Service], said: Said) -> int:
    """Writes the unit of a service and its environment; its exit code."""
    options = said.load(InstallOptions, kind)
    given = _absolute(kind, said.flags)
    settings = load(kind, flags=given, environment={})
    wait = options.wait_seconds or WAIT_SECONDS
    texts = {variable(name): _text(value) for name, value in given.items()}
    texts[variable("wait_seconds")] = f"{wait:g}"
    return begin(partial(_write, lambda: make(settings, given, texts), _written_folders(given)), options)


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


# --- Each service ----------------------------------------------------------------------------------------------------


def _broker(options: BrokerSettings, given: Given, texts: dict[str, str]) -> Service:
    from broker import services

    by_flags = {variable(one) for one in ("data_dir", "model", "host", "tls_cert", "tls_key", "tls_ca", "wait_seconds")}
    kept = {name: text for name, text in texts.items() if name not in by_flags}
    cert, key, ca = options.tls_cert, options.tls_key, options.tls_ca
    return services.broker(
        list(options.model) or ["demo"],
        kept,
        folder=str(given.get("data_dir", f"{services.STATE_DIR}/broker")),
        host=str(given.get("host", services.EVERYWHERE)),
        tls=(cert, key, ca) if cert and key and ca else None,
    )


def _worker(options: WorkerSettings, given: Given, texts: dict[str, str]) -> Service:
    from broker import services
    from turnpike.cli.planning import planned_bytes
    from workers.machine.memory import available_bytes
    from workers.main import model_token

    model = options.model or (model_token(Path(options.model_file)) if options.model_file else None)
    if model is None:
        raise SettingsError(["--model: which one? a worker serves one model"])
    planned = planned_bytes(model, options)
    # For conversations at rest: a quarter of what this machine has free besides.
    parked = options.park_bytes if options.park_bytes is not None else max(0, available_bytes() - planned) // 4
    texts.pop(variable("model"), None)  # its command names it
    return services.worker(model, planned + parked, texts | {variable("park_bytes"): str(parked)})


def _sidecar(options: SidecarSettings, given: Given, texts: dict[str, str]) -> Service:
    from broker import services

    return services.sidecar(texts)


def _gateway(options: GatewaySettings, given: Given, texts: dict[str, str]) -> Service:
    from broker import services

    return services.gateway(texts)


def _mirror(options: MirrorSettings, given: Given, texts: dict[str, str]) -> Service:
    from broker import services

    return services.mirror(texts)


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
        _service("broker", "the queue", "broker --model llama-3-2-1b", BrokerSettings, _broker),
        _service("worker", "a worker of one model", "worker --model llama-3-2-1b", WorkerSettings, _worker),
        _service(
            "sidecar",
            "this node's telemetry",
            "sidecar --influx-url http://pi:8086/turnpike",
            SidecarSettings,
            _sidecar,
        ),
        _service("gateway", "the OpenAI API", "gateway --keys /etc/turnpike/keys.toml", GatewaySettings, _gateway),
        _service("mirror", "model files for the neighbours", "mirror --mirror-port 8180", MirrorSettings, _mirror),
    ),
)
