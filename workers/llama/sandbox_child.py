"""What a stranger may have written is tried here, in a child process: chat templates, grammars, JSON schemas.

A template may loop for ever: here it may. The kernel ends this process when one has computed for too long, and the
parent (workers.prompts.sandbox) when an answer is late all the same. Requests and answers are JSON lines on stdin and
stdout. Grammars are tried in children of another (workers.llama.follower).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.llama.follower import Tables

MEMORY_BYTES = 2 * 1024 * 1024 * 1024


def be_first_to_go() -> None:
    """Where memory is short the kernel ends this process, and not the worker."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _render(request: dict[str, Any]) -> dict[str, Any]:
    from workers.llama.template import TemplateFailed, render

    try:
        return render(
            request["template"],
            request["messages"],
            bos_token=request["bos_token"],
            eos_token=request["eos_token"],
            exact=request["exact"],
        )
    except TemplateFailed as error:
        return {"error": str(error)}


def _grammar(request: dict[str, Any]) -> dict[str, Any]:
    """A grammar, or a schema's: made, compiled and followed for a while, as one may compile and then explode."""
    from workers.llama.follower import tried

    return tried(tables_of(request["model"]), request)


def tables_of(path: str) -> Tables:
    """The vocabulary of a model file, for grammars; the first call loads it."""
    from workers.llama.context import LlamaModel
    from workers.llama.follower import Tables

    global _model, _tables
    if _model is None or _tables is None:
        _model = LlamaModel(Path(path), vocab_only=True)
        _tables = Tables(_model.vocabulary)
    return _tables


_model: Any = None
_tables: Tables | None = None


def main() -> None:
    import workers.llama.template  # noqa: F401  (here, not in the first turn)

    be_first_to_go()
    # What llama.cpp and a template print must not mix with our answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]]
    operations = {"ready": lambda request: {}, "render": _render}
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request.get("seconds", 0))
        try:
            answer = operations[request["operation"]](request)
        except MemoryError:
            answer = {"error": "it takes too much memory"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
