"""What `turnpike top` draws, at the width of a terminal that was not made wider for it."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from broker.discovery import AWAY_SECONDS, DRAINING, SERVING, Load, WorkerInfo
from producers.commands import top


def worker(name: str, state: str = SERVING, wait: float = 0.0) -> WorkerInfo:
    load = Load(16, 15, 10_000, wait, 12345.0, 1234.5, celsius=84.0, is_throttled=True, state=state)
    model = ("llama-3-2-1b-instruct", "Llama 3.2 1B Instruct", "Q4_K_M", 8192)
    return WorkerInfo(name, *model, "raspberry-pi-5-number-12", load)


def drawn(workers: list[WorkerInfo], width: int) -> str:
    queues = [top.Queued("llama-3-2-1b-instruct", {"interactive": 10_000, "batch": 9_999}, {"interactive": 31})]
    out = io.StringIO()
    Console(file=out, width=width).print(top._shown(top.Picture(workers, queues)))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_figure_is_cut_off(width: int) -> None:
    workers = [worker(f"raspberry-pi-5-number-12-{pid}") for pid in (123456, 234567)]
    text = drawn(workers, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for figure in ("10000", "9999", "12345", "1234.5", "15/16", "84", "prefill/s"):
        assert figure in text, figure


def test_a_worker_that_drains_is_shown_so_and_waited_for_by_nobody() -> None:
    text = drawn([worker("a", wait=7.5), worker("b", DRAINING, AWAY_SECONDS), worker("c", "[resting]", 1.0)], 160)
    assert "Q4_K_M draining" in text
    assert "Q4_K_M [resting]" in text  # a later release's word
    assert " 7.5 " in text
    assert "–" in drawn([worker("b", DRAINING, AWAY_SECONDS)], 160).splitlines()[4]
    assert "86400" not in drawn([worker("b", DRAINING, AWAY_SECONDS)], 160)


def test_what_a_worker_says_of_itself_is_no_markup() -> None:
    odd = msgspec.structs.replace(worker("a"), node="[/x]", quantization="[bold]Q4[/red]")
    text = drawn([odd], 160)
    assert "a, [/x]" in text
    assert "[bold]Q4[/red]" in text
