// The list of conversations: found by their words, each with how it stands.
import { statusOf } from "./answers.js";
import { $, h, say } from "./dom.js";
import { current, draftOf, drop, emit, keepDraft, on, save, saveChoices, sort, state } from "./store.js";
import { fresh, titleOf } from "./tree.js";

const touched = matchMedia("(pointer: coarse)"); // where a focused field brings up a keyboard

export function open(conversation, { focuses = true } = {}) {
  state.current = conversation.id;
  if (conversation.isUnread) { conversation.isUnread = false; save(conversation); }
  saveChoices();
  location.hash = "";
  document.body.classList.remove("listing");
  emit("opened");
  if (focuses) $("text").focus();
}

// One that nothing was said in yet is taken instead of another such.
export function begin() {
  let one = state.conversations.find((conversation) => !conversation.nodes.length && !conversation.system && !draftOf(conversation) && !conversation.title);
  if (!one) {
    one = fresh({ wants: current().wants });
    state.conversations.unshift(one);
  }
  one.used = Date.now();
  sort();
  open(one);
}

export function dropCurrent() {
  const conversation = current();
  if (conversation.turn) { say("Stop the answer first."); return; }
  const draft = draftOf(conversation);
  drop(conversation);
  if (!state.conversations.length) state.conversations.push(fresh());
  open(current());
  say(`Deleted: ${titleOf(conversation)}`, () => {
    if (!state.conversations.some((one) => one.id === conversation.id)) state.conversations.push(conversation); // another tab may have it
    sort();
    save(conversation);
    keepDraft(conversation, draft);
    open(conversation);
  });
}

export function rename() {
  if ($("title").querySelector("input")) return; // just being done
  const conversation = current();
  const input = h("input", { "aria-label": "Name of the conversation", maxlength: 120 });
  input.value = titleOf(conversation);
  let isKept = true;
  const close = () => {
    if (isKept && input.value.trim() !== titleOf(conversation)) { conversation.title = input.value.trim(); save(conversation); }
    $("title").textContent = "";
    emit("listed");
  };
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); isKept = false; }
    if (event.key === "Enter" || event.key === "Escape") $("text").focus();
  });
  $("title").replaceChildren(input);
  input.select();
}

export function step(by) {
  const shown = [...$("conversations").querySelectorAll("button")];
  const at = shown.findIndex((one) => one.getAttribute("aria-current") === "true");
  shown[Math.min(shown.length - 1, Math.max(0, at + by))]?.click();
}

export function drawList() {
  const wanted = $("search").value.trim().toLowerCase();
  const found = state.conversations.filter((one) => !wanted || has(one, wanted));
  const isInside = $("conversations").contains(document.activeElement);
  $("conversations").replaceChildren(...found.map((one) => h("li", {}, row(one))));
  $("found").textContent = !wanted ? "" : found.length ? `${found.length} found` : "nothing found";
  if (isInside) $("conversations").querySelector("[aria-current=true]")?.focus();
  if (!$("title").querySelector("input")) $("title").textContent = titleOf(current());
  document.title = `${titleOf(current())} – Turnpike`;
}

function has(conversation, words) {
  return titleOf(conversation).toLowerCase().includes(words) || conversation.nodes.some((one) => one.content.toLowerCase().includes(words));
}

function row(conversation) {
  const isOpen = conversation === current();
  const button = h("button", { type: "button", "aria-current": String(isOpen), onclick: () => open(conversation, { focuses: !touched.matches }) }, h("span", { class: "name" }, titleOf(conversation)));
  const [kind, words] = standing(conversation);
  if (kind) button.append(h("span", { class: `standing ${kind}` }, words));
  return button;
}

function standing(conversation) {
  if (conversation.turn) return ["running", statusOf(conversation) || "answering"];
  if (conversation.isUnread) return ["unread", conversation.nodes.at(-1)?.bad ? "failed" : "answered"];
  if (draftOf(conversation) && conversation !== current()) return ["draft", "draft"];
  return [];
}

for (const name of ["opened", "listed", "begun", "ended"]) on(name, drawList);
on("told", (conversation) => {
  const at = [...$("conversations").querySelectorAll("button")][state.conversations.indexOf(conversation)];
  if (at?.querySelector(".running") && !$("search").value) at.querySelector(".running").textContent = statusOf(conversation) || "answering";
});
$("search").addEventListener("input", drawList);
$("new").addEventListener("click", begin);
