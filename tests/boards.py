"""Boards as they announce themselves: what they say, without the supervisors that would say it."""

from __future__ import annotations

from typing import Any

from broker.messages.boards import AVAILABLE, LOADING, BoardState, ModelOnBoard

GB = 10**9
NOW = 1000.0
"""By every board's clock."""


def on_board(model: str, state: str = AVAILABLE, **more: Any) -> ModelOnBoard:
    """A model of one gigabyte that takes twelve seconds to load."""
    facts: dict[str, Any] = {"planned_bytes": GB, "load_seconds": 12.0, "file_bytes": GB} | more
    return ModelOnBoard(model, state, **facts)


def loading(model: str, share: float, elapsed: float, **more: Any) -> ModelOnBoard:
    """One of which so much has been read in so many seconds."""
    return on_board(model, LOADING, read_bytes=int(share * GB), since=NOW - elapsed, **more)


def board(name: str, *models: ModelOnBoard, **more: Any) -> BoardState:
    """A board with memory for four of them."""
    facts: dict[str, Any] = {"memory_bytes": 4 * GB, "num_cores": 4, "sent_at": NOW} | more
    return BoardState(name, models=models, **facts)
