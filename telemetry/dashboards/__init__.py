"""What Grafana shows and watches for, as data: a file a dashboard. `telemetry.grafana` makes Grafana's files of it."""

from __future__ import annotations

from telemetry.dashboards.alerts import ALERTS, ANNOTATIONS, Alert
from telemetry.dashboards.boards import BOARDS
from telemetry.dashboards.cluster import CLUSTER
from telemetry.dashboards.experiment import EXPERIMENT
from telemetry.dashboards.model import MODEL
from telemetry.dashboards.node import NODE
from telemetry.dashboards.parts import Page, Panel, Query

__all__ = ["ALERTS", "ANNOTATIONS", "PAGES", "Alert", "Page", "Panel", "Query"]

PAGES = (CLUSTER, BOARDS, MODEL, NODE, EXPERIMENT)
