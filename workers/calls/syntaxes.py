"""The syntaxes that are known."""

from __future__ import annotations

from workers.calls.named_syntaxes import NAMED
from workers.calls.object_syntaxes import OBJECTS
from workers.calls.tagged_syntaxes import TAGGED

SYNTAXES = {syntax.name: syntax for syntax in (*OBJECTS, *NAMED, *TAGGED)}
"""By name."""
