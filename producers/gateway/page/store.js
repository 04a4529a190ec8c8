// What is kept in this browser: conversations in IndexedDB, one record each; choices and drafts in localStorage.
import { say } from "./dom.js";
import { fresh, nodeOf, ofMessages } from "./tree.js";

const CHOICES = "turnpike-choices";
const DRAFTS = "turnpike-drafts";
const EARLIER = "turnpike"; // the one record of the page's first releases

export const state = { conversations: [], current: null, model: "auto", key: "", thinking: {}, ...read(CHOICES) };
const drafts = read(DRAFTS);
export const running = new Map(); // conversation → how its answer is read here
const listeners = new Map();
const others = new BroadcastChannel("turnpike"); // the page in other tabs
let database = null;
let numWritten = 0;

export function on(name, listener) {
  if (!listeners.has(name)) listeners.set(name, []);
  listeners.get(name).push(listener);
}

export function emit(name, ...what) { for (const listener of listeners.get(name) ?? []) listener(...what); }

export function current() {
  return state.conversations.find((one) => one.id === state.current) ?? state.conversations[0];
}

export async function load() {
  try {
    database = await done(Object.assign(indexedDB.open("turnpike", 1), {
      onupgradeneeded: ({ target }) => target.result.createObjectStore("conversations", { keyPath: "id" }),
    }));
    state.conversations = await done(table("readonly").getAll());
  } catch { database = null; } // as a private window may have none: all is kept as long as it is open
  migrate();
  for (const id of Object.keys(drafts)) if (!state.conversations.some((one) => one.id === id)) state.conversations.push(fresh({ id }));
  if (!state.conversations.length) state.conversations.push(fresh());
  sort();
  others.onmessage = ({ data }) => hear(data);
}

function migrate() {
  const { conversations = [], ...choices } = read(EARLIER);
  for (const { id, messages, turn, model } of conversations) {
    if (!messages?.length) continue;
    const one = ofMessages(messages, { id });
    if (turn) one.turn = { id: turn, node: one.next - 1, model, kept: 0 };
    state.conversations.push(one);
    save(one);
  }
  if (!conversations.length) return;
  Object.assign(state, choices);
  saveChoices();
  localStorage.removeItem(EARLIER);
}

export function sort() { state.conversations.sort((a, b) => b.used - a.used); }

export function save(conversation) {
  if (!state.conversations.includes(conversation)) return; // it was deleted meanwhile
  write(conversation.id, (conversations) => conversations.put(conversation));
}

export function drop(conversation) {
  state.conversations = state.conversations.filter((one) => one !== conversation);
  keepDraft(conversation, "");
  write(conversation.id, (conversations) => conversations.delete(conversation.id));
}

function write(id, deed) {
  if (!database) return;
  numWritten += 1;
  try {
    const conversations = table("readwrite");
    deed(conversations).onsuccess = () => others.postMessage(id);
    conversations.transaction.onabort = ({ target }) => notKept(target.error); // as where the disk is full
    conversations.transaction.commit(); // the page may be left at any moment
  } catch (error) { notKept(error); }
}

// All goes on as long as the page is open.
function notKept(error) { say(`This browser does not keep it: ${error.message}. Export what is to stay.`); }

// Another tab has changed or deleted it. Who reads an answer here has the better copy.
async function hear(id) {
  if (!database) return;
  const before = numWritten;
  const found = await done(table("readonly").get(id));
  if (numWritten !== before) return hear(id); // what was found may be older than what was changed here meanwhile
  const there = state.conversations.find((one) => one.id === id);
  if (running.has(there)) return;
  const isOpen = there === current();
  if (found && isOpen && document.hidden) found.isUnread = true; // drawn once it is seen
  if (!found) state.conversations = state.conversations.filter((one) => one !== there);
  else if (there) Object.assign(there, found); // whoever holds it, as an Undo, holds it on
  else state.conversations.push(found);
  if (!state.conversations.length) state.conversations.push(fresh());
  sort();
  emit(isOpen && !(found && document.hidden) ? "opened" : "listed");
}

export function saveChoices() {
  const { current, model, key, thinking } = state;
  keep(CHOICES, { current, model, key, thinking });
}

export function draftOf(conversation) { return drafts[conversation.id] ?? ""; }

export function keepDraft(conversation, text) {
  const kept = read(DRAFTS); // other tabs' among them
  for (const all of [drafts, kept]) {
    if (text) all[conversation.id] = text;
    else delete all[conversation.id];
  }
  keep(DRAFTS, kept);
}

export function turnNode(conversation) { return nodeOf(conversation, conversation.turn?.node); }

function read(name) {
  try { return JSON.parse(localStorage.getItem(name)) ?? {}; } catch { return {}; } // what is not ours is replaced
}

function keep(name, value) {
  try { localStorage.setItem(name, JSON.stringify(value)); } catch { /* full, or none there: for as long as it is open */ }
}

function table(mode) { return database.transaction("conversations", mode).objectStore("conversations"); }

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
