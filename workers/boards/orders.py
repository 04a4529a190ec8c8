"""What operators have ordered a board to load or to unload: each order once. Pure."""

from __future__ import annotations

from collections.abc import Collection

from broker.messages.boards import Order
from broker.placing import Placement


class Orders:
    """Remembers which were obeyed. Those that were given before the board began are not for it."""

    def __init__(self, board: str, began_at: float) -> None:
        self._board = board
        self._began_at = began_at
        self._obeyed: dict[tuple[str, str | None], float] = {}
        """When the latest one of each kind was sent."""

    def due(self, placement: Placement, models: Collection[str]) -> list[Order]:
        """Those of these models that were not obeyed yet, the oldest first. Each is told once."""
        found = []
        for model in models:
            for order in placement.orders_for(model, self._board):
                key = model, order.board
                if order.load is None or order.sent_at <= max(self._began_at, self._obeyed.get(key, 0.0)):
                    continue
                self._obeyed[key] = order.sent_at
                found.append(order)
        return sorted(found, key=lambda one: one.sent_at)
