"""`python -m broker.points docs/telemetry.md`: renews that page's tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from broker.points.reference import renew

parser = argparse.ArgumentParser(prog="python -m broker.points", description="Renews the tables of measurements.")
parser.add_argument("page", type=Path, help="docs/telemetry.md")
renew(parser.parse_args().page)
