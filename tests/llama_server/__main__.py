"""`make llama-server-tests`: runs the suite and tells what became of each test. Arguments are pytest's, as
`-k tokenize`; `--docs` writes docs/llama-server-tests.md of a whole run.

What fails and is not among the known is a mistake, and so is a known one that passes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.llama_server import source
from tests.llama_server.account import Account, page
from tests.llama_server.verdicts import Verdicts
from tests.support import ROOT

PAGE = ROOT / "docs" / "llama-server-tests.md"
SECONDS = 300
"""For a test: some fetch a model of their own otherwise."""


def run(arguments: list[str], outcomes: Path) -> None:
    """The suite, as it is, with what it starts replaced."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.llama_server.plugin", "-p", "no:cacheprovider", "-q"]
    command += ["--tb=short", "-W", "ignore", "-o", f"timeout={SECONDS}", "-o", "markers=slow serial"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "SLOW_TESTS": "1"}
    env["TP_LLAMA_SERVER_OUTCOMES"] = str(outcomes)
    subprocess.run([*command, *(arguments or ["unit"])], cwd=source.tests(), env=env, check=False)


def main(arguments: list[str]) -> int:
    """0 where all is as it is known to be."""
    wants_page = "--docs" in arguments
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder, "outcomes.jsonl")
        run([one for one in arguments if one != "--docs"], outcomes)
        account = Account.read(outcomes, Verdicts.read())
    print(account.told())  # noqa: T201
    if wants_page:
        PAGE.write_text(page(account))
    return 1 if account.surprises else 0


sys.exit(main(sys.argv[1:]))
