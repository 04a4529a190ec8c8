"""What a gateway counts."""

from __future__ import annotations

from broker.points.measurement import Measurement, text

ROUTE = Measurement(
    "route",
    "A turn that a gateway found a model for",
    ("node", "policy", "model"),
    {"reason": text("by what the policy chose, and which others had nothing")},
)
