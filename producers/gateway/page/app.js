// The page: several conversations side by side, kept in this browser, and the cluster that answers them.
import { leave, readOn, stop } from "./answers.js";
import { showCluster } from "./cluster.js";
import { showComposer } from "./composer.js";
import { $ } from "./dom.js";
import { exportAll, exportJson, exportMarkdown } from "./files.js";
import { begin, drawList, dropCurrent, open, rename, step } from "./list.js";
import { drawMessages } from "./messages.js";
import { readModels, showChoices } from "./models.js";
import { openOptions, showOptions } from "./options.js";
import { current, keepDraft, load, on, saveChoices, state } from "./store.js";

const narrow = matchMedia("(max-width: 48rem)");

// --- Two views, and a list that is a drawer on a phone ---

function showView() {
  const isCluster = location.hash === "#cluster";
  $("chat").hidden = isCluster;
  $("cluster").hidden = !isCluster;
  for (const [id, isHere] of [["tochat", !isCluster], ["tocluster", isCluster]]) {
    if (isHere) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
  showCluster(isCluster);
  list(false);
}

function list(isOpen) {
  document.body.classList.toggle("listing", isOpen);
  $("side").inert = narrow.matches && !isOpen;
  $("side").setAttribute("role", narrow.matches && isOpen ? "dialog" : "complementary");
  for (const one of document.querySelectorAll(".tolist")) one.setAttribute("aria-expanded", String(isOpen));
  if (isOpen) $("new").focus();
}

addEventListener("hashchange", showView);
narrow.addEventListener("change", () => list(false));
for (const one of document.querySelectorAll(".tolist")) one.addEventListener("click", () => list(!document.body.classList.contains("listing")));
$("shade").addEventListener("click", () => list(false));
on("opened", () => { list(false); showChoices(); showOptions(); });

// --- What there is for the open conversation ---

for (const [id, deed] of Object.entries({ rename, drop: dropCurrent, asmarkdown: exportMarkdown, asjson: exportJson, all: exportAll, import: () => $("file").click() })) {
  $(id).addEventListener("click", () => { $("menu").hidePopover(); deed(); });
}
$("tooptions").addEventListener("click", openOptions);

// --- Keys ---

const KEYS = {
  n: begin,
  r: rename,
  o: openOptions,
  k: () => { list(true); $("search").focus(); },
  c: () => { location.hash = location.hash === "#cluster" ? "" : "#cluster"; },
  m: () => $("model").focus(),
  arrowup: () => step(-1),
  arrowdown: () => step(1),
};
document.addEventListener("keydown", (event) => {
  const isSearching = event.target === $("search") && $("search").value; // Escape empties it
  if (event.key === "Escape" && !isSearching && !document.querySelector("dialog[open], [popover]:popover-open")) {
    if (document.body.classList.contains("listing")) { list(false); document.querySelector("main:not([hidden]) .tolist").focus(); }
    else stop(current());
  }
  if (!event.altKey || event.ctrlKey || event.metaKey) return;
  // With Alt some keyboards write other signs: then by its place.
  const key = (/^[a-z]$/i.test(event.key) ? event.key : event.code.replace(/^(Key|Digit)/, "")).toLowerCase();
  const number = Number(key);
  const deed = number ? () => $("conversations").querySelectorAll("button")[number - 1]?.click() : KEYS[key];
  if (deed) { event.preventDefault(); deed(); }
});

// --- Begin ---

await load();
state.current = current().id;
saveChoices();
if ($("text").value) keepDraft(current(), $("text").value); // typed before the page lived
drawMessages();
drawList();
showComposer();
showOptions();
showView();
readModels();
for (const conversation of state.conversations) if (conversation.turn) readOn(conversation);
document.addEventListener("visibilitychange", () => { if (!document.hidden && current().isUnread) open(current(), { focuses: false }); });
addEventListener("pagehide", () => state.conversations.forEach(leave));
addEventListener("pageshow", ({ persisted }) => { if (persisted) location.reload(); }); // its readers have left
if (!narrow.matches) $("text").focus();
document.body.dataset.ready = "";
