"""What a worker is started with; `turnpike worker --help` explains."""

from __future__ import annotations

import os
from typing import Literal

from broker import subjects
from broker.errors import InvalidName, SettingsError
from broker.settings import ModelSettings, Port, flag

MAX_SLOTS = 256
"""llama.cpp's LLAMA_MAX_SEQ."""


class WorkerSettings(ModelSettings, frozen=True, kw_only=True):
    """`turnpike worker`."""

    model_file: str | None = None
    """Default: the file that the lock file names for `model`, and without one the model that Turnpike ships."""
    model: str | None = None
    """The model's token in subjects; default: made from the file's name."""
    allow_other_file: bool = False
    """Serve the model although its other workers have another file: for changing the file worker by worker. Else such a
    worker is refused."""
    worker_name: str | None = None
    node: str | None = None
    num_ctx: int = 8192
    num_slots: int = 8
    threads: int | None = None
    """Default: measured at the start, and from step to step while neighbours are busy; in the deterministic mode one
    less than the cores."""
    num_ubatch: int = 256
    step_budget_seconds: float = 0.25
    coalesce_seconds: float = 0.05
    deterministic: bool = False
    share_prefixes: bool = False
    """Share KV prefixes across clients too, not only within one."""
    park_bytes: int | None = None
    """Of RAM, for conversations that the context has no room for; default: a quarter of what is free. 0 parks none."""
    disk_bytes: int = 0
    """Of disk, for those that RAM has no room for, and over restarts. Off by default: an SD card wears."""
    kv_dir: str | None = None
    """Where those files lie; default: `kv` in the data directory."""
    fetch_bytes_per_second: int = 50_000_000
    """At most so fast are conversations' states given to other workers: half of gigabit Ethernet. 0: none is given or
    fetched."""
    park_seconds: float = 60.0
    """How long a worker that stops may write what it has in memory to disk."""
    overflow: Literal["error", "drop"] = "error"
    """Of a conversation longer than the context: refused, or its oldest turns left out."""
    kv_type: Literal["f16", "q8_0"] = "f16"
    """The KV cache's precision."""
    health_port: Port | None = None
    """Answers GET /live and /ready there; without it nothing listens."""

    def check(self) -> None:
        """Raises SettingsError with every problem."""
        problems = [
            f"--{name.replace('_', '-')}: must be at least {least}"
            for name, value, least in (
                ("num_ctx", self.num_ctx, 256),
                ("num_slots", self.num_slots, 1),
                ("num_ubatch", self.num_ubatch, 16),
                ("threads", self.threads if self.threads is not None else 1, 1),
                ("park_bytes", self.park_bytes or 0, 0),
                ("disk_bytes", self.disk_bytes, 0),
                ("fetch_bytes_per_second", self.fetch_bytes_per_second, 0),
            )
            if value < least
        ]
        num_cores = len(os.sched_getaffinity(0))
        if self.threads is not None and self.threads > num_cores:
            problems.append(f"--threads: this machine has {num_cores} cores, and more threads only wait for each other")
        for what, name in (("model", self.model), ("worker", self.worker_name), ("node", self.node)):
            if name is not None:
                try:
                    subjects.token(name, what)
                except InvalidName as error:
                    problems.append(f"{flag('worker_name' if what == 'worker' else what)}: {error}")
        if self.step_budget_seconds <= 0:
            problems.append("--step-budget-seconds: must be above 0")
        if self.num_slots > MAX_SLOTS:
            problems.append(f"--num-slots: must be at most {MAX_SLOTS}")
        if self.kv_type != "f16" and self.deterministic:
            problems.append("--kv-type: the deterministic mode has no flash attention, which q8_0 wants")
        if self.coalesce_seconds < 0:
            problems.append("--coalesce-seconds: must not be negative")
        if problems:
            raise SettingsError(problems)
