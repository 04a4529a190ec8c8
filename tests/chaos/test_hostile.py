"""The short form; `make hostile` runs the long one, which also tells how long the silences were."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.hostile import Siege


@pytest.mark.timeout(300)
async def test_everybody_elses_turns_end_while_one_client_is_hostile(tmp_path: Path) -> None:
    peace, siege, problems = await Siege(tmp_path, 1).run(5, 15)
    print(f"in peace: {peace}\nbesieged: {siege}")  # noqa: T201
    assert (siege.lost, siege.wrong, problems) == ([], [], [])
    assert siege.num_turns > 10
    assert siege.attacks.total() > 10
