// A block of code: coloured, with its language and a button that copies it. Grammars come when they are needed.
import { announce, h } from "./dom.js";

const GRAMMARS = {
  bash: "sh zsh", c: "h", cpp: "c++ cc hpp cxx", css: "", diff: "patch", dockerfile: "docker", go: "golang", ini: "toml", java: "",
  javascript: "js jsx mjs cjs ts tsx typescript", json: "jsonc json5", makefile: "make mk", markdown: "md", python: "py",
  rust: "rs", shell: "console shellsession", sql: "", xml: "html svg xhtml", yaml: "yml",
};
const WITHIN = { xml: ["css", "javascript"], markdown: ["xml"], shell: ["bash"] }; // what they embed
const NAMES = new Map(Object.entries(GRAMMARS).flatMap(([name, more]) => [name, ...more.split(" ")].map((one) => [one, name])));
const MAX_LENGTH = 50000; // characters that are worth colouring
const coming = new Map(); // grammar → promise
let hljs = null;

export function dress(code) {
  const said = /language-(\S+)/.exec(code.className)?.[1] ?? "";
  const pre = code.parentElement;
  pre.tabIndex = 0;
  const copy = h("button", { type: "button", onclick: () => copied(copy, code.textContent) }, "Copy");
  const around = h("div", { class: "code" }, h("div", { class: "bar" }, h("span", {}, said || "text"), copy));
  pre.replaceWith(around);
  around.append(pre);
  const name = NAMES.get(said.toLowerCase());
  if (!name || code.textContent.length > MAX_LENGTH) return;
  if (hljs?.getLanguage(name)) colour(code, name);
  else grammar(name).then(() => colour(code, name), () => {}); // uncoloured it can be read too
}

function colour(code, language) {
  code.innerHTML = hljs.highlight(code.textContent, { language, ignoreIllegals: true }).value; // escaped there
}

async function grammar(name) {
  if (!coming.has(name)) coming.set(name, fetchGrammar(name));
  return coming.get(name);
}

async function fetchGrammar(name) {
  const [core, { default: made }] = await Promise.all([
    import("./vendor/highlight/core.min.js"),
    import(`./vendor/highlight/languages/${name}.min.js`),
    ...(WITHIN[name] ?? []).map(grammar),
  ]);
  hljs = core.default;
  hljs.registerLanguage(name, made);
}

export async function copied(button, text) {
  const was = button.textContent;
  button.textContent = await put(text) ? "Copied" : "Not copied";
  announce(button.textContent);
  setTimeout(() => { button.textContent = was; }, 1500);
}

// By another machine's plain address there is no clipboard: then by a selection, as it was once done.
async function put(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const hidden = h("textarea", { class: "hidden", "aria-hidden": "true" });
  hidden.value = text;
  document.body.append(hidden);
  hidden.select();
  const isCopied = document.execCommand("copy");
  hidden.remove();
  return isCopied;
}
