"""`turnpike demo --boards`: a board swaps two models, and a conversation goes on after that."""

from __future__ import annotations

import json
from pathlib import Path

from tests.model.test_commands import run


def test_a_board_swaps_two_models_and_keeps_their_conversations(tmp_path: Path) -> None:
    found = run("demo", "--boards", "--json", environment={"TMPDIR": str(tmp_path)})
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    first, other, again = told["turns"]
    assert first["model"] == again["model"] != other["model"]
    assert told["num_swaps"] == 2, "there is room for one of the two"
    assert told["loading_seconds"] > 0
    assert all(turn["wait_seconds"] > 0 and turn["answered"] for turn in told["turns"])
    assert "Torvik" in again["answered"]
    assert again["cached_in"] == "board"
    assert again["cached_tokens"] >= first["prompt_tokens"]
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_boards_demo_has_a_server_of_its_own() -> None:
    found = run("demo", "--boards", "--gateway")
    assert found.returncode == 2
    assert "--boards: has a server of its own, and no --gateway" in found.stderr
