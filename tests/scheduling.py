"""Which tests run beside which, where pytest-xdist runs them in several processes (`-n`)."""

from __future__ import annotations

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling

TOGETHER = {"model": "model and chaos", "chaos": "model and chaos", "real": "real"}
"""Folders whose tests keep the cores busy: each of two processes has some of them, to run one after the other."""


class ByFolder(LoadScopeScheduling):
    """Two processes begin with what computes, the others with what mostly waits; whoever is done takes of what is left.
    A unit test's file stays together, as its fixtures are the file's."""

    def _split_scope(self, nodeid: str) -> str:
        path = PurePosixPath(nodeid.partition("::")[0])
        folder = path.parent.name
        return TOGETHER.get(folder) or (str(path) if folder == "unit" else nodeid)
