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
    except ModuleNotFoundError as error:
        from broker.extras import explained

        if (missing := explained(error)) is None:
            raise
        return _told(missing)
    except BrokenPipeError:
        from broker.process import EXIT_ERROR

        return EXIT_ERROR  # who read our output has seen enough
    except KeyboardInterrupt:  # of a command that computes and no more
        from broker.process import EXIT_INTERRUPTED

        return EXIT_INTERRUPTED
    except (TurnpikeError, OSError) as error:
        return _told(error)


def _told(error: TurnpikeError | OSError) -> int:
    """The code of an error that is a sentence on stderr by then."""
    from broker.process import EXIT_ERROR, EXIT_USAGE, report

    report(error)
    return EXIT_USAGE if isinstance(error, SettingsError) else EXIT_ERROR


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
