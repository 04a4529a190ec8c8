// Where a message is written: it grows with its text, and keeps it for each conversation.
import { ask, stop, statusOf } from "./answers.js";
import { $, say } from "./dom.js";
import { edit } from "./messages.js";
import { current, draftOf, keepDraft, on } from "./store.js";
import { last, path } from "./tree.js";

const text = $("text");

export function showComposer() {
  text.value = draftOf(current());
  say(statusOf(current()));
  fit();
  showBusy();
}

function showBusy() {
  const isBusy = Boolean(current().turn);
  $("stop").hidden = !isBusy;
  $("send").hidden = isBusy;
}

function fit() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

function draft() {
  keepDraft(current(), text.value); // apart from its conversation, which may be long
  fit();
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const said = text.value.trim();
  if (!said || current().turn) return;
  text.value = "";
  draft();
  ask(current(), last(current())?.id ?? 0, said);
  text.focus();
});
text.addEventListener("input", draft);
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("ask").requestSubmit(); }
  if (event.key === "ArrowUp" && !text.value && !current().turn) {
    const mine = path(current()).findLast(({ node }) => node.role === "user");
    if (mine) { event.preventDefault(); edit(mine.node); }
  }
});
// A phone's keyboard has no Shift+Enter.
$("newline").addEventListener("click", () => {
  text.setRangeText("\n", text.selectionStart, text.selectionEnd, "end");
  draft();
  text.focus();
});
$("stop").addEventListener("click", () => stop(current()));
on("opened", showComposer);
on("begun", showBusy);
on("ended", (conversation) => { if (conversation === current()) showBusy(); });
