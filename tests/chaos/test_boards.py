"""The short form; `make chaos` and `make chaos-boards` run the long ones."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.chaos.board_logs import KILLED, Loads, loads_of
from tests.chaos.boards import BoardsChaos
from tests.chaos.cable import can_lay_cables, lay_cable
from tests.chaos.scale import Scale, models_in

SHORT = Scale(num_boards=2, num_models=4, num_turns=16, turns_per_second=4.0, between=(0.5, 2.0), max_away_seconds=2.0)


@pytest.mark.timeout(300)
async def test_no_turn_is_lost_doubled_or_wrong_while_boards_swap_models_and_break(
    tmp_path: Path, model_dir: Path
) -> None:
    models = models_in(model_dir, SHORT.num_models, real=None)
    with lay_cable() if can_lay_cables() else nullcontext() as cable:
        account = await BoardsChaos(tmp_path, models, SHORT, 1, cable).run()
    print(account.markdown(), account.told())  # noqa: T201
    assert account.failures == {}
    assert account.num_done + account.failed.total() == account.num_acknowledged > 10
    assert account.loads.num_loads > SHORT.num_models
    assert sum(account.faults.values()) > 1


def test_loads_are_read_from_the_logs_of_boards(tmp_path: Path) -> None:
    one, other = tmp_path / "b0.log", tmp_path / "b1.log"
    one.write_text(
        "10:00:00 I workers.boards.supervisor unloading model=b why=waiting for=a\n"
        "10:00:01 I workers.boards.supervisor unloading model=c why=idle for=None\n"
        "10:00:02 I workers.boards.supervisor loading model=a copy=0 why=waiting planned_bytes=5\n"
        "a | 10:00:03 I workers.boards.supervisor serving model=a pid=7\n"
        "10:00:09 I workers.boards.supervisor serving model=a pid=7 load_seconds=7.0\n"
        "23:59:59 I workers.boards.supervisor loading model=b copy=0 why=waiting planned_bytes=5\n"
        f"00:00:01 I run {KILLED}\n"
    )
    other.write_text(
        "10:00:04 I workers.boards.supervisor loading model=a copy=1 why=copy planned_bytes=5\n"
        "10:00:05 I workers.boards.supervisor serving model=a pid=8 load_seconds=1.0\n"
        "10:00:06 I workers.boards.supervisor loading model=a copy=0 why=overdue planned_bytes=5\n"
        "10:00:08 E workers.boards.supervisor ! a: its worker was ended by SIGKILL: x; tried again in 10 s\n"
    )
    assert loads_of([one, other]) == Loads(num_loads=4, num_swaps=1, longest_double=2.0)
