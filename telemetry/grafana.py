"""Grafana's files to be provisioned: dashboards, alert rules, data source. The only importer of Grafana's SDK.

python -m telemetry.grafana k3s/dashboards
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

from broker.points import Measurement
from telemetry.dashboards import ALERTS, ANNOTATIONS, PAGES, Alert, Page, Panel

DATASOURCE = "turnpike-influxdb"
WIDTH = 24
HEIGHT = 8
STAT_HEIGHT = 4
TOKENS_PER_SECOND = "tokens/s"
ALERT_WINDOW_SECONDS = 600
_SOURCE = models.DataSourceRef(type_val="influxdb", uid=DATASOURCE)


class InfluxQuery(Dataquery, Builder[Dataquery]):
    """A target in InfluxQL; its builder too, as there is nothing to build."""

    def __init__(self, query: str, alias: str = "", form: str = "time_series", ref_id: str = "A") -> None:
        self.fields = {"refId": ref_id, "rawQuery": True, "query": query, "resultFormat": form, "datasource": _SOURCE}
        if alias:
            self.fields["alias"] = alias

    def build(self) -> InfluxQuery:
        """Itself."""
        return self

    def to_json(self) -> dict[str, object]:
        """As it stands in a dashboard's `targets`."""
        return self.fields


def _filters(page: Page, measurement: Measurement) -> str:
    """A dashboard's variables, where the measurement has such a tag."""
    return " AND ".join(f'"{name}" =~ /^${name}$/' for name, _ in page.variables if name in measurement.tags)


def _thresholds(steps: Sequence[tuple[float, str]]) -> dashboard.ThresholdsConfig:
    # Grafana's first step has no value: it reaches down for ever.
    found = [models.Threshold(None if index == 0 else value, color) for index, (value, color) in enumerate(steps)]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


_Builder = timeseries.Panel | stat.Panel | table.Panel


def _panel(page: Page, panel: Panel, at: models.GridPos) -> _Builder:
    built: _Builder
    match panel.kind:
        case "stat":
            reduce = common.ReduceDataOptions().calcs(["lastNotNull"])
            built = stat.Panel().reduce_options(reduce).graph_mode(common_models.BigValueGraphMode.NONE)
        case "table":
            built = table.Panel().with_target(InfluxQuery(panel.table_query, form="table"))
        case _:
            built = timeseries.Panel().fill_opacity(20 if panel.is_stacked else 5).line_width(1)
            built = built.span_nulls(True).show_points(common_models.VisibilityMode.AUTO)
            if panel.is_stacked:
                built = built.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    built = built.title(panel.title).datasource(_SOURCE).grid_pos(at)
    if panel.unit == TOKENS_PER_SECOND and isinstance(built, timeseries.Panel):
        # Grafana has no such unit, and one of one's own is cut off at an axis.
        built = built.unit("short").axis_label(panel.unit)
    elif panel.unit:
        built = built.unit(f"suffix: {panel.unit}" if panel.unit == TOKENS_PER_SECOND else panel.unit)
    if panel.description:
        built = built.description(panel.description)
    if panel.thresholds:
        built = built.thresholds(_thresholds(panel.thresholds))
    if panel.maximum is not None:
        built = built.min(0).max(panel.maximum)
    if panel.link:
        title = next(page.title for page in PAGES if page.uid == panel.link)
        link = dashboard.DashboardLink(title).url(f"/d/{panel.link}").keep_time(True).include_vars(True)
        built = built.links([link])
    for index, query in enumerate(panel.queries):
        text = query.text(_filters(page, query.measurement))
        built = built.with_target(InfluxQuery(text, query.alias, ref_id=chr(ord("A") + index)))
    return built


def build(page: Page) -> dict[str, Any]:
    """The dashboard as Grafana stores it."""
    board = dashboard.Dashboard(page.title).uid(page.uid).description(page.description).tags(["turnpike"])
    board = board.time("now-1h", "now").refresh("10s").timezone("browser").readonly()
    board = board.tooltip(models.DashboardCursorSync.CROSSHAIR)
    for other in PAGES:
        if other.uid != page.uid:
            link = dashboard.DashboardLink(other.title).url(f"/d/{other.uid}").keep_time(True).include_vars(True)
            board = board.link(link)
    for name, measurement in page.variables:
        query = f'SHOW TAG VALUES FROM "{measurement.name}" WITH KEY = "{name}"'
        variable = dashboard.QueryVariable(name).query(query).datasource(_SOURCE).multi(True).include_all(True)
        variable = variable.all_value(".*").refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        board = board.with_variable(variable)
    line = 0
    for title, panels in page.rows:
        board = board.with_row(dashboard.Row(title).grid_pos(models.GridPos(h=1, w=WIDTH, x=0, y=line)))
        line, column, height = line + 1, 0, 0
        for panel in panels:
            if column + panel.width > WIDTH:
                line, column, height = line + height, 0, 0
            height = STAT_HEIGHT if panel.kind == "stat" else HEIGHT
            board = board.with_panel(_panel(page, panel, models.GridPos(h=height, w=panel.width, x=column, y=line)))
            column += panel.width
        line += height
    found: dict[str, Any] = json.loads(json.dumps(board.build(), cls=JSONEncoder))
    found["annotations"] = {"list": [_annotation(*one) for one in ANNOTATIONS]}
    for number, panel_found in enumerate(found["panels"], 1):
        panel_found["id"] = number
    return found


def _annotation(name: str, kinds: str, color: str) -> dict[str, Any]:
    """As the InfluxDB data source stores one; the SDK knows Grafana's own only."""
    query = f'SELECT "text", "kind", "node" FROM "event" WHERE $timeFilter AND "kind" =~ /^{kinds}$/'
    target = {"refId": "Anno", "query": query, "rawQuery": True, "fromAnnotation": True, "textColumn": "text"}
    return {
        "name": name,
        "datasource": {"type": "influxdb", "uid": DATASOURCE},
        "enable": True,
        "iconColor": color,
        "query": query,
        "textColumn": "text",
        "tagsColumn": "kind,node",
        "target": target | {"tagsColumn": "kind,node"},
    }


def alert_rules() -> dict[str, Any]:
    """A provisioning file of Grafana's alerting."""
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": "turnpike",
                "folder": "Turnpike",
                "interval": "1m",
                "rules": [_rule(alert) for alert in ALERTS],
            }
        ],
    }


def _rule(alert: Alert) -> dict[str, Any]:
    bound = {"type": "gt", "params": [alert.above]}
    expression = {"type": "__expr__", "uid": "__expr__"}
    query = InfluxQuery(alert.query.text("")).to_json() | {"datasource": {"type": "influxdb", "uid": DATASOURCE}}
    data = [
        {
            "refId": "A",
            "datasourceUid": DATASOURCE,
            "relativeTimeRange": {"from": ALERT_WINDOW_SECONDS, "to": 0},
            "model": query,
        },
        _expression("B", {"type": "reduce", "reducer": "last", "expression": "A", "datasource": expression}),
        _expression(
            "C",
            {"type": "threshold", "expression": "B", "conditions": [{"evaluator": bound}], "datasource": expression},
        ),
    ]
    return {
        "uid": alert.uid,
        "title": alert.title,
        "condition": "C",
        "data": data,
        "for": alert.lasting,
        "noDataState": "OK",
        "execErrState": "Error",
        "annotations": {"summary": alert.summary},
        "labels": {"service": "turnpike"},
    }


def _expression(ref_id: str, model: dict[str, Any]) -> dict[str, Any]:
    window = {"from": ALERT_WINDOW_SECONDS, "to": 0}
    return {
        "refId": ref_id,
        "datasourceUid": "__expr__",
        "relativeTimeRange": window,
        "model": {"refId": ref_id, **model},
    }


# --- Provisioning ----------------------------------------------------------------------------------------------------


def data_source() -> dict[str, Any]:
    """Grafana fills in the variables from its environment."""
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "Turnpike",
                "uid": DATASOURCE,
                "type": "influxdb",
                "access": "proxy",
                "url": "${INFLUX_HOST}",
                "user": "${INFLUX_USER}",
                "isDefault": True,
                "jsonData": {"dbName": "${INFLUX_DATABASE}", "httpMode": "GET", "timeInterval": "1s"},
                "secureJsonData": {"password": "${INFLUX_PASSWORD}"},
            }
        ],
    }


def provider() -> dict[str, Any]:
    """Where Grafana finds the dashboards, once they are mounted."""
    options = {"path": "/etc/grafana/dashboards"}
    return {
        "apiVersion": 1,
        "providers": [{"name": "turnpike", "folder": "Turnpike", "type": "file", "options": options}],
    }


KUSTOMIZATION = """# Made by `python -m telemetry.grafana k3s/dashboards`, as everything here.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
generatorOptions:
  disableNameSuffixHash: true
configMapGenerator:
  - name: grafana-dashboards
    files: [{dashboards}]
  - name: grafana-provisioning
    files: [alerts.yaml, datasource.yaml, provider.yaml]
"""


def files() -> dict[str, str]:
    """Every file by its name. JSON is YAML too."""
    found = {f"{page.uid.removeprefix('turnpike-')}.json": build(page) for page in PAGES}
    found |= {"alerts.yaml": alert_rules(), "datasource.yaml": data_source(), "provider.yaml": provider()}
    texts = {name: json.dumps(content, indent=1, ensure_ascii=False) + "\n" for name, content in found.items()}
    dashboards = ", ".join(sorted(name for name in texts if name.endswith(".json")))
    return texts | {"kustomization.yaml": KUSTOMIZATION.format(dashboards=dashboards)}


def main() -> None:
    """Writes every file into the folder that the command names."""
    parser = argparse.ArgumentParser(prog="python -m telemetry.grafana", description="Writes what Grafana is given.")
    parser.add_argument("folder", type=Path, help="k3s/dashboards")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
