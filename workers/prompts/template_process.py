"""The child process in which chat templates are rendered: `python -m workers.prompts.template_process SECONDS`.

Requests and answers are JSON lines on stdin and stdout. The kernel ends this process when one request has computed for
SECONDS, and the parent (workers.prompts.renderer) when an answer is late all the same.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

from workers.prompts.template import TemplateFailed, render
from workers.sandbox import be_first_to_go

MEMORY_BYTES = 2 * 1024 * 1024 * 1024


def _render(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return render(
            request["template"],
            request["messages"],
            bos_token=request["bos_token"],
            eos_token=request["eos_token"],
            exact=request["exact"],
            system_role=request["system_role"],
            date=request["date"],
            kwargs=request["kwargs"],
            tools=request["tools"],
            takes_tools=request["takes_tools"],
        )
    except TemplateFailed as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "it takes too much memory"}


def main() -> None:
    """Answers each line until stdin ends."""
    be_first_to_go()
    seconds = float(sys.argv[1])
    # What a template prints must not mix with our answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]]
    operations = {"ready": lambda request: {}, "render": _render}
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = operations[request["operation"]](request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
