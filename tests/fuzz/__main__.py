"""Hostile bytes through every door of a cluster of processes, a million of them by default.

    python -m tests.fuzz [COUNT] [SEED] [FOLDER]

The suite sends some thousands. Logs are kept in FOLDER; without one, in a temporary folder that goes when all was well.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz.siege import besiege


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    kept = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    folder = kept or Path(tempfile.mkdtemp(prefix="turnpike-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    account = asyncio.run(besiege(folder, count, seed))
    print(account)  # noqa: T201
    if account.unanswered or account.problems:
        print(f"unanswered: {account.unanswered[:20]}\nsee {folder}", file=sys.stderr)  # noqa: T201
        return 1
    if kept is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
