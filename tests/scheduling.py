"""Which tests run beside which, where pytest-xdist runs them in several processes (`-n`)."""

from __future__ import annotations

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling

TOGETHER = {"model": "model and chaos", "chaos": "model and chaos", "real": "real"}
"""Folders whose tests keep the cores busy: each of two processes has some of them, to run one after the other."""
FIXTURE_OF_FILE = ("test_wheel", "test_page")
"""How files of tests/integration begin whose tests share what is made once a process."""


class ByFolder(LoadScopeScheduling):
    """Two processes begin with what computes, the others with what mostly waits; whoever is done takes of what is left.
    A file stays together where its fixtures are the file's, as those of unit tests are."""

    def _split_scope(self, nodeid: str) -> str:
        path = PurePosixPath(nodeid.partition("::")[0])
        folder = path.parent.name
        is_one = folder == "unit" or path.name.startswith(FIXTURE_OF_FILE)
        return TOGETHER.get(folder) or (str(path) if is_one else nodeid)
