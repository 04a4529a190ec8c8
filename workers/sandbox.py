"""What strangers write runs in child processes that may die of it; this is what the two kinds of them share.

Chat templates: `workers.prompts.renderer` starts one child (`workers.prompts.template_process`) and asks it one thing
at a time. Grammars and JSON schemas: `workers.grammars.remote_matcher` starts a process that has the vocabulary
(`workers.llama.matcher_process`), which forks a child for each grammar; `workers.grammars.checker` has them tried
there. In both, the kernel counts the computing time and ends a child that has used up its own; a parent does not wait
for longer than LATE_SECONDS.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import OrderedDict
from pathlib import Path

from broker.errors import TurnRejected

LATE_SECONDS = 60.0
"""How long a parent waits for an answer, by the clock: where a machine is busy a child is late."""
REMEMBERED_SECONDS = 60.0
MAX_REMEMBERED = 512


def be_first_to_go() -> None:
    """Where memory is short the kernel ends the process that called this, and not the worker."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def digest(request: bytes) -> str:
    """What a request is remembered by."""
    return hashlib.sha256(request).hexdigest()


class Refusals:
    """What was refused lately: the same request again is refused without being tried. From one thread."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[float, TurnRejected]] = OrderedDict()

    def check(self, key: str) -> None:
        """Raises the TurnRejected of this key, if it is remembered."""
        until, error = self._known.get(key, (0.0, None))
        if error is not None and time.monotonic() < until:
            raise TurnRejected(error.code, error.detail)

    def note(self, key: str, error: TurnRejected) -> None:
        """Remembers a refusal for REMEMBERED_SECONDS; not one that may pass by itself."""
        if error.retryable:
            return
        while len(self._known) >= MAX_REMEMBERED:
            self._known.popitem(last=False)
        self._known[key] = (time.monotonic() + REMEMBERED_SECONDS, error)
