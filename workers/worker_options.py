"""Who a worker is and how it serves: what the entry point makes of settings and model, and hands to the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker import discovery
from workers.turns.jobs import Overflow

SHORT_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class WorkerOptions:
    """Who a worker is and how it streams."""

    name: str
    model: str
    """The token in subjects; `model_name` is for people."""
    model_name: str = ""
    quantization: str = ""
    node: str = "unknown"
    version: str = "0.0.0"
    fingerprint: str = ""
    """Of the model file."""
    coalesce_seconds: float = 0.05
    """Chunks gather what comes within so long of the one before; 0 sends each token."""
    pull_seconds: float = 2.0
    """How long a pull stays open."""
    overflow: Overflow = "error"
    """Of a conversation longer than the context."""
    state_fingerprint: str = ""
    """Of the model file and all else that decides how a KV state is laid out."""
    fetch_bytes_per_second: float = 0.0
    """The most that is sent to other workers of conversations' states; 0: none is given or fetched."""
    park_seconds: float = 60.0
    """How long what is in memory may take to disk, at the end."""
    wait_seconds: float = 0.0
    """For the model's stream and consumers, at the start."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What it takes to repeat what is measured here: build, CPU, board, settings."""
    can: tuple[str, ...] = (discovery.CHAT, discovery.RAW, discovery.SCORE, discovery.TOOLS, *discovery.OF_RELEASE)
    may_differ: bool = False
    """It may serve the model from another file than its other workers."""
    look_seconds: float = 0.25
    """How long the model's other workers have to answer at the start."""
    leave_seconds: float = 0.5
    """How long an idle worker that stops takes turns of those who chose it before they heard: asking around takes a
    quarter of a second. A board's takes none: its model comes back for them, and another is waited for."""


def in_a_hurry(*, has_others: bool) -> dict[str, float]:
    """What a board's worker does not wait for, as somebody waits for it, or for its room. Where the model had no other
    workers during the load, only one with another file that starts at this very moment has to be seen yet."""
    return {"leave_seconds": 0.0} | ({} if has_others else {"look_seconds": SHORT_LOOK_SECONDS})
