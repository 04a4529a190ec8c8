"""Answers of a real model by JSON schemas of many kinds are valid; `python -m tests.real.schemas` asks for 200."""

from __future__ import annotations

import pytest

from producers.local_system import LocalSystem
from tests.real import QWEN
from tests.real.schemas import SCHEMAS, UNBOUNDED, ask_all, cases

NUM_ASKED = 14


@pytest.mark.timeout(300)
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("system", [QWEN], indirect=True)
async def test_answers_of_a_real_model_are_valid_by_their_schemas(system: LocalSystem) -> None:
    bounded = [case for case in cases() if case[0] not in UNBOUNDED]
    chosen = [case for index, case in enumerate(bounded) if index % 7 == 3][:NUM_ASKED]
    assert len({name for name, *_ in chosen}) > len(SCHEMAS) // 2
    assert {temperature for _, _, temperature, _ in chosen} == {0.0, 1.0}
    answers = await ask_all(system.client, chosen)
    assert [(one.name, one.verdict, one.text) for one in answers if one.verdict != "valid"] == []
