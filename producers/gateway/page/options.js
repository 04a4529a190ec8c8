// What a conversation has of its own: a system prompt, and how its answers are sampled.
import { $, say } from "./dom.js";
import { current, emit, save } from "./store.js";

const NUMBERS = ["temperature", "top_p", "min_p", "repeat_penalty", "max_tokens", "seed"]; // as the API calls them

export function openOptions() {
  const { system, sampling } = current();
  $("system").value = system;
  for (const name of NUMBERS) $(name).value = sampling[name] ?? "";
  $("options").showModal();
}

$("options").addEventListener("close", () => {
  if ($("options").returnValue !== "keep") return;
  const conversation = current();
  conversation.system = $("system").value.trim();
  conversation.sampling = Object.fromEntries(NUMBERS.filter((name) => $(name).value !== "").map((name) => [name, $(name).valueAsNumber]));
  save(conversation);
  emit("listed");
  showOptions();
  say("Kept for this conversation's next answers.");
});
$("options").addEventListener("click", ({ target }) => { if (target === $("options")) $("options").close(""); });

// Whether there is anything of its own.
export function showOptions() {
  const { system, sampling } = current();
  const number = Number(Boolean(system)) + Object.keys(sampling).length;
  $("tuned").textContent = number ? `${number} set` : "";
}
