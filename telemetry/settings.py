"""What a sidecar is started with; `turnpike sidecar --help` explains."""

from __future__ import annotations

from broker.errors import SettingsError
from broker.settings import CommonSettings


class TelemetrySettings(CommonSettings, frozen=True, kw_only=True):
    """`turnpike telemetry`: where the database is."""

    influx_url: str | None = None
    """http://USER:PASSWORD@HOST:PORT/DATABASE or file:PATH; default: INFLUX_URL."""
    influx_token: str | None = None
    """InfluxDB 2 and 3; default: INFLUX_TOKEN."""
    influx_org: str | None = None


class SidecarSettings(TelemetrySettings, frozen=True, kw_only=True):
    """`turnpike sidecar`."""

    node: str | None = None
    """Default: the host's name."""
    sample_seconds: float = 1.0
    root: str = "/"
    """Where /proc and /sys are found: in a container, where the node's are mounted."""
    vcgencmd: str = "vcgencmd"
    """The Raspberry Pi's firmware command, asked only for what sysfs does not tell."""
    monitor_url: str | None = None
    """The nats-server's monitoring address, http://HOST:8222, for the `broker` measurement's rates."""
    health_port: int | None = None
    """Answers GET /live and /ready there; without it nothing listens."""

    def check(self) -> None:
        """Raises SettingsError with every problem."""
        if self.sample_seconds < 0.1:
            raise SettingsError(["--sample-seconds: must be at least 0.1"])
