"""What the container images install, as the part of requirements.lock that they need; `make lock` runs this.

.venv/bin/python tools/image_locks.py            # writes k3s/{base,worker,build}.lock
.venv/bin/python tools/image_locks.py --check    # ends with 1 and a sentence if they are out of date
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXTRAS: dict[str, tuple[str, ...]] = {
    "base": ("server", "hub", "http", "telemetry"),  # broker, producers, gateway, sidecar, mirror
    "worker": ("worker",),
    "build": ("build",),
}
"""An image's extras; all but `build`, which no image contains, have the base dependencies too."""
IMAGE = {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux", "python_version": "3.13"}


def locked() -> dict[str, str]:
    """requirements.lock's entries, each with its hashes, by canonical name."""
    entries: dict[str, str] = {}
    name = ""
    for line in (ROOT / "requirements.lock").read_text().splitlines(keepends=True):
        if not line.startswith((" ", "#")):
            name = canonicalize_name(line.partition("==")[0])
            entries[name] = ""
        entries[name] += line
    return entries


def closure(wanted: Iterable[str]) -> set[str]:
    """Canonical names of all that these requirements bring on Linux, as the installed packages say."""
    found: set[tuple[str, str]] = set()
    todo = [Requirement(text) for text in wanted]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in found:
                continue
            found.add((name, extra))
            for text in importlib.metadata.requires(name) or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({**IMAGE, "extra": extra}):
                    todo.append(needed)
    return {name for name, _ in found}


def lock(image: str) -> str:
    """The text of this image's lock file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [] if image == "build" else list(project["dependencies"])
    for extra in EXTRAS[image]:
        wanted += project["optional-dependencies"][extra]
    entries = locked()
    return "".join(entries[name] for name in sorted(closure(wanted)))


def main() -> int:
    """Writes what is out of date, or with --check only says so; the exit code."""
    parser = argparse.ArgumentParser(description="Writes k3s/*.lock from requirements.lock and pyproject.toml.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a file is out of date")
    is_check = parser.parse_args().check
    stale = [path for image in EXTRAS if (path := ROOT / f"k3s/{image}.lock").read_text() != lock(image)]
    for path in stale if not is_check else ():
        path.write_text(lock(path.stem))
    if is_check and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        print(f"out of date: {names}; renew with: .venv/bin/python tools/image_locks.py", file=sys.stderr)
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
