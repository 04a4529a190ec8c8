from __future__ import annotations

import platform
import sys
from pathlib import Path

from tests.trees import record

if len(sys.argv) != 2:
    sys.exit("usage: python -m tests.trees FILE")
with Path(sys.argv[1]).open("w") as file:
    file.write(f"# Recorded on {platform.machine()}, Linux {platform.release()}\n")
    file.writelines(record(Path("/")))
