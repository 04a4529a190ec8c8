// Conversations as files: Markdown for people, JSON for this page again.
import { $, h, say } from "./dom.js";
import { open } from "./list.js";
import { current, save, sort, state } from "./store.js";
import { fresh, ofMessages, path, titleOf } from "./tree.js";

const FORMAT = "turnpike-conversations";
const KEPT = ["title", "used", "nodes", "chosen", "next", "system", "sampling", "wants"];
const TEXTS = ["content", "reasoning", "facts", "bad", "cut", "model"];

export function asMarkdown(conversation) {
  const parts = [`# ${titleOf(conversation)}`];
  if (conversation.system) parts.push(`## System\n\n${conversation.system}`);
  for (const { node } of path(conversation)) {
    parts.push(`## ${node.role === "user" ? "You" : node.model || "Answer"}\n\n${node.content}`);
    for (const { name, arguments: given } of node.calls ?? []) parts.push(`Calls \`${name}\`:\n\n\`\`\`json\n${given}\n\`\`\``);
  }
  return `${parts.join("\n\n")}\n`;
}

export function asJson(conversations) {
  const found = conversations.map((one) => Object.fromEntries(KEPT.map((name) => [name, one[name]])));
  return JSON.stringify({ format: FORMAT, version: 1, conversations: found }, null, 1);
}

export function exportMarkdown() { give(asMarkdown(current()), "text/markdown", `${nameOf(current())}.md`); }

export function exportJson() { give(asJson([current()]), "application/json", `${nameOf(current())}.json`); }

export function exportAll() { give(asJson(state.conversations.filter((one) => one.nodes.length)), "application/json", "turnpike-conversations.json"); }

function nameOf(conversation) { return titleOf(conversation).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "conversation"; }

function give(text, type, name) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// Raises an error that says what is wrong. Each conversation gets an id of its own: none is overwritten.
export function fromJson(text) {
  let found;
  try { found = JSON.parse(text); } catch { throw new Error("it is no JSON"); }
  if (Array.isArray(found?.messages)) return [ofMessages(found.messages.map(message))]; // as the API has them
  if (found?.format !== FORMAT || !Array.isArray(found.conversations)) throw new Error("it holds no conversations of this page");
  return found.conversations.map(conversation);
}

function message({ role, content } = {}) {
  if (!["system", "user", "assistant"].includes(role) || typeof content !== "string") throw new Error("a message is none");
  return { role, content };
}

function conversation(found) {
  if (!Array.isArray(found?.nodes)) throw new Error("a conversation has no messages");
  const known = new Set([0]);
  const nodes = found.nodes.map((one) => {
    if (!Number.isInteger(one?.id) || known.has(one.id) || !known.has(one.parent) || one.parent >= one.id) throw new Error("a message has no place");
    known.add(one.id);
    const node = { id: one.id, parent: one.parent, ...message(one) };
    for (const name of TEXTS) if (typeof one[name] === "string") node[name] = one[name];
    if (Array.isArray(one.calls)) node.calls = one.calls.map((call) => ({ name: String(call?.name), arguments: String(call?.arguments) }));
    return node;
  });
  const text = (name) => (typeof found[name] === "string" ? found[name] : "");
  const numbers = Object.entries(found.sampling ?? {}).filter(([, value]) => typeof value === "number");
  const chosen = Object.entries(found.chosen ?? {}).filter(([, id]) => known.has(id));
  return fresh({
    title: text("title"), system: text("system"), wants: text("wants") || null, nodes,
    used: Number.isFinite(found.used) ? found.used : Date.now(),
    next: Math.max(...known) + 1, sampling: Object.fromEntries(numbers), chosen: Object.fromEntries(chosen),
  });
}

$("file").addEventListener("change", async () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (!file) return;
  try {
    const found = fromJson(await file.text());
    state.conversations.push(...found);
    sort();
    found.forEach(save);
    if (found.length) open(found[0]);
    say(`${found.length} ${found.length === 1 ? "conversation" : "conversations"} read.`);
  } catch (error) { say(`${file.name} was not read: ${error.message}`); }
});
