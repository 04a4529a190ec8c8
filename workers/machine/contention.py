"""Whether others want the cores that a thread computes on, by the kernel's account of it: how long it ran, and how long
it was ready and another had its core.

A thread's priority says less than it seems: it is compared within a group alone, and each session (autogroup), service
and container is a group of its own (sched(7)), which has its share however low its threads' priorities are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ACCOUNT = Path("/proc/thread-self/schedstat")
"""Nanoseconds that the calling thread ran and that it waited, and how often it was given a core (proc-schedstat)."""


@dataclass(frozen=True)
class CpuTime:
    """Of a thread, since it began or over a while; seconds."""

    ran: float
    waited: float
    """Ready to run, while its core was another's."""

    def __sub__(self, before: CpuTime) -> CpuTime:
        return CpuTime(self.ran - before.ran, self.waited - before.waited)

    @property
    def waited_share(self) -> float:
        """Of the time that it wanted a core; 0 where it wanted none."""
        wanted = self.ran + self.waited
        return self.waited / wanted if wanted > 0 else 0.0


def cpu_time() -> CpuTime:
    """The calling thread's. Nothing was waited where the kernel keeps no account."""
    try:
        ran, waited, _ = ACCOUNT.read_text().split()
    except (OSError, ValueError):
        return CpuTime(0.0, 0.0)
    return CpuTime(int(ran) / 1e9, int(waited) / 1e9)
