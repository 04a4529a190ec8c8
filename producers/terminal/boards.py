"""Boards and their models as a table for a terminal: what is loaded where, what is coming, and what it takes."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from broker.messages.boards import AVAILABLE, BROKEN, DRAINING, IN_MEMORY, LOADING, SERVING, BoardState, ModelOnBoard
from broker.model_status import progress
from producers.terminal.tables import FoldingTable

GB = 1e9
MIN_PRESSURE = 0.01
"""Memory pressure that is worth a word."""


def boards_table(boards: Iterable[BoardState]) -> Table:
    """A line a board, and below it one for each of its models; those that only could be loaded share a line. Of a
    board: models that it unloaded for another and the time lost to loading, turns that waited for that and how long
    they did."""
    table = FoldingTable(
        "board, model", "state", "GB", "turns", "used", "pin", "swaps, loading", "waited", title="boards"
    )
    for board in boards:
        table.add_row(
            board.board, _health(board), _memory(board), "", "", "", _swaps(board), _waited(board), style="bold"
        )
        idle = [one for one in board.models if _is_idle(one, board)]
        for one in sorted(board.models, key=lambda one: (one.state == AVAILABLE, one.model)):
            if one not in idle:
                table.add_row(f"  {one.model}", *_cells(one, board))
        if idle:
            names = ", ".join(sorted(f"{one.model}{_last(one, board)}" for one in idle))
            table.add_row(f"  {names}", AVAILABLE)
    return table


def _is_idle(one: ModelOnBoard, board: BoardState) -> bool:
    """Whether there is nothing to say of it but that it could be loaded."""
    return one.state == AVAILABLE and one.pin is None and one.retry_at <= board.sent_at


def _cells(one: ModelOnBoard, board: BoardState) -> tuple[str, ...]:
    in_hand = f"{one.num_in_hand}/{one.num_slots}" if one.state in (SERVING, DRAINING) else ""
    used = f"{_age(board.sent_at - one.used_at)} ago" if one.used_at else ""
    size = f"{one.planned_bytes / GB:.1f}" if one.state in IN_MEMORY else ""
    return _state(one, board), size, in_hand, used, escape(one.pin or "")


def _last(one: ModelOnBoard, board: BoardState) -> str:
    return f" ({_age(board.sent_at - one.used_at)} ago)" if one.used_at else ""


def _state(one: ModelOnBoard, board: BoardState) -> str:
    if one.state == LOADING:
        share, seconds = progress(one, board)
        part = "" if share is None else f" {100 * share:.0f} %"
        return f"[yellow]loading{part}, about {seconds:.0f} s[/yellow]"
    if one.state == BROKEN or one.retry_at > board.sent_at:
        state = "broken" if one.state == BROKEN and not one.is_passing else "not loaded"
        tried = f", failed {one.num_failures} times" if one.num_failures > 1 else ""
        again = _age(one.retry_at - board.sent_at)
        return f"[red]{state}: {escape(one.reason)}{tried}; again in {again}[/red]"
    return escape(one.state)


def _health(board: BoardState) -> str:
    words = ["[red]throttled[/red]"] if board.is_throttled else []
    if board.memory_pressure >= MIN_PRESSURE:
        words.append(f"[red]memory pressure {100 * board.memory_pressure:.0f} %[/red]")
    return ", ".join(words)


def _memory(board: BoardState) -> str:
    taken = sum(one.planned_bytes for one in board.models if one.state in IN_MEMORY)
    return f"{taken / GB:.1f}/{board.memory_bytes / GB:.1f}"


def _swaps(board: BoardState) -> str:
    failed = f", {board.num_failed_loads} failed" if board.num_failed_loads else ""
    return f"{board.num_swaps}, {_age(board.loading_seconds)}{failed}"


def _waited(board: BoardState) -> str:
    return f"{board.num_waited}, {_age(board.waited_seconds)}" if board.num_waited else ""


def _age(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`."""
    seconds = max(0.0, seconds)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.0f} h"
