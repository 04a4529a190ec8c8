"""systemd units for a Pi without Kubernetes: `turnpike install-service` writes them, hardened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from broker.accounts import write_private
from broker.errors import TurnpikeError

STATE_DIR = "/var/lib/turnpike"
EVERYWHERE = "0.0.0.0"
WORKER_STOP_SECONDS = 1800
"""A drain may take so long: the answers that run are finished first."""

CONFINED = (
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "PrivateTmp=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "RestrictNamespaces=yes",
    "RestrictSUIDSGID=yes",
    "RestrictRealtime=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "LockPersonality=yes",
    "CapabilityBoundingSet=",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "UMask=0077",
)
"""What no service of ours needs."""


@dataclass(frozen=True)
class Service:
    """A unit: what runs, with which settings (TURNPIKE_* and the like) and how much memory at most."""

    name: str
    description: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    after: str = "network-online.target"
    memory_bytes: int | None = None
    stop_seconds: int = 90
    has_devices: bool = False
    """Whether it asks the board's firmware (/dev/vcio) and sees other users' processes."""
    writes: Sequence[str] = ()
    """Folders that it writes in, beside its state directory: all others are read only to it."""

    def environment_text(self) -> str:
        """The environment file's text."""
        lines = []
        for name, value in sorted(self.environment.items()):
            escaped = _checked(value).replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'{name}="{escaped}"\n')
        return "".join(lines)

    def unit(self, executable: Sequence[Path], user: str, environment_file: Path) -> str:
        """The unit file's text. Raises TurnpikeError for what systemd could not take literally."""
        lines = [
            "# By `turnpike install-service`, which writes it anew; changes go into drop-ins (systemctl edit).",
            "[Unit]",
            f"Description={self.description}",
            "Documentation=man:systemd.exec(5)",
            f"After={self.after}",
            "Wants=network-online.target",
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            "Type=exec",
            f"User={user}",
            f"Group={user}",
            "ExecStart="
            + " ".join(_quoted(word.replace("$", "$$")) for word in (*map(str, executable), *self.arguments)),
            # Read by systemd before it becomes the user: mode 0600, as there may be passwords in it.
            f"EnvironmentFile=-{_quoted(str(environment_file))}",
            "WorkingDirectory=%S/turnpike",
            "StateDirectory=turnpike",
            "StateDirectoryMode=0700",
            "Restart=always",
            "RestartSec=5",
            "KillSignal=SIGTERM",
            # A worker's first SIGTERM is a drain; the templates' child ends with its parent.
            "KillMode=mixed",
            f"TimeoutStopSec={self.stop_seconds}",
            # What the kernel ends for its memory, a board's worker or what makes a grammar, ends alone.
            "OOMPolicy=continue",
        ]
        if self.memory_bytes is not None:
            lines += [f"MemoryMax={self.memory_bytes}", "MemorySwapMax=0"]
        lines += CONFINED
        # One that is not there yet is no reason not to start.
        lines += [f"ReadWritePaths={_quoted('-' + folder)}" for folder in self.writes]
        if self.has_devices:
            lines += ["DevicePolicy=closed", "DeviceAllow=/dev/vcio rw", "SupplementaryGroups=video"]
        else:
            lines += ["PrivateDevices=yes", "ProtectProc=invisible"]
        return "\n".join([*lines, "", "[Install]", "WantedBy=multi-user.target", ""])


def _quoted(word: str) -> str:
    """A word as systemd reads it (systemd.syntax(7)), with its specifiers doubled."""
    escaped = _checked(word).replace("%", "%%")
    if not escaped or set(escaped) & set(" \t\"'\\;"):
        return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return escaped


def _checked(word: str) -> str:
    if any(ord(one) < 32 for one in word):
        raise TurnpikeError(f"{word!r} cannot stand in a unit file")
    return word


def broker(
    models: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: str = f"{STATE_DIR}/broker",
    host: str = EVERYWHERE,
    tls: tuple[str, str, str] | None = None,
) -> Service:
    """`tls` are the files of certificate, key and CA."""
    arguments = ["broker", "--data-dir", folder, "--host", host]
    arguments += [word for model in models for word in ("--model", model)]
    if tls is not None:
        arguments += [word for pair in zip(("--tls-cert", "--tls-key", "--tls-ca"), tls, strict=True) for word in pair]
    return Service("turnpike-broker", "Turnpike: the queue", arguments, environment, memory_bytes=768 * 1024**2)


def worker(model: str, memory_bytes: int, environment: Mapping[str, str]) -> Service:
    """`memory_bytes` is the worker's plan and some."""
    return Service(
        f"turnpike-worker-{model}",
        f"Turnpike: a worker of {model}",
        ["worker", "--model", model],
        environment,
        after="network-online.target turnpike-broker.service",
        memory_bytes=memory_bytes,
        stop_seconds=WORKER_STOP_SECONDS,
    )


def board(models: Sequence[str], environment: Mapping[str, str]) -> Service:
    """The unit of a node's board. No limit on its memory: it plans with what the node has."""
    return Service(
        "turnpike-board",
        "Turnpike: this node's workers of many models",
        ["board", *(word for model in models for word in ("--model", model))],
        environment,
        after="network-online.target turnpike-broker.service",
        stop_seconds=WORKER_STOP_SECONDS,
    )


def sidecar(environment: Mapping[str, str]) -> Service:
    """The unit of a node's sidecar."""
    return Service(
        "turnpike-sidecar",
        "Turnpike: telemetry of this node",
        ["sidecar"],
        environment,
        after="network-online.target turnpike-broker.service",
        memory_bytes=192 * 1024**2,
        has_devices=True,
    )


def gateway(environment: Mapping[str, str]) -> Service:
    """The unit of the OpenAI API in front of the queue."""
    return Service(
        "turnpike-gateway",
        "Turnpike: the OpenAI API in front of the queue",
        ["gateway"],
        environment,
        after="network-online.target turnpike-broker.service",
        memory_bytes=512 * 1024**2,
    )


def mirror(environment: Mapping[str, str]) -> Service:
    """The unit that gives a node's model files to its neighbours."""
    return Service(
        "turnpike-mirror",
        "Turnpike: model files for the neighbours",
        ["models", "serve"],
        environment,
        after="network-online.target turnpike-broker.service",
        memory_bytes=192 * 1024**2,
    )


def install(service: Service, *, executable: Sequence[Path], user: str, units: Path, environments: Path) -> list[Path]:
    """Writes the unit and its environment file; which ones. Raises TurnpikeError."""
    environment_file = environments / f"{service.name}.env"
    unit = units / f"{service.name}.service"
    try:
        environments.mkdir(parents=True, exist_ok=True)
        write_private(environment_file, service.environment_text().encode())
        unit.write_text(service.unit(executable, user, environment_file))
    except OSError as error:
        raise TurnpikeError(f"{error.filename}: {error.strerror}") from None
    return [unit, environment_file]
