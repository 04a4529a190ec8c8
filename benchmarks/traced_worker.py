"""`turnpike worker`, with the instant of each token's choice written to a file at its end: TRACE worker FLAGS…"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import turnpike
from workers.loop import EngineLoop


def main() -> int:
    trace = Path(sys.argv.pop(1))
    chosen: list[float] = []
    tell = EngineLoop._tell

    def traced(*arguments: object) -> None:
        if arguments[3]:
            chosen.append(time.perf_counter())
        tell(*arguments)  # type: ignore[arg-type]

    EngineLoop._tell = traced  # type: ignore[method-assign]
    code = turnpike.main()
    trace.write_text("\n".join(map(repr, chosen)))
    return code


if __name__ == "__main__":
    sys.exit(main())
