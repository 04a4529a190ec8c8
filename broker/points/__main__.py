"""`python -m broker.points docs/telemetry.md`: renews that page's tables."""

from __future__ import annotations

import sys
from pathlib import Path

from broker.points.reference import renew

renew(Path(sys.argv[1]))
