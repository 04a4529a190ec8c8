"""What a worker must be able to do for a turn, beyond what every release could. Pure."""

from __future__ import annotations

from broker.discovery import ECHO, INFILL, PENALTIES, PREFILL, PROMPT, TOKENS
from producers.gateway.dialect import Asked

_OPTIONS = {"suffix": INFILL, "prompt": TOKENS, "echo": ECHO}
"""Of a turn, and what it takes to know them."""


def abilities_for(asked: Asked) -> frozenset[str]:
    """In the words of `broker/discovery.py`."""
    sampling, found = asked.sampling, set(asked.can)
    if sampling.presence_penalty or sampling.frequency_penalty or sampling.logit_bias:
        found.add(PENALTIES)
    if asked.history and asked.history[-1].role in ("assistant", "system"):
        found.add(PREFILL)
    found |= {ability for option, ability in _OPTIONS.items() if asked.more.get(option)}
    if asked.more.get("kind") == "prompt":
        found.add(PROMPT)
    return frozenset(found)
