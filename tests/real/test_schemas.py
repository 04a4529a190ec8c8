"""Answers of a real model by JSON schemas of many kinds are valid; `python -m tests.real.schemas` asks for 200."""

from __future__ import annotations

from pathlib import Path

from tests.real import QWEN
from tests.real.schemas import AT_ONCE, SCHEMAS, UNBOUNDED, ask_all, cases
from tests.real.serving import served

NUM_ASKED = 20


async def test_answers_of_a_real_model_are_valid_by_their_schemas(tmp_path: Path) -> None:
    bounded = [case for case in cases() if case[0] not in UNBOUNDED]
    chosen = [case for index, case in enumerate(bounded) if index % 7 == 3][:NUM_ASKED]
    assert len({name for name, *_ in chosen}) > len(SCHEMAS) // 2
    assert {temperature for _, _, temperature, _ in chosen} == {0.0, 1.0}
    flags = ["--num-slots", str(AT_ONCE), "--num-ctx", str(AT_ONCE * 1024), "--threads", "2"]
    async with served(QWEN, tmp_path, *flags) as found:
        answers = await ask_all(found.client, chosen)
    assert [(one.name, one.verdict, one.text) for one in answers if one.verdict != "valid"] == []
