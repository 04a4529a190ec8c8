"""`turnpike worker`, with the instant of each token's choice written to a file at its end: TRACE worker FLAGS…"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from turnpike.cli.main import main as run
from workers.engine.outputs import Outputs


def main() -> int:
    trace = Path(sys.argv.pop(1))
    chosen: list[float] = []
    emit = Outputs._emit

    def traced(*arguments: Any) -> None:
        if arguments[3]:
            chosen.append(time.perf_counter())
        emit(*arguments)

    setattr(Outputs, "_emit", traced)  # noqa: B010  (mypy will not have a method assigned)
    code = run()
    trace.write_text("\n".join(map(repr, chosen)))
    return code


if __name__ == "__main__":
    sys.exit(main())
