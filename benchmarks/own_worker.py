"""`turnpike worker` put together otherwise: for measuring what one of its parts costs, or when it does what."""

from __future__ import annotations

import sys

from broker import process
from broker.accounts import WORKER
from turnpike.cli.addresses import address, version
from turnpike.cli.reading import read
from turnpike.cli.tree import TURNPIKE
from workers.assembly import Assembly
from workers.boards.settings import WorkersSettings
from workers.main import serve


def run(assembly: Assembly) -> int:
    """Serves as the command line says, which begins with `worker`; the process's exit code."""
    _, said = read(TURNPIKE, sys.argv[1:])
    options = said.load(WorkersSettings).one()
    return process.run(lambda stop: serve(address(options, WORKER), options, version(), stop, assembly=assembly))
