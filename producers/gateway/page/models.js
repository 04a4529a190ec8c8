// Which model answers, whether it thinks, and the key that the gateway wants.
import { $, say } from "./dom.js";
import { call } from "./events.js";
import { current, save, saveChoices, state } from "./store.js";

const DEFAULT_BUDGET = 256; // tokens of thoughts, until somebody says otherwise
const NOBODY_YET = 3000; // milliseconds until models are asked for again
let listed = []; // models and policies that can answer, as /v1/models has them

// How much the model is to think, in the words of /v1/chat/completions; nothing leaves it to the model.
export function thinking(model) {
  const { mode, budget } = state.thinking;
  if (!canThink(model)) return {};
  return { on: { reasoning_effort: "medium" }, off: { reasoning_effort: "none" }, budget: { reasoning_budget_tokens: budget } }[mode] ?? {};
}

function canThink(model) { return listed.some((one) => one.id === model && one.thinking); }

function wanted() { return current().wants ?? state.model; }

export function showChoices() {
  const names = listed.map((one) => one.id);
  const model = wanted();
  if (!names.includes(model)) names.unshift(model);
  $("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === model)));
  const { mode, budget } = state.thinking;
  $("thoughts").hidden = !canThink(model);
  $("thinking").value = mode ?? "";
  $("bound").hidden = mode !== "budget";
  $("budget").value = budget ?? DEFAULT_BUDGET;
  $("key").value = state.key;
}

export async function readModels() {
  try {
    const { data } = await (await call("/v1/models")).json();
    // One that makes vectors of texts answers nobody; earlier releases do not tell.
    listed = data.filter(({ can = [] }) => !can.length || can.includes("chat") || can.includes("raw"));
    showChoices();
    say(listed.length ? "" : "no model is served just now");
    if (!listed.length) setTimeout(readModels, NOBODY_YET); // one may be on its way
  } catch (error) {
    if (error.status === 401) $("access").open = true;
    say(error.message);
  }
}

$("model").addEventListener("change", () => {
  state.model = current().wants = $("model").value;
  save(current());
  saveChoices();
  showChoices();
});
$("thinking").addEventListener("change", () => {
  state.thinking = { budget: DEFAULT_BUDGET, ...state.thinking, mode: $("thinking").value };
  saveChoices();
  showChoices();
});
$("budget").addEventListener("change", () => {
  if ($("budget").checkValidity()) state.thinking.budget = $("budget").valueAsNumber; // else what it was
  saveChoices();
  showChoices();
});
$("key").addEventListener("change", () => {
  state.key = $("key").value.trim();
  saveChoices();
  readModels();
});
