// The open conversation: its messages, drawn once and then only where they grow.
import { answer, ask, goOn } from "./answers.js";
import { copied } from "./code.js";
import { $, h, say, signed } from "./dom.js";
import { render } from "./markdown.js";
import { current, emit, on, save, turnNode } from "./store.js";
import { choose, nodeOf, path, remove, restore } from "./tree.js";
import { CUTS } from "./words.js";

const AT_ONCE = 8; // messages from the end whose Markdown is rendered before they are near
const AT_END = 80; // pixels from the end within which a growing answer is followed
const drawn = new Map(); // node → its article, of the open conversation
const folds = new WeakMap(); // node → which of its folded parts are open
let waiting = null; // for a frame in which the grown answer is drawn
let pause = 0; // milliseconds before it: what takes long is drawn less often

const near = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) if (isIntersecting) { near.unobserve(target); target.fill(); }
}, { root: $("messages"), rootMargin: "1500px 0px" });

export function drawMessages({ keepsPlace = false } = {}) {
  const box = $("messages");
  const top = box.scrollTop;
  near.disconnect();
  drawn.clear();
  const found = path(current());
  box.replaceChildren(...found.map(({ node, versions }, index) => article(node, versions, index >= found.length - AT_ONCE)));
  $("welcome").hidden = found.length > 0;
  if (keepsPlace) box.scrollTop = top;
  else toEnd();
}

function article(node, versions, isNear) {
  const isMine = node.role === "user";
  const box = h("article", { class: node.role },
    h("h2", { class: "hidden" }, isMine ? "You" : node.model || "Answer"),
    h("div", { class: "text" }));
  drawn.set(node, box);
  if (isMine) box.lastChild.textContent = node.content;
  else {
    box.append(h("p", { class: "facts" }));
    box.fill = () => grow(node, box);
    if (isNear) box.fill();
    else { box.querySelector(".text").textContent = node.content; showBesides(box, node); near.observe(box); }
  }
  box.append(actions(node, versions));
  if (!isMine) showFacts(node, box);
  return box;
}

function actions(node, versions) {
  const isBusy = Boolean(current().turn);
  const isMine = node.role === "user";
  const step = (by) => () => {
    choose(current(), versions[versions.indexOf(node) + by]);
    changed();
    $("messages").querySelector(`[data-versions="${node.parent}"] button:not([disabled])`)?.focus();
  };
  const at = versions.indexOf(node);
  return h("div", { class: "actions", role: "group", "aria-label": isMine ? "Your message" : "This answer" },
    versions.length > 1 && h("span", { class: "versions", "data-versions": node.parent },
      signed("‹", "Version before", step(-1), { disabled: at === 0 || isBusy }), `${at + 1}/${versions.length}`,
      signed("›", "Version behind", step(1), { disabled: at === versions.length - 1 || isBusy })),
    h("button", { type: "button", onclick: ({ currentTarget }) => copied(currentTarget, node.content) }, "Copy"),
    isMine
      ? h("button", { type: "button", class: "edit", disabled: isBusy, onclick: () => edit(node) }, "Edit")
      : h("button", { type: "button", class: "again", disabled: isBusy, onclick: () => another(node) }, "Regenerate"),
    h("button", { type: "button", disabled: isBusy, title: "With all that came of it", onclick: () => drop(node) }, "Delete"),
    !isMine && h("button", { type: "button", class: "on", hidden: true, disabled: isBusy, onclick: () => goOn(current(), node) }, "Go on"));
}

// --- What a hand does with a message ---

function changed() {
  save(current());
  drawMessages({ keepsPlace: true });
  emit("listed");
}

export function edit(node) {
  const box = drawn.get(node);
  const text = h("textarea", { "aria-label": "Edit the message", rows: Math.min(12, node.content.split("\n").length + 1) });
  text.value = node.content;
  const close = () => { box.replaceWith(article(node, path(current()).find((one) => one.node === node).versions, true)); drawn.get(node).querySelector(".edit").focus(); };
  const resend = () => { if (text.value.trim() && !current().turn) ask(current(), node.parent, text.value.trim()); };
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); resend(); }
    if (event.key === "Escape") { event.stopPropagation(); close(); }
  });
  box.replaceChildren(h("h2", { class: "hidden" }, "You"), text, h("div", { class: "actions" },
    h("button", { type: "button", onclick: resend }, "Send again"), h("button", { type: "button", onclick: close }, "Leave it")));
  text.focus();
}

function another(node) { answer(current(), nodeOf(current(), node.parent), { isAnother: true }); }

function drop(node) {
  const conversation = current();
  const gone = remove(conversation, node);
  changed();
  $("text").focus();
  say("Deleted.", () => { restore(conversation, gone); save(conversation); emit("opened"); });
}

// --- An answer that grows ---

function showFacts(node, box) {
  const line = box.querySelector(".facts");
  line.className = node.bad ? "facts bad" : "facts";
  const cut = node.cut && turnNode(current()) !== node ? CUTS[node.cut] : null;
  line.replaceChildren(...[cut && h("strong", { class: "cut" }, cut), node.bad ?? node.facts].filter(Boolean).flatMap((one, index) => index ? [" · ", one] : [one]));
  const button = box.querySelector(".on");
  if (button) button.hidden = !(cut && node.content);
}

// Thoughts and calls: what the model said besides its answer.
function besides(node) {
  const found = (node.calls ?? []).map((call) => ({ kind: "call", title: `Calls ${call.name}`, text: call.arguments }));
  const thoughts = node.reasoning?.trim();
  if (thoughts) found.unshift({ kind: "thoughts", title: node.content || found.length ? "Thoughts" : "Thinking …", text: thoughts });
  return found;
}

// Folded, thoughts before the text and calls behind it; each is made once, so that what somebody opens stays open as it grows.
function showBesides(box, node) {
  if (!folds.has(node)) folds.set(node, new Set());
  const open = folds.get(node);
  for (const [kind, place] of [["thoughts", ".text"], ["call", ".facts"]]) {
    const found = besides(node).filter((one) => one.kind === kind);
    const shown = [...box.querySelectorAll(`details.${kind}`)];
    shown.slice(found.length).forEach((one) => one.remove());
    found.forEach(({ title, text }, index) => {
      let one = shown[index];
      if (!one) {
        const name = `${kind} ${index}`;
        one = h("details", { class: kind, open: open.has(name), ontoggle: () => { if (one.open) open.add(name); else open.delete(name); } }, h("summary"), h("div"));
        box.insertBefore(one, box.querySelector(place));
      }
      one.firstChild.textContent = title;
      one.lastChild.textContent = text;
    });
  }
}

function grow(node, box) {
  const isWhole = turnNode(current()) !== node;
  showBesides(box, node);
  const text = box.querySelector(".text");
  text.classList.toggle("coming", !isWhole);
  render(text, node.content, isWhole);
}

function isAtEnd() {
  const { scrollHeight, scrollTop, clientHeight } = $("messages");
  return scrollHeight - scrollTop - clientHeight < AT_END;
}

export function toEnd() { $("messages").scrollTop = $("messages").scrollHeight; }

on("grown", (conversation, node) => {
  if (waiting || conversation !== current()) return;
  waiting = setTimeout(requestAnimationFrame, pause, () => {
    const since = performance.now();
    waiting = null;
    const box = drawn.get(node);
    if (!box || conversation !== current()) return;
    const follows = isAtEnd();
    grow(node, box);
    showFacts(node, box);
    if (follows) toEnd();
    pause = 3 * (performance.now() - since);
  });
});
on("begun", (conversation) => { if (conversation === current()) drawMessages(); });
on("ended", (conversation, node) => {
  if (conversation !== current() || !drawn.has(node)) return;
  const follows = isAtEnd();
  const focused = document.activeElement;
  for (const { node: one, versions } of path(conversation)) {
    const box = drawn.get(one);
    if (!box || box.contains(focused) && focused.tagName === "TEXTAREA") continue;
    box.querySelector(".actions").replaceWith(actions(one, versions));
    if (one.role === "assistant") showFacts(one, box);
  }
  drawn.get(node).querySelector("h2").textContent = node.model || "Answer";
  grow(node, drawn.get(node));
  if (follows) toEnd();
});
on("opened", () => drawMessages());
