// Elements, and words that are said aloud.

export const $ = (id) => document.getElementById(id);

// An element: its attributes (`on…` are listeners, true and false set and leave out), then its children.
export function h(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((one) => one != null && one !== false));
  return made;
}

// A button whose sign is not its name.
export function signed(sign, label, onclick, more = {}) {
  return h("button", { type: "button", "aria-label": label, title: label, onclick, ...more }, sign);
}

// The line below the conversation; `undo` is what takes the deed back, and stays until something else is said.
let undone = 0;
export function say(text, undo = null) {
  if (!text && undone) return;
  clearTimeout(undone);
  undone = 0;
  $("status").replaceChildren(text);
  if (!undo) return;
  const close = () => { undone = 0; say(""); };
  $("status").append(" ", h("button", { type: "button", onclick: () => { close(); undo(); } }, "Undo"));
  announce(text);
  undone = setTimeout(close, 15000);
}

// For who does not see the page: once for a deed or an answer, never for each piece.
export function announce(text) {
  $("announced").textContent = text.slice(0, 3000);
}
