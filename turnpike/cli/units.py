"""The systemd unit of each service, by what was said of its settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from broker.declaring import variable
from broker.errors import SettingsError
from broker.settings import BrokerSettings, MirrorSettings
from producers.settings import GatewaySettings
from telemetry.settings import SidecarSettings
from workers.boards.settings import BoardSettings
from workers.settings import WorkerSettings

if TYPE_CHECKING:
    from broker.services import Service

Given = Mapping[str, object]
"""What was said of a service's settings, by their names; paths are absolute."""


def broker(options: BrokerSettings, given: Given, texts: dict[str, str]) -> Service:
    """The queue. What its command says by flags is not said by variables too."""
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


def worker(options: WorkerSettings, given: Given, texts: dict[str, str]) -> Service:
    """A worker of one model, with a limit on its memory. Raises SettingsError without a model."""
    from broker import services
    from turnpike.cli.planning import planned_bytes
    from workers.chosen_file import model_token
    from workers.machine.memory import available_bytes

    model = options.model or (model_token(Path(options.model_file)) if options.model_file else None)
    if model is None:
        raise SettingsError(["--model: which one? a worker serves one model"])
    planned = planned_bytes(model, options)
    # For conversations at rest: a quarter of what this machine has free besides.
    parked = options.park_bytes if options.park_bytes is not None else max(0, available_bytes() - planned) // 4
    texts.pop(variable("model"), None)  # its command names it
    return services.worker(model, planned + parked, texts | {variable("park_bytes"): str(parked)})


def board(options: BoardSettings, given: Given, texts: dict[str, str]) -> Service:
    """A node's workers of many models. Its command names them; without a name they are all that are locked."""
    from broker import services

    texts.pop(variable("model"), None)
    return services.board(options.model, texts)


def sidecar(options: SidecarSettings, given: Given, texts: dict[str, str]) -> Service:
    """This node's telemetry."""
    from broker import services

    return services.sidecar(texts)


def gateway(options: GatewaySettings, given: Given, texts: dict[str, str]) -> Service:
    """The OpenAI API."""
    from broker import services

    return services.gateway(texts)


def mirror(options: MirrorSettings, given: Given, texts: dict[str, str]) -> Service:
    """Model files for the neighbours."""
    from broker import services

    return services.mirror(texts)
