"""The command's beginning and end: what was typed is read, a command runs, and errors become sentences and codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from broker.errors import SettingsError, TurnpikeError
from turnpike.cli.reading import read
from turnpike.cli.tree import TURNPIKE


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command that the words name, those of the process by default; its exit code."""
    try:
        return _run(sys.argv[1:] if words is None else words)
    except TurnpikeError as error:
        from broker.process import EXIT_ERROR, EXIT_USAGE, report

        report(error)
        return EXIT_USAGE if isinstance(error, SettingsError) else EXIT_ERROR
    except ModuleNotFoundError as error:
        from broker.extras import explained
        from broker.process import EXIT_ERROR, report

        if (missing := explained(error)) is None:
            raise
        report(missing)
        return EXIT_ERROR
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:  # of a command that computes and no more
        return 130
    except OSError as error:
        from broker.process import EXIT_ERROR, report

        report(error)
        return EXIT_ERROR


def _run(words: Sequence[str]) -> int:
    command, said = read(TURNPIKE, words)
    if command.start is not None:
        return command.start(said)
    if said.flags.get("version"):
        from turnpike.cli.addresses import version

        print(f"turnpike {version()}")
        return 0
    more = f"{said.path} " if said.path else ""
    names = ", ".join(one.name for one in command.commands)
    raise SettingsError([*said.problems, f"which command? `turnpike {more}--help` explains {names}"])
