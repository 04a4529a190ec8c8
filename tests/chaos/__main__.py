"""`make chaos`: the long form, with a report.

python -m tests.chaos [MINUTES] [SEED] [FOLDER]

What the parts wrote, the server's store among it, is kept in FOLDER; without one it is in a temporary folder that goes
unless a turn was lost, doubled or wrong.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import nullcontext

from tests.chaos.cable import WHY_NO_CABLES, can_lay_cables, lay_cable
from tests.chaos.harness import HEADER, Chaos
from tests.support import RunFolder, argument
from workers.llama.random_model import write_model


def main() -> int:
    folder = RunFolder("chaos", argument(3))
    model = write_model(folder.path / "tiny.gguf", "tiny", "Q8_0")
    with lay_cable() if can_lay_cables() else nullcontext() as cable:
        if cable is None:
            print(f"no link is cut: {WHY_NO_CABLES}", file=sys.stderr)  # noqa: T201
        run = Chaos(folder.path, model, int(argument(2) or 1), cable).run(60 * float(argument(1) or 20))
        account = asyncio.run(run)
    print(f"{HEADER}\n{account.markdown()}")  # noqa: T201
    failed = {"lost": account.lost, "doubled": account.doubled, "wrong": account.wrong}
    if any(failed.values()):
        print(f"{json.dumps(failed)}\nsee {folder.path}", file=sys.stderr)  # noqa: T201
        return 1
    folder.all_was_well()
    return 0


if __name__ == "__main__":
    sys.exit(main())
