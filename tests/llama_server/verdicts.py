"""Which of llama-server's tests do not apply here, and why; which need a server that remembers nothing."""

from __future__ import annotations

import fnmatch
import tomllib
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "verdicts.toml"


def test_id(nodeid: str) -> str:
    """`test_basic.py::test_no_ui`, wherever pytest was started."""
    return nodeid.removeprefix("unit/")


test_id.__test__ = False  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Verdicts:
    """Patterns of test ids, with reasons."""

    not_ours: dict[str, str]
    """Do not apply."""
    not_passed: dict[str, str]
    """Apply, and are known not to pass."""
    fresh: tuple[str, ...]

    @classmethod
    def read(cls, path: Path = FILE) -> Verdicts:
        found = tomllib.loads(path.read_text())
        not_ours, not_passed = (
            {one: reason for reason, tests in found[name].items() for one in tests}
            for name in ("not_ours", "not_passed")
        )
        return cls(not_ours, not_passed, tuple(found["fresh"]))

    def why_not(self, test: str) -> str | None:
        """Why it does not apply; None where it does."""
        return next((reason for one, reason in self.not_ours.items() if _matches(test, one)), None)

    def known(self, test: str) -> str | None:
        """Why it does not pass; None where it should."""
        return next((reason for one, reason in self.not_passed.items() if _matches(test, one)), None)

    def is_fresh(self, test: str) -> bool:
        """Whether it needs a server that remembers nothing."""
        return any(_matches(test, one) for one in self.fresh)


def _matches(test: str, pattern: str) -> bool:
    """`*` is any text; brackets are the parameters' own."""
    return fnmatch.fnmatchcase(test, pattern.replace("[", "[[]"))
