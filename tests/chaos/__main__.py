"""`make chaos`: the long form, with a report.

python -m tests.chaos [MINUTES] [SEED]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.chaos.harness import HEADER, Chaos
from workers.llama.random_model import write_model


def main() -> int:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory(prefix="turnpike-chaos-") as folder:
        model = write_model(Path(folder) / "tiny.gguf", "tiny", "Q8_0")
        account = asyncio.run(Chaos(Path(folder), model, seed).run(minutes * 60))
    print(f"{HEADER}\n{account.markdown()}")  # noqa: T201
    return 1 if account.lost or account.doubled or account.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
