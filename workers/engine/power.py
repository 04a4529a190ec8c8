"""What the node draws just now: told by the node's sidecar, read by the engine loop after each step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Power:
    """One number between two threads: asyncio's writes it, the engine's reads it."""

    watts: float | None = None
    """None where nobody measures it, or nobody has said so lately."""

    def tell(self, watts: float | None) -> None:
        """So much is drawn from now on."""
        self.watts = watts
