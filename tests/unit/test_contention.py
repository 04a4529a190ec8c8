"""What the kernel tells a thread of the time that it had to wait for its core."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from subprocess import Popen

import pytest

from workers.machine import contention
from workers.machine.contention import CpuTime, cpu_time

SECONDS = 30
ON_CORE = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile os.getppid() == int(sys.argv[2]): pass"
NEEDS_ACCOUNT = pytest.mark.skipif(not contention.ACCOUNT.exists(), reason="this kernel keeps no account of threads")


def compute_on(core: int, found: list[CpuTime]) -> None:
    """Until the thread had to wait as often as not, or the time is up."""
    os.sched_setaffinity(threading.get_native_id(), {core})
    before, until = cpu_time(), time.monotonic() + SECONDS
    while time.monotonic() < until:
        took = cpu_time() - before
        if took.ran > 0.05 and took.waited_share > 0.4:
            break
    found.append(took)


@NEEDS_ACCOUNT
def test_a_thread_beside_another_sessions_on_its_core_waits_half_of_the_time() -> None:
    core, found = min(os.sched_getaffinity(0)), list[CpuTime]()
    with Popen([sys.executable, "-c", ON_CORE, str(core), str(os.getpid())], start_new_session=True) as other:
        thread = threading.Thread(target=compute_on, args=(core, found))
        thread.start()
        thread.join()
        other.kill()
    assert found[0].waited_share > 0.4


def test_where_the_kernel_keeps_no_account_nothing_was_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(contention, "ACCOUNT", tmp_path / "none")
    assert cpu_time() == CpuTime(0, 0)
    assert (cpu_time() - cpu_time()).waited_share == 0
