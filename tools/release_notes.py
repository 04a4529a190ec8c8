"""What CHANGELOG.md says of a version, for its release: tools/release_notes.py v0.1.0; exit code 1 without an entry."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def notes(tag: str) -> str:
    """The section's text without its heading; ValueError says what is not as it must be."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    if tag != f"v{version}":
        raise ValueError(f"the tag is {tag}, pyproject.toml says {version}")
    heading = re.compile(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text()
    if (found := heading.search(changelog)) is None:
        raise ValueError(f"CHANGELOG.md has no heading '## [{version}] - YYYY-MM-DD'")
    section = re.split(r"^(?:## |\[[^\]]+\]: )", changelog[found.end() :], maxsplit=1, flags=re.MULTILINE)[0].strip()
    if not section:
        raise ValueError(f"CHANGELOG.md says nothing of {version}")
    return section + "\n"


def main() -> int:
    """Prints the notes of the tag on the command line; the exit code."""
    try:
        sys.stdout.write(notes(sys.argv[1]))
    except (IndexError, ValueError) as error:
        sys.stderr.write(f"{error if sys.argv[1:] else 'usage: release_notes.py TAG'}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
