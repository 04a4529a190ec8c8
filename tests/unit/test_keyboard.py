"""What is typed, where nothing can be."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from producers.terminal.keyboard import Keyboard


async def nothing_is_typed() -> None:
    keyboard = Keyboard()
    async with asyncio.timeout(10):
        assert await keyboard.lines.get() is None
    assert keyboard.ended.is_set()
    assert not keyboard.is_a_terminal


async def test_an_input_that_was_closed_from_the_start_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    await nothing_is_typed()


async def test_an_input_that_cannot_be_read_has_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as file:
        monkeypatch.setattr(sys, "stdin", file)
        await nothing_is_typed()
