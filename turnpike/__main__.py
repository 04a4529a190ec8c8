"""`python -m turnpike`, and `python FOLDER/turnpike` wherever it was not installed."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    if not __package__:
        # Run by its path: Python has put this folder where the packages beside it should be found.
        sys.path[0] = os.path.dirname(here)
    sys.argv[0] = here  # as locks and systemd units name this command

    from turnpike.cli.main import main

    sys.exit(main())
