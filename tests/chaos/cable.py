"""A network namespace and a pair of virtual cables to it, which can be pulled out."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

WHY_NO_CABLES = "a network namespace needs root and `ip` (Debian: iproute2)"
_NUMBERS = itertools.count()


def can_lay_cables() -> bool:
    return os.geteuid() == 0 and shutil.which("ip") is not None


@dataclass(frozen=True)
class Cable:
    """Between this host and a namespace; pulled out and plugged in again."""

    namespace: str
    device: str
    address: str
    """Of this host's end, as the namespace reaches it."""

    @property
    def inside(self) -> tuple[str, ...]:
        """What a command in the namespace begins with."""
        return "ip", "netns", "exec", self.namespace

    def pull_out(self) -> None:
        _ip("link", "set", self.device, "down")

    def plug_in(self) -> None:
        _ip("link", "set", self.device, "up")


@contextmanager
def lay_cable() -> Iterator[Cable]:
    """A namespace with one end of a cable in it, while the block runs."""
    # A name of its own for each: the kernel takes a namespace's devices away in its own time.
    number = next(_NUMBERS)
    name = f"tp{os.getpid() % 100000}n{number}"
    network = f"10.203.{(os.getpid() + number) % 250}"
    cable = Cable(name, f"{name}a", f"{network}.1")
    _ip("netns", "add", name)
    try:
        _ip("link", "add", cable.device, "type", "veth", "peer", "name", f"{name}b", "netns", name)
        _ip("addr", "add", f"{cable.address}/24", "dev", cable.device)
        _ip("link", "set", cable.device, "up")
        _ip("-n", name, "addr", "add", f"{network}.2/24", "dev", f"{name}b")
        _ip("-n", name, "link", "set", f"{name}b", "up")
        yield cable
    finally:
        subprocess.run(["ip", "link", "del", cable.device], check=False, capture_output=True)
        _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
