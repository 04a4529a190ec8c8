"""The short form; `python -m tests.fuzz` sends a million."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.siege import besiege


@pytest.mark.timeout(300)
async def test_no_input_by_any_door_ends_a_process_or_leaves_a_turn_unanswered(tmp_path: Path) -> None:
    account = await besiege(tmp_path, 4000, seed=1)
    assert (account.unanswered, account.problems) == ([], []), account
    assert account.num_acknowledged > 60
    assert account.counts["discovery"] > 20
    assert account.counts["HTTP"] > 30
