"""What a process has in memory is its own affair: other processes with the same libraries make it no less."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import pytest

from benchmarks.resident import resident

IDLE = "import asyncio, json, ssl; print(flush=True); input()"


def idle(stack: ExitStack) -> int:
    process = subprocess.Popen([sys.executable, "-c", IDLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stack.enter_context(process)
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    return process.pid


def test_libraries_count_whole_whoever_else_has_them() -> None:
    with ExitStack() as stack:
        pid = idle(stack)
        alone = resident(pid)
        for _ in range(3):
            idle(stack)
        assert resident(pid) == pytest.approx(alone, rel=0.01)
        assert alone[0] == 0
        assert alone[1] > 10e6
