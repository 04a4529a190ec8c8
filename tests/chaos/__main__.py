"""`make chaos`: the long form, with a report.

python -m tests.chaos [MINUTES] [SEED] [FOLDER] [MODEL]

What the parts wrote, the server's store among it, is kept in FOLDER; without one it is in a temporary folder that goes
unless a turn was lost, doubled or wrong. MODEL is a GGUF file, for questions and answers of a real model's length, and
faults as rare; without one it is a small model with random weights.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import nullcontext
from pathlib import Path

from tests.chaos.account import HEADER
from tests.chaos.cable import WHY_NO_CABLES, can_lay_cables, lay_cable
from tests.chaos.harness import Chaos
from tests.support import RunFolder, argument
from workers.llama.random_model import write_model


def main() -> int:
    folder = RunFolder("chaos", argument(3))
    given = argument(4)
    model = Path(given) if given else write_model(folder.path / "tiny.gguf", "tiny", "Q8_0")
    between = (5.0, 15.0) if given else (0.5, 4.0)
    with lay_cable() if can_lay_cables() else nullcontext() as cable:
        if cable is None:
            print(f"no link is cut: {WHY_NO_CABLES}", file=sys.stderr)  # noqa: T201
        chaos = Chaos(folder.path, model, int(argument(2) or 1), cable, size="real" if given else "small")
        account = asyncio.run(chaos.run(60 * float(argument(1) or 20), between))
    print(f"{HEADER}\n{account.markdown()}")  # noqa: T201
    failed = {"lost": account.lost, "doubled": account.doubled, "wrong": account.wrong}
    if any(failed.values()):
        print(f"{json.dumps(failed)}\nsee {folder.path}", file=sys.stderr)  # noqa: T201
        return 1
    folder.all_was_well()
    return 0


if __name__ == "__main__":
    sys.exit(main())
