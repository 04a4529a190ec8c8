"""What `turnpike top` draws, at the width of a terminal that was not made wider for it."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from broker.discovery import AWAY_SECONDS, DRAINING, SERVING, Load, WorkerInfo
from producers.commands import top
from tests.boards import NOW, board, loading, on_board


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


# --- Boards ---


BOARDS = (
    board(
        "pi-1",
        on_board("llama", "serving", num_in_hand=1, num_slots=4, used_at=NOW - 30, pin="always"),
        loading("qwen", 0.4, 8.0),
        on_board("gemma"),
        on_board("phi", used_at=NOW - 600),
        num_swaps=3,
        loading_seconds=250.0,
        num_waited=17,
        waited_seconds=300.0,
        num_failed_loads=1,
    ),
    board(
        "pi-2",
        on_board("bad", "broken", reason="[/x] is cut off", retry_at=NOW + 45),
        on_board("dead", "broken", reason="its worker was killed", retry_at=NOW + 4, num_failures=3, is_passing=True),
        on_board("qwen", pin="never"),
        is_throttled=True,
        memory_pressure=0.25,
    ),
)


def shown(picture: top.Picture, width: int = 160) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(top._shown(picture))
    return out.getvalue()


def test_boards_are_shown_with_their_models() -> None:
    lines = [" ".join(line.split()) for line in shown(top.Picture([], [], BOARDS)).splitlines()]
    for line in (
        "pi-1 2.0/4.0 3, 4 min, 1 failed 17, 5 min",
        "llama serving 1.0 1/4 30 s ago always",
        "qwen loading 40 %, about 12 s 1.0",
        "gemma, phi (10 min ago) available",
        "pi-2 throttled, memory pressure 25 % 0.0/4.0 0, 0 s",
        "bad broken: [/x] is cut off; again in 45 s",
        "dead not loaded: its worker was killed, failed 3 times; again in 4 s",
        "qwen available never",
    ):
        assert line in lines, line


@pytest.mark.parametrize("width", [80, 100])
def test_boards_fit_a_narrow_terminal(width: int) -> None:
    text = shown(top.Picture([], [], BOARDS), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_a_queue_whose_model_a_board_loads_says_so() -> None:
    queues = [top.Queued(model, {"interactive": 2}, {}) for model in ("qwen", "gemma", "bad", "nobody")]

    def lines_of(picture: top.Picture) -> dict[str, str]:
        found = [" ".join(line.replace("│", " ").split()) for line in shown(picture).splitlines() if line.strip()]
        return {line.split()[0]: line for line in reversed(found)}

    assert lines_of(top.Picture([], queues))["qwen"] == "qwen none 0 2 0 0 –", "without boards as ever"
    lines = lines_of(top.Picture([], queues, BOARDS))
    assert lines["nobody"] == "nobody none 0 2 0 0 –"
    assert "loading 40 %, about 12 s 0 2 0 0 12.0" in lines["qwen"]
    assert "not loaded yet, about 12 s" in lines["gemma"]
    assert "cannot be loaded: [/x] is cut off" in lines["bad"]
