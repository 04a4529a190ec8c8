// The second view: boards, models and what waits for them, workers, and one's own turns in work, as of each second.
import { $, announce, h } from "./dom.js";
import { call } from "./events.js";
import { state } from "./store.js";
import { titleOf } from "./tree.js";

const REFRESH = 1000; // milliseconds
const STATES = { loaded: "serving", available: "not loaded", unserved: "nobody serves it" };
let timer = null;
let isShown = false;

export function showCluster(isWanted) {
  if (isShown === isWanted) return;
  isShown = isWanted;
  clearTimeout(timer);
  if (isShown) look();
}

async function look() {
  clearTimeout(timer);
  if (!isShown || document.hidden) return;
  try {
    draw(await (await call("/cluster")).json());
    $("clusterstate").textContent = "";
  } catch (error) { $("clusterstate").textContent = error.message; }
  if (isShown) timer = setTimeout(look, REFRESH);
}

document.addEventListener("visibilitychange", look);

function draw({ boards, models, workers, turns, turns_of_others: others }) {
  $("noboards").hidden = boards.length > 0;
  keyed($("boards"), boards, (one) => one.board, board, drawBoard);
  rows("models", models, (one) => one.model, [
    (one) => one.name === one.model ? one.model : `${one.name} (${one.model})`,
    (one) => one.words || STATES[one.state] || one.state,
    (one) => one.workers,
    (one) => one.slots ? `${one.active} of ${one.slots}` : "–",
    (one) => one.waiting + one.waiting_batch ? `${one.waiting}${one.waiting_batch ? ` + ${one.waiting_batch} batch` : ""}` : "0",
    (one) => one.wait_seconds == null ? "–" : seconds(one.wait_seconds),
  ]);
  rows("workers", workers, (one) => one.worker, [
    (one) => one.worker.startsWith(one.node) ? one.worker : `${one.worker}, ${one.node}`,
    (one) => `${one.model} ${one.quantization}`,
    (one) => one.state === "serving" ? `${one.active} of ${one.slots}` : one.state,
    (one) => number(one.prefill_tokens_per_second, 0),
    (one) => number(one.decode_tokens_per_second, 1),
    (one) => one.cached_share == null ? "–" : `${Math.round(100 * one.cached_share)} %`,
    (one) => one.failed,
    (one) => one.celsius == null ? "–" : `${one.celsius.toFixed(0)} °C${one.is_throttled ? ", throttled" : ""}`,
  ]);
  rows("turns", turns, (one) => one.turn, [
    ({ turn }) => { const found = state.conversations.find((one) => one.turn?.id === turn); return found ? titleOf(found) : turn.slice(0, 12); },
    (one) => one.model,
    (one) => one.state === "working" ? `working${one.worker ? ` at ${one.worker}` : ""}` : waits(one),
    (one) => one.tokens,
    (one) => number(one.tokens ? one.tokens_per_second : null, 1),
    (one) => seconds(one.seconds),
  ], cancel);
  $("others").textContent = others ? `${others} ${others === 1 ? "turn" : "turns"} of others besides.` : "";
}

function waits({ turns_ahead: ahead, seconds_ahead: left }) {
  if (ahead == null) return "waiting";
  return `waiting, ${ahead} ahead${left ? `, about ${seconds(left)}` : ""}`;
}

function seconds(value) { return value < 10 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`; }

function number(value, digits) { return value == null ? "–" : value.toFixed(digits); }

function gb(bytes) { return (bytes / 1e9).toFixed(1); }

// --- What stays stays: only what has changed is written ---

function keyed(box, found, keyOf, make, fill) {
  const there = new Map([...box.children].map((one) => [one.dataset.key, one]));
  found.forEach((one, index) => {
    const key = keyOf(one);
    const element = there.get(key) ?? make(one);
    there.delete(key);
    element.dataset.key = key;
    fill(element, one);
    if (box.children[index] !== element) box.insertBefore(element, box.children[index] ?? null);
  });
  for (const gone of there.values()) gone.remove();
}

function write(element, text) { if (element.textContent !== String(text)) element.textContent = text; }

function rows(name, found, keyOf, cells, button = null) {
  const table = $(name);
  const heads = [...table.querySelectorAll("thead th")].map((one) => one.textContent);
  table.closest("section").classList.toggle("empty", !found.length);
  keyed(table.tBodies[0], found, keyOf,
    (one) => h("tr", {}, ...cells.map((_, index) => h(index ? "td" : "th", { "data-head": heads[index], scope: index ? null : "row" })), button && h("td", {}, button(one))),
    (row, one) => cells.forEach((cell, index) => write(row.children[index], cell(one))));
}

function cancel({ turn }) {
  const button = h("button", { type: "button", onclick: async () => {
    button.disabled = true;
    try { await call(`/turns/${turn}`, { method: "DELETE" }); announce("Cancelled."); }
    catch (error) { button.disabled = false; $("clusterstate").textContent = `not cancelled: ${error.message}`; }
  } }, "Cancel");
  return button;
}

function board() {
  return h("li", {}, h("h3"), h("meter", { min: 0, "aria-label": "Memory taken by models" }), h("p", { class: "facts" }), h("ul"));
}

function drawBoard(element, one) {
  const [name, meter, line, models] = element.children;
  write(name, one.board);
  Object.assign(meter, { max: one.memory_bytes, value: one.used_bytes });
  const more = [one.is_throttled && "throttled", one.memory_pressure > 0.2 && "short of memory", one.swaps && `${one.swaps} swaps`];
  write(line, [`${gb(one.used_bytes)} of ${gb(one.memory_bytes)} GB`, `${one.cores} cores`, ...more.filter(Boolean)].join(" · "));
  keyed(models, one.models, (model) => model.model, () => h("li", {}, h("span", { class: "name" }), h("span", { class: "standing" })), (item, model) => {
    write(item.firstChild, model.model);
    item.className = model.state;
    write(item.lastChild, onBoard(model));
    item.title = model.reason;
  });
}

function onBoard({ state: at, share, seconds: left, active, slots, planned_bytes: bytes, pin }) {
  const words = at === "loading" && share != null ? `loading ${Math.round(100 * share)} %${left ? `, ${seconds(left)}` : ""}`
    : at === "serving" ? `${active} of ${slots} busy` : at === "available" ? "not loaded" : at;
  return `${words} · ${gb(bytes)} GB${pin ? ` · pinned: ${pin}` : ""}`;
}
