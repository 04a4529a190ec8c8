// The page: several conversations side by side, each kept in this browser, each answer readable again after a reload.
"use strict";

const $ = (id) => document.getElementById(id);
const STORE = "turnpike";
const state = load();
const running = new Map(); // conversation id → AbortController of the reader
const stopping = new Set(); // conversation ids whose turn is to end
let drawn = null; // the conversation that is seen
const DEFAULT_BUDGET = 256; // tokens of thoughts, until somebody says otherwise
let listed = []; // models and policies that are served, as /v1/models has them
const STOP_PATIENCE = 3000; // milliseconds for a turn that waits to end once it was stopped

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(STORE));
    if (found && Array.isArray(found.conversations) && found.conversations.length) return found;
  } catch { /* what is not ours is replaced */ }
  const first = fresh();
  return { conversations: [first], current: first.id, model: "auto", key: "" };
}

// How much the model is to think, in the words of /v1/chat/completions; nothing leaves it to the model.
function thinking() {
  const { mode, budget } = state.thinking ?? {};
  if (!canThink()) return {};
  return { on: { reasoning_effort: "medium" }, off: { reasoning_effort: "none" }, budget: { reasoning_budget_tokens: budget } }[mode] ?? {};
}

function canThink() { return listed.some((one) => one.id === state.model && one.thinking); }

function save() { localStorage.setItem(STORE, JSON.stringify(state)); }

function fresh() {
  return { id: [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join(""), messages: [], turn: null };
}

function current() { return state.conversations.find((one) => one.id === state.current) ?? state.conversations[0]; }

function headers(more = {}) { return state.key ? { Authorization: `Bearer ${state.key}`, ...more } : more; }

// --- What is seen ---

function draw() {
  const open = current();
  $("conversations").replaceChildren(...state.conversations.map((one, index) => {
    const button = document.createElement("button");
    const said = one.messages.find((message) => message.role === "user");
    button.textContent = said ? said.content.slice(0, 18) : `New ${index + 1}`;
    if (one.turn) button.textContent += " …";
    button.setAttribute("aria-current", String(one.id === open.id));
    button.addEventListener("click", () => { state.current = one.id; save(); draw(); $("text").focus(); });
    return button;
  }));
  const wereOpen = drawn === open.id ? [...$("messages").querySelectorAll("details")].map((one) => one.open) : [];
  drawn = open.id;
  $("messages").replaceChildren(...open.messages.map(article));
  $("messages").querySelectorAll("details").forEach((one, index) => { one.open = Boolean(wereOpen[index]); });
  showBusy();
  scroll();
}

function article(message) {
  const box = document.createElement("article");
  box.className = message.role;
  const text = document.createElement("span");
  text.className = "text";
  text.textContent = message.content;
  box.append(text);
  if (message.role !== "assistant") return box;
  const facts = document.createElement("span");
  facts.className = message.bad ? "facts bad" : "facts";
  facts.textContent = message.bad ?? message.facts ?? "";
  box.append(facts);
  showBesides(box, message);
  return box;
}

// Thoughts and calls: what the model said besides its answer.
function besides(message) {
  const found = (message.calls ?? []).map((call) => ({ kind: "call", title: `Calls ${call.name}`, text: call.arguments }));
  const thoughts = message.reasoning?.trim();
  if (thoughts) found.unshift({ kind: "thoughts", title: message.content || found.length ? "Thoughts" : "Thinking …", text: thoughts });
  return found;
}

// Folded, thoughts before the text and calls behind it; each is made once, so that what somebody opens stays open as it grows.
function showBesides(box, message) {
  for (const [kind, place] of [["thoughts", ".text"], ["call", ".facts"]]) {
    const found = besides(message).filter((one) => one.kind === kind);
    const shown = [...box.querySelectorAll(`details.${kind}`)];
    shown.slice(found.length).forEach((one) => one.remove());
    found.forEach(({ title, text }, index) => {
      const one = shown[index] ?? document.createElement("details");
      if (!shown[index]) {
        one.className = kind;
        one.append(document.createElement("summary"), document.createElement("div"));
        box.insertBefore(one, box.querySelector(place));
      }
      one.firstChild.textContent = title;
      one.lastChild.textContent = text;
    });
  }
}

function showLast(conversation) {
  if (conversation.id !== current().id) return;
  const box = $("messages").lastElementChild;
  const message = conversation.messages.at(-1);
  if (!box || !message) return;
  const isAtEnd = $("messages").scrollHeight - $("messages").scrollTop - $("messages").clientHeight < 60;
  box.querySelector(".text").textContent = message.content;
  showBesides(box, message);
  const facts = box.querySelector(".facts");
  if (facts) { facts.textContent = message.bad ?? message.facts ?? ""; facts.className = message.bad ? "facts bad" : "facts"; }
  if (isAtEnd) scroll();
}

function showBusy() {
  const busy = Boolean(current().turn);
  $("stop").hidden = !busy;
  $("send").hidden = busy;
}

function showThinking() {
  const { mode, budget } = state.thinking ?? {};
  $("thoughts").hidden = !canThink();
  $("thinking").value = mode ?? "";
  $("bound").hidden = mode !== "budget";
  $("budget").value = budget ?? DEFAULT_BUDGET;
}

function scroll() { $("messages").scrollTop = $("messages").scrollHeight; }

function say(text) { $("status").textContent = text; }

// --- Talking ---

async function ask(text) {
  const conversation = current();
  conversation.messages.push({ role: "user", content: text });
  const history = conversation.messages.map(({ role, content }) => ({ role, content })).filter((one) => one.content);
  conversation.messages.push({ role: "assistant", content: "" });
  conversation.turn = "new";
  save(); draw();
  const body = { model: state.model, messages: history, temperature: 0, stream: true, stream_options: { include_usage: true }, ...thinking() };
  await read(conversation, (signal) => fetch("/v1/chat/completions", {
    method: "POST", signal, body: JSON.stringify(body),
    headers: headers({ "Content-Type": "application/json", "Turnpike-Conversation": conversation.id, "Turnpike-Details": "1", "Turnpike-Detached": "1" }),
  }));
}

function readOn(conversation) {
  const message = conversation.messages.at(-1);
  forget(message);
  return read(conversation, (signal) => fetch(`/turns/${conversation.turn}?model=${encodeURIComponent(conversation.model ?? "")}`, { signal, headers: headers() }));
}

function forget(message) { Object.assign(message, { content: "", reasoning: "", calls: [] }); }

function take(message, delta) {
  message.content += delta.content ?? "";
  message.reasoning = (message.reasoning ?? "") + (delta.reasoning_content ?? "");
  for (const { index, function: called } of delta.tool_calls ?? []) {
    message.calls ??= [];
    message.calls[index] ??= { name: called.name, arguments: "" };
    message.calls[index].arguments += called.arguments ?? "";
  }
  return Boolean(delta.content || delta.reasoning_content || delta.tool_calls);
}

async function read(conversation, request) {
  const message = conversation.messages.at(-1);
  const control = new AbortController();
  running.set(conversation.id, control);
  let first = 0;
  let tokens = 0;
  try {
    const answer = await request(control.signal);
    if (!answer.ok) throw new Error((await answer.json()).error?.message ?? answer.statusText);
    conversation.turn = answer.headers.get("turnpike-turn") ?? conversation.turn;
    conversation.model = answer.headers.get("turnpike-model") ?? conversation.model;
    save();
    if (stopping.has(conversation.id)) sendStop(conversation);
    for await (const event of events(answer.body)) {
      if (event.comment) {
        if ("turns_ahead" in event.comment) say(place(event.comment));
        if (event.comment.restarted) { forget(message); tokens = 0; first = 0; say("begun anew by another worker"); }
        if (event.comment.turn) { // another model took it over, as another turn
          conversation.turn = event.comment.turn;
          conversation.model = event.comment.model ?? conversation.model;
          save();
          if (stopping.has(conversation.id)) sendStop(conversation); // what was stopped was the other
        }
        if (event.comment.worker) message.facts = facts(event.comment, tokens, first);
      } else if (event.data.error) {
        throw new Error(event.data.error.message);
      } else {
        if (take(message, event.data.choices?.[0]?.delta ?? {})) {
          first ||= performance.now();
          tokens += 1;
          say(tokens > 3 ? `${rate(tokens, first)} pieces/s` : "");
        }
      }
      showLast(conversation);
    }
    conversation.turn = null;
  } catch (error) {
    if (error.name === "AbortError" && !stopping.has(conversation.id)) return; // the page is left: the turn goes on
    message.bad = error.name === "AbortError" ? "stopped" : error.message || "the gateway cannot be reached";
    conversation.turn = null;
  } finally {
    running.delete(conversation.id);
    stopping.delete(conversation.id);
    if (!conversation.turn) say("");
    save(); draw();
  }
}

function place({ turns_ahead, seconds, workers, state, share, load_seconds }) {
  if (state) return loading(state, share, load_seconds);
  if (workers === 0) return "no worker serves the model just now: the turn waits";
  const turns = `${turns_ahead} ${turns_ahead === 1 ? "turn" : "turns"} ahead`;
  return seconds ? `${turns}, about ${Math.round(seconds)} s` : turns;
}

function loading(state, share, seconds) {
  if (state === "broken") return "the model cannot be loaded just now: the turn waits";
  const part = state === "loading" && share != null ? `loading ${Math.round(100 * share)} %` : state === "loading" ? "loading" : "not loaded yet";
  return state === "loaded" ? "" : `${part}, about ${Math.round(seconds)} s`;
}

function rate(number, since) { return (1000 * (number - 1) / Math.max(1, performance.now() - since)).toFixed(1); }

function facts(told) {
  const { usage, timings } = told;
  const parts = [];
  if (usage.completion_tokens > 1 && timings.decode > 0) parts.push(`${((usage.completion_tokens - 1) / timings.decode).toFixed(1)} tokens/s`);
  parts.push(`${usage.completion_tokens} tokens`);
  if (usage.prompt_tokens) parts.push(`${Math.round(100 * (usage.cached_tokens ?? 0) / usage.prompt_tokens)} % of ${usage.prompt_tokens} cached`);
  parts.push(told.node ? `${told.worker} on ${told.node}` : told.worker);
  if (told.celsius != null) parts.push(`${told.celsius.toFixed(0)} °C${told.is_throttled ? ", throttled" : ""}`);
  return parts.join(" · ");
}

async function* events(body) {
  let rest = "";
  for await (const piece of chunks(body.pipeThrough(new TextDecoderStream()))) {
    const parts = (rest + piece).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith(": turnpike ")) yield { comment: JSON.parse(part.slice(11)) };
      else if (part.startsWith("data: {")) yield { data: JSON.parse(part.slice(6)) };
    }
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

function stop() {
  const conversation = current();
  if (!conversation.turn || stopping.has(conversation.id)) return;
  stopping.add(conversation.id);
  say("stopping …");
  if (conversation.turn !== "new") sendStop(conversation); // else once it has a name
}

async function sendStop(conversation) {
  const reader = running.get(conversation.id);
  try {
    const answer = await fetch(`/turns/${conversation.turn}`, { method: "DELETE", headers: headers() });
    if (!answer.ok) throw new Error((await answer.json()).error?.message);
    // Who waits in line for a worker that is not there is not kept waiting for the turn's end as well.
    setTimeout(() => { if (running.get(conversation.id) === reader) reader?.abort(); }, STOP_PATIENCE);
  } catch (error) {
    stopping.delete(conversation.id);
    say(`not stopped: ${error.message || "the gateway cannot be reached"}`);
  }
}

async function models() {
  try {
    const answer = await fetch("/v1/models", { headers: headers() });
    $("access").open = answer.status === 401;
    if (!answer.ok) { say((await answer.json()).error.message); return; }
    const { data } = await answer.json();
    const names = data.map((one) => one.id);
    listed = data;
    if (!names.includes(state.model)) names.unshift(state.model);
    $("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === state.model)));
    showThinking();
    say(data.length ? "" : "no model is served just now");
    if (!data.length) setTimeout(models, 3000); // one may be on its way
  } catch { say("the gateway cannot be reached"); }
}

// --- Hands ---

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || current().turn) return;
  $("text").value = "";
  ask(text);
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("ask").requestSubmit(); }
});
$("stop").addEventListener("click", stop);
$("new").addEventListener("click", () => {
  const one = fresh();
  state.conversations.push(one);
  state.current = one.id;
  save(); draw(); $("text").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.altKey && event.key.toLowerCase() === "n") { event.preventDefault(); $("new").click(); }
  const number = Number(event.key);
  if (event.altKey && number >= 1 && number <= state.conversations.length) { event.preventDefault(); $("conversations").children[number - 1].click(); }
});
$("model").addEventListener("change", () => { state.model = $("model").value; save(); showThinking(); });
$("thinking").addEventListener("change", () => {
  state.thinking = { budget: DEFAULT_BUDGET, ...state.thinking, mode: $("thinking").value };
  save(); showThinking();
});
$("budget").addEventListener("change", () => {
  if ($("budget").checkValidity()) state.thinking.budget = $("budget").valueAsNumber; // else what it was
  save(); showThinking();
});
$("key").addEventListener("change", () => { state.key = $("key").value.trim(); save(); models(); });

draw();
models();
for (const conversation of state.conversations) {
  if (conversation.turn === "new") { conversation.turn = null; conversation.messages.at(-1).bad = "left before it was sent"; draw(); }
  else if (conversation.turn) readOn(conversation);
}
