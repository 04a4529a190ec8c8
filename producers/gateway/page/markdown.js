// An answer's Markdown as elements: block by block, so that what has not changed since stays as it is.
import { Lexer, Marked } from "./vendor/marked/marked.esm.js";
import "./vendor/dompurify/purify.min.js";
import { dress } from "./code.js";
import { h } from "./dom.js";

const ALLOWED = {
  ALLOWED_TAGS: "a b blockquote br code del details em h3 hr i ins kbd li mark ol p pre s small span strong sub summary sup table tbody td th thead tr u ul".split(" "),
  ALLOWED_ATTR: ["align", "class", "href", "start", "title"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|#)/i,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
const OURS = /^(language-[\w+#-]+|d[1-6])$/; // classes that an answer may have
const MARKS = /&#60;(\/?(?:b|br|del|details|em|i|ins|kbd|mark|p|s|small|strong|sub|summary|sup|u)\s*\/?)&#62;/gi;
const MAX_WORD = 2000; // characters without a space, beyond which a text is no prose and shown as it stands
const DEEP = /^(?:[ \t]*(?:>|[-*+][ \t]|\d{1,9}[.)][ \t])){60}/m; // quotes and lists that nest so in one line
let effort = 0; // characters that may still be looked through for the other end of an emphasis
const marked = new Marked({
  gfm: true,
  tokenizer: { emStrong: isWorth, del: isWorth },
  renderer: {
    // The page's own headings are above: an answer's come below them, at whatever depth it begins.
    heading({ tokens, depth }) { return `<h3 class="d${depth}">${this.parser.parseInline(tokens)}</h3>`; },
    checkbox({ checked }) { return checked ? "☑ " : "☐ "; },
    // Of HTML only what marks words; all else is seen as it was written.
    html({ text }) { return escaped(text).replace(MARKS, "<$1>"); },
    // Nothing is fetched because an answer says so.
    image({ href, text }) { return `<a href="${escaped(href)}">${escaped(text || href)}</a>`; },
  },
});

// Some texts cost their length squared, as `*a_*a_…`: when that is spent, marks are shown as they were written.
function isWorth(text) { return (effort -= text.length) > 0 ? false : undefined; } // false: as marked does it

class Bounded extends Lexer {
  inlineTokens(text, tokens = []) {
    if (text.split(/\s/).every((word) => word.length < MAX_WORD)) return super.inlineTokens(text, tokens);
    tokens.push({ type: "text", raw: text, text });
    return tokens;
  }
}

function escaped(text) { return text.replace(/[&<>"]/g, (one) => `&#${one.charCodeAt(0)};`); }

// Puts the text into the box. `isWhole`: nothing more is to come, and all of it is looked at again.
export function render(box, text, isWhole) {
  const known = box.blocks ?? (box.replaceChildren(), box.blocks = []);
  // A block that another one follows does not change any more: the text is read from the last one on.
  let from = isWhole ? 0 : Math.max(0, known.length - 1);
  if (!text.startsWith(known.slice(0, from).map((one) => one.raw).join(""))) from = 0;
  const start = known.slice(0, from).reduce((sum, one) => sum + one.raw.length, 0);
  const blocks = blocksOf(text.slice(start));
  blocks.forEach(({ raw, html }, index) => {
    const place = known[from + index];
    if (place?.html === html) place.raw = raw;
    else put(box, known, from + index, raw, html);
  });
  for (const gone of known.splice(from + blocks.length)) gone.element.remove();
}

// As it was written, where it nests too deeply to be read: a model that repeats itself may write `>` for ever.
function blocksOf(text) {
  try { if (!DEEP.test(text)) return parsed(text); } catch (error) { if (!(error instanceof RangeError)) throw error; }
  return [{ raw: text, html: `<p>${escaped(text)}</p>` }];
}

// The text's blocks, each with the blank lines behind it.
function parsed(text) {
  effort = 50000 + 20 * text.length;
  const tokens = new Bounded(marked.defaults).lex(text);
  const found = [];
  for (const token of tokens) {
    if (token.type === "space" && found.length) found.at(-1).raw += token.raw;
    else found.push({ raw: token.raw, html: marked.parser(Object.assign([token], { links: tokens.links })) });
  }
  return found;
}

function put(box, known, index, raw, html) {
  const element = h("div");
  element.append(DOMPurify.sanitize(html, ALLOWED));
  for (const one of element.querySelectorAll("[class]")) if (!OURS.test(one.className)) one.removeAttribute("class");
  for (const link of element.querySelectorAll("a")) { link.target = "_blank"; link.rel = "noopener noreferrer"; }
  for (const table of element.querySelectorAll("table")) {
    const around = h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Table" });
    table.replaceWith(around);
    around.append(table);
  }
  for (const code of element.querySelectorAll("pre > code")) dress(code);
  if (known[index]) known[index].element.replaceWith(element);
  else box.append(element);
  known[index] = { raw, html, element };
}
