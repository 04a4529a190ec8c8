"""What a worker must be able to do for a turn, beyond what every release could: told by the turn itself. Pure."""

from __future__ import annotations

from broker.discovery import ECHO, EMBED, INFILL, PENALTIES, PREFILL, PROGRESS, PROMPT, TOKENS
from producers.gateway.dialect import Asked

_OPTIONS = {"suffix": INFILL, "prompt": TOKENS, "echo": ECHO, "progress": PROGRESS}
"""Of a turn, and what it takes to know them."""
_KINDS = {"prompt": PROMPT, "embed": EMBED}
"""Of turns."""


def abilities_for(asked: Asked) -> frozenset[str]:
    """In the words of `broker/discovery.py`."""
    sampling, more = asked.sampling, asked.more
    found = {ability for option, ability in _OPTIONS.items() if more.get(option) not in (None, False, ())}
    found |= {ability for kind, ability in _KINDS.items() if more.get("kind") == kind}
    if sampling.presence_penalty or sampling.frequency_penalty or sampling.logit_bias:
        found.add(PENALTIES)
    if asked.history and asked.history[-1].role in ("assistant", "system"):
        found.add(PREFILL)
    return frozenset(found)
