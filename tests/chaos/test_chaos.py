"""The short form; `make chaos` runs the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.harness import Chaos
from workers.llama.random_model import write_model


@pytest.mark.timeout(300)
async def test_no_turn_is_lost_doubled_or_wrong_while_things_break(tmp_path: Path, model_dir: Path) -> None:
    model = write_model(model_dir / "tiny.gguf", "tiny", "Q8_0")
    account = await Chaos(tmp_path, model, seed=1).run(60)
    print(account.markdown())  # noqa: T201
    assert (account.lost, account.doubled, account.wrong) == ([], [], [])
    assert account.num_acknowledged > 10
    assert account.num_done + account.failed.total() == account.num_acknowledged
    assert sum(account.faults.values()) > 8
