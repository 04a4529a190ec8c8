"""Hostile bytes through every door of a cluster of processes, a million of them by default.

    python -m tests.fuzz [COUNT] [SEED] [FOLDER]

The suite sends some thousands. Logs are kept in FOLDER; without one, in a temporary folder that goes when all was well.
"""

from __future__ import annotations

import asyncio
import sys

from tests.fuzz.siege import besiege
from tests.support import RunFolder, argument


def main() -> int:
    folder = RunFolder("fuzz", argument(3))
    account = asyncio.run(besiege(folder.path, int(argument(1) or 1_000_000), int(argument(2) or 0)))
    print(account)  # noqa: T201
    if account.unanswered or account.problems:
        print(f"unanswered: {account.unanswered[:20]}\nsee {folder.path}", file=sys.stderr)  # noqa: T201
        return 1
    folder.all_was_well()
    return 0


if __name__ == "__main__":
    sys.exit(main())
