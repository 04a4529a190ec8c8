"""`make chaos`: the long form, with a report.

python -m tests.chaos [MINUTES] [SEED] [FOLDER]

What the parts wrote, the server's store among it, is kept in FOLDER; without one it is in a temporary folder that goes
unless a turn was lost, doubled or wrong.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from tests.chaos.cable import WHY_NO_CABLES, can_lay_cables, lay_cable
from tests.chaos.harness import HEADER, Chaos
from workers.llama.random_model import write_model


def main() -> int:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    kept = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    folder = kept or Path(tempfile.mkdtemp(prefix="turnpike-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    model = write_model(folder / "tiny.gguf", "tiny", "Q8_0")
    with lay_cable() if can_lay_cables() else nullcontext() as cable:
        if cable is None:
            print(f"no link is cut: {WHY_NO_CABLES}", file=sys.stderr)  # noqa: T201
        account = asyncio.run(Chaos(folder, model, seed, cable).run(minutes * 60))
    print(f"{HEADER}\n{account.markdown()}")  # noqa: T201
    failed = {"lost": account.lost, "doubled": account.doubled, "wrong": account.wrong}
    if any(failed.values()):
        print(f"{json.dumps(failed)}\nsee {folder}", file=sys.stderr)  # noqa: T201
        return 1
    if kept is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
