"""`turnpike demo` with what people download."""

from __future__ import annotations

import re

import pytest

from tests.model.test_commands import run
from tests.real import GEMMA, QWEN, real_model


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [QWEN, GEMMA])
def test_the_demo_runs_a_real_model_and_shows_its_table(name: str) -> None:
    found = run("demo", "--model-file", str(real_model(name)), "--num-conversations", "1", "--max-tokens", "4")
    assert found.returncode == 0, found.stderr
    assert "rror" not in found.stderr
    said = re.sub(r"\s+", " ", found.stdout)
    turns = re.search(r"turns (\d+)", said)
    generated = re.search(r"generated tokens (\d+)", said)
    tokens = re.search(r"prompt tokens (\d+), (\d+) of them from the cache", said)
    assert turns is not None
    assert generated is not None
    assert tokens is not None
    assert int(turns[1]) >= 2
    assert int(turns[1]) <= int(generated[1]) <= 4 * int(turns[1])
    assert 0 < int(tokens[2]) < int(tokens[1])
    assert f"of {turns[1]} answers cut at --max-tokens 4" in said
    assert re.search(r"memory of the worker \d+ MiB", said)
