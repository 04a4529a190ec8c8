"""The short form; `make chaos` runs the long one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.chaos.cable import can_lay_cables, lay_cable
from tests.chaos.harness import Chaos
from workers.llama.random_model import write_model


@pytest.mark.timeout(300)
async def test_no_turn_is_lost_doubled_or_wrong_while_things_break(tmp_path: Path, model_dir: Path) -> None:
    model = write_model(model_dir / "tiny.gguf", "tiny", "Q8_0")
    with lay_cable() if can_lay_cables() else nullcontext() as cable:
        account = await Chaos(tmp_path, model, 1, cable, max_cut_seconds=12).run(60)
    print(account.markdown())  # noqa: T201
    assert (account.lost, account.doubled, account.wrong) == ([], [], [])
    assert account.num_acknowledged > 10
    assert account.num_done + account.failed.total() == account.num_acknowledged
    assert sum(account.faults.values()) > 8
