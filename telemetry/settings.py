"""What a sidecar is started with; `turnpike sidecar --help` explains."""

from __future__ import annotations

from typing import Annotated

from broker.declaring import Setting
from broker.errors import SettingsError
from broker.settings import HealthPort, InfluxSettings, Level, Node


class SidecarSettings(InfluxSettings, frozen=True, kw_only=True):
    """`turnpike sidecar`."""

    log_level: Level = "INFO"
    node: Node = None
    sample_seconds: Annotated[float, Setting("how often the board is sampled")] = 1.0
    root: Annotated[
        str, Setting("where /proc and /sys are found: in a container, where the node's are mounted", path="folder")
    ] = "/"
    vcgencmd: Annotated[
        str, Setting("the Raspberry Pi's firmware command, asked only for what sysfs does not tell")
    ] = "vcgencmd"
    monitor_url: Annotated[
        str | None, Setting("the nats-server's monitoring address, for its rates", metavar="http://HOST:8222")
    ] = None
    health_port: HealthPort = None

    def check(self) -> None:
        """Raises SettingsError with every problem."""
        if self.sample_seconds < 0.1:
            raise SettingsError(["--sample-seconds: must be at least 0.1"])
