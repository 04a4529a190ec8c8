// Turns: asked, read as they come, read on after a reload, stopped, gone on with. Each goes on when the page is left.
import { announce, say } from "./dom.js";
import { call, events } from "./events.js";
import { thinking } from "./models.js";
import { current, emit, on, running, save, sort, state, turnNode } from "./store.js";
import { add, history } from "./tree.js";
import { facts, place, rate } from "./words.js";

const STOP_PATIENCE = 3000; // milliseconds for a turn that waits to end once it was stopped
const OTHER_TEMPERATURE = 0.7; // of another answer, which at 0 would be the same word for word
const NUM_TRIES = 20; // to read on where the connection was lost, as a phone's that slept
const MAX_DELAY = 15000; // milliseconds between two of them
const KEPT_EVERY = 1000; // milliseconds, of an answer that comes

export function statusOf(conversation) { return running.get(conversation)?.status ?? ""; }

export function ask(conversation, parent, text) {
  conversation.used = Date.now();
  sort();
  return answer(conversation, add(conversation, parent, "user", text));
}

export function answer(conversation, question, { isAnother = false } = {}) {
  const node = add(conversation, question.id, "assistant", "");
  return send(conversation, node, history(conversation, question.id), isAnother);
}

// Behind what there is of the answer: its last message is the assistant's.
export function goOn(conversation, node) { return send(conversation, node, history(conversation, node.id)); }

function send(conversation, node, messages, isAnother = false) {
  const model = conversation.wants ?? state.model;
  const sampling = { temperature: 0, ...conversation.sampling };
  if (isAnother) sampling.temperature = Math.max(sampling.temperature, OTHER_TEMPERATURE);
  if (isAnother) delete sampling.seed;
  const body = { model, messages, ...sampling, stream: true, stream_options: { include_usage: true }, ...thinking(model) };
  conversation.turn = { id: "new", node: node.id, model, kept: node.content.length };
  delete node.bad;
  return read(conversation, (signal) => call("/v1/chat/completions", {
    method: "POST", signal, body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", "Turnpike-Conversation": conversation.id, "Turnpike-Details": "1", "Turnpike-Detached": "1" },
  }));
}

// After a reload: what was sent is read from its beginning on.
export function readOn(conversation) {
  const { id, model } = conversation.turn;
  const node = turnNode(conversation);
  if (id === "new" || !node) {
    if (node) fail(node, "left before it was sent");
    conversation.turn = null;
    save(conversation);
    return;
  }
  return read(conversation, (signal) => call(`/turns/${id}?model=${encodeURIComponent(model ?? "")}`, { signal }), true);
}

// One that another tab reads, or has left.
function join() {
  const conversation = current();
  if (conversation.turn && conversation.turn.id !== "new" && !running.has(conversation)) readOn(conversation);
}

function fail(node, text) {
  node.bad = text;
  if (node.content) node.cut = "lost";
}

function forget({ turn }, node) {
  Object.assign(node, { content: node.content.slice(0, turn.kept ?? 0), calls: [] });
  if (!turn.kept) node.reasoning = "";
}

function keep(conversation, run) {
  run.due = performance.now() + KEPT_EVERY;
  save(conversation);
}

function size({ content, reasoning = "", calls = [] }) { return content.length + reasoning.length + calls.length; }

function take(node, delta) {
  node.content += delta.content ?? "";
  node.reasoning = (node.reasoning ?? "") + (delta.reasoning_content ?? "");
  for (const { index, function: called } of delta.tool_calls ?? []) {
    node.calls ??= [];
    node.calls[index] ??= { name: called.name, arguments: "" };
    node.calls[index].arguments += called.arguments ?? "";
  }
  return Boolean(delta.content || delta.reasoning_content || delta.tool_calls);
}

async function read(conversation, request, isAgain = false) {
  const node = turnNode(conversation);
  const tries = running.get(conversation)?.tries ?? 0;
  const run = { tries, control: new AbortController(), status: "", isStopping: false, tokens: 0, first: 0, due: 0 };
  running.set(conversation, run);
  keep(conversation, run);
  emit("begun", conversation);
  try {
    const answered = await request(run.control.signal);
    goesTo(conversation, answered.headers.get("turnpike-turn"), answered.headers.get("turnpike-model"));
    let coming = node;
    // What came once is seen until there is as much again.
    if (isAgain) forget(conversation, coming = { ...node });
    const settle = () => { coming = Object.assign(node, { ...coming, model: node.model }); };
    for await (const event of events(answered.body)) {
      run.tries = 0;
      if (event.comment) hear(conversation, coming, run, event.comment);
      else if (event.data.error) throw new Error(event.data.error.message);
      else if (take(coming, event.data.choices?.[0]?.delta ?? {})) {
        run.first ||= performance.now();
        run.tokens += 1;
        tell(conversation, run, run.tokens > 3 ? `${rate(run.tokens, run.first)} pieces/s` : "");
      }
      if (coming !== node && size(coming) < size(node)) continue;
      settle();
      emit("grown", conversation, node);
      if (performance.now() > run.due) keep(conversation, run);
    }
    settle();
    if (node.cut === undefined && run.isStopping) node.cut = "stopped";
    conversation.turn = null;
  } catch (error) {
    const isLeft = error.name === "AbortError" && !run.isStopping;
    if (isLeft) return; // the page is left: the turn goes on
    if (isLost(error) && conversation.turn.id !== "new" && run.tries < NUM_TRIES) {
      run.tries += 1;
      tell(conversation, run, "the connection was lost: reading on …");
      run.isWaiting = true;
      setTimeout(readOn, Math.min(MAX_DELAY, 1000 * run.tries), conversation);
      return;
    }
    if (error.name === "AbortError") node.cut = "stopped";
    else fail(node, error.message);
    conversation.turn = null;
  } finally {
    if (!run.isWaiting) running.delete(conversation);
    if (!conversation.turn) ended(conversation, node);
  }
}

// Not the gateway's word: that has a status, or came as an event.
function isLost(error) { return error.isLost || error instanceof TypeError; }

function ended(conversation, node) {
  conversation.isUnread = conversation.id !== state.current || document.hidden;
  if (conversation.id === state.current) {
    say("");
    announce(node.bad ?? (node.content || "The answer is empty."));
  }
  save(conversation);
  emit("ended", conversation, node);
}

// What is said beside the answer.
function hear(conversation, node, run, comment) {
  if ("turns_ahead" in comment) tell(conversation, run, place(comment));
  if (comment.restarted) {
    forget(conversation, node);
    Object.assign(run, { tokens: 0, first: 0 });
    tell(conversation, run, "begun anew by another worker");
  }
  if (comment.turn) goesTo(conversation, comment.turn, comment.model); // another model took it over, as another turn
  if (comment.worker) {
    node.facts = facts(comment);
    node.cut = { length: "length", cancelled: "stopped" }[comment.finish_reason] ?? null;
  }
}

function goesTo(conversation, id, model) {
  conversation.turn.id = id ?? conversation.turn.id;
  conversation.turn.model = model ?? conversation.turn.model;
  turnNode(conversation).model = conversation.turn.model;
  save(conversation);
  if (running.get(conversation).isStopping) sendStop(conversation); // what was stopped had no name yet, or was the other
}

function tell(conversation, run, text) {
  run.status = run.isStopping ? "stopping …" : text;
  if (conversation.id === state.current) say(run.status);
  emit("told", conversation);
}

export function stop(conversation) {
  const run = running.get(conversation);
  if (!run || run.isStopping) return;
  run.isStopping = true;
  tell(conversation, run, "");
  if (conversation.turn.id !== "new") sendStop(conversation); // else once it has a name
}

async function sendStop(conversation) {
  const run = running.get(conversation);
  try {
    await call(`/turns/${conversation.turn.id}`, { method: "DELETE" });
    // Who waits in line for a worker that is not there is not kept waiting for the turn's end as well.
    setTimeout(() => { if (running.get(conversation) === run) run.control.abort(); }, STOP_PATIENCE);
  } catch (error) {
    run.isStopping = false;
    tell(conversation, run, `not stopped: ${error.message}`);
  }
}

export function leave(conversation) {
  if (!running.has(conversation)) return;
  save(conversation);
  running.get(conversation).control.abort();
}

on("opened", join);

