// Draws one dashboard (?page=UID) from data.json: its definition and what InfluxDB answered to each of its queries.
// The components are Grafana's; what a Grafana server would do around them (variables, queries) tools/draw.py did.
import { createTheme, dateTime, FieldType, getDisplayProcessor, toDataFrame } from "@grafana/data";
import {
  BigValue, BigValueColorMode, BigValueGraphMode, GlobalStyles, PanelChrome, Table, ThemeContext, TimeSeries,
} from "@grafana/ui";
import { createRoot } from "react-dom/client";

const CELL = 30; // Grafana's height of a grid unit
const GAP = 8;
const WIDTH = 1600;
const theme = createTheme({ colors: { mode: "dark" } });

const named = (target, series, column) =>
  target.alias
    ? target.alias.replace(/\$tag_(\w+)/g, (_, tag) => series.tags?.[tag] ?? "")
    : `${series.name}.${column}`;

function frames(panel, answers) {
  const found = [];
  panel.targets.forEach((target, index) => {
    for (const series of answers[index] ?? []) {
      series.columns.slice(1).forEach((column, offset) => {
        found.push(toDataFrame({
          refId: target.refId,
          fields: [
            { name: "time", type: FieldType.time, values: series.values.map((row) => row[0]) },
            { name: named(target, series, column), type: FieldType.number, values: series.values.map((row) => row[offset + 1]) },
          ],
        }));
      });
    }
  });
  return found;
}

function rows(panel, answers) {
  const all = (answers[0] ?? []).flatMap((series) => {
    const tags = Object.keys(series.tags ?? {});
    return series.values.map((row) => Object.fromEntries([
      ...tags.map((tag) => [tag, series.tags[tag]]),
      ...series.columns.map((column, index) => [column, row[index]]).filter(([column]) => column !== "time" || !tags.length),
    ]));
  });
  const columns = Object.keys(all[0] ?? {});
  return [toDataFrame({
    fields: columns.map((name) => ({
      name,
      type: name === "time" ? FieldType.time : typeof all[0][name] === "number" ? FieldType.number : FieldType.string,
      values: all.map((row) => row[name]),
    })),
  })];
}

function shown(panel, data, custom) {
  const defaults = panel.fieldConfig?.defaults ?? {};
  let seriesIndex = 0;
  for (const frame of data) {
    for (const field of frame.fields) {
      const isTime = field.type === FieldType.time;
      const color = panel.type === "timeseries" ? { mode: "palette-classic" } : { mode: "thresholds" };
      field.config = isTime ? {} : { ...defaults, color, displayName: field.name, custom };
      field.state = isTime ? {} : { seriesIndex: seriesIndex++ };
      field.display = getDisplayProcessor({ field, theme, timeZone: "utc" });
    }
  }
  return data;
}

function Content({ panel, answers, range, width, height }) {
  if (panel.type === "table") {
    return <Table data={shown(panel, rows(panel, answers), { align: "auto" })[0]} width={width} height={height} />;
  }
  const custom = { drawStyle: "line", showPoints: "auto", pointSize: 4, ...panel.fieldConfig?.defaults?.custom };
  const data = shown(panel, frames(panel, answers), custom);
  if (!data.length) {
    return <div style={{ color: theme.colors.text.secondary, textAlign: "center", paddingTop: height / 3 }}>No data</div>;
  }
  if (panel.type === "stat") {
    const field = data[0].fields[1];
    const value = field.display(field.values[field.values.length - 1]);
    return <BigValue value={value} width={width} height={height} theme={theme}
      colorMode={BigValueColorMode.Value} graphMode={BigValueGraphMode.None} />;
  }
  return <TimeSeries frames={data} width={width} height={height} timeZone="utc" theme={theme}
    timeRange={range} legend={{ showLegend: true, displayMode: "list", placement: "bottom", calcs: [] }}
    options={{}} />;
}

function Page({ dashboard, answers, range }) {
  const unit = (WIDTH - GAP) / 24;
  const bottom = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  return (
    <div style={{ position: "relative", width: WIDTH, height: bottom * (CELL + GAP) + 60, color: theme.colors.text.primary }}>
      <h1 style={{ font: "500 22px Inter, Helvetica, Arial, sans-serif", margin: 0, padding: "14px 12px 0" }}>{dashboard.title}</h1>
      {dashboard.panels.map((panel) => {
        const { x, y, w, h } = panel.gridPos;
        const width = w * unit - GAP;
        const height = h * (CELL + GAP) - GAP;
        const at = { position: "absolute", left: x * unit + GAP, top: 50 + y * (CELL + GAP), width, height };
        if (panel.type === "row") {
          return <div key={panel.id} style={{ ...at, font: "500 15px Inter, Helvetica, Arial, sans-serif", paddingTop: 6 }}>{panel.title}</div>;
        }
        return (
          <div key={panel.id} style={at}>
            <PanelChrome title={panel.title} width={width} height={height} padding="md">
              {(innerWidth, innerHeight) => (
                <Content panel={panel} answers={answers[panel.id] ?? []} range={range} width={innerWidth} height={innerHeight} />
              )}
            </PanelChrome>
          </div>
        );
      })}
    </div>
  );
}

const { pages, from, to } = window.DATA;
const page = pages[new URLSearchParams(location.search).get("page")];
const range = { from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } };
createRoot(document.getElementById("root")).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <Page dashboard={page.dashboard} answers={page.answers} range={range} />
  </ThemeContext.Provider>,
);
