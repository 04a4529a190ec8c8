// What is told of a turn, in words.

export function place({ turns_ahead, seconds, workers, state, share, load_seconds }) {
  if (state) return loading(state, share, load_seconds);
  if (workers === 0) return "no worker serves the model just now: the turn waits";
  const turns = `${turns_ahead} ${turns_ahead === 1 ? "turn" : "turns"} ahead`;
  return seconds ? `${turns}, about ${Math.round(seconds)} s` : turns;
}

function loading(state, share, seconds) {
  if (state === "broken") return "the model cannot be loaded just now: the turn waits";
  const part = state === "loading" && share != null ? `loading ${Math.round(100 * share)} %` : state === "loading" ? "loading" : "not loaded yet";
  return state === "loaded" ? "" : `${part}, about ${Math.round(seconds)} s`;
}

export function rate(number, since) { return (1000 * (number - 1) / Math.max(1, performance.now() - since)).toFixed(1); }

export function facts({ usage, timings, worker, node, celsius, is_throttled }) {
  const parts = [];
  if (usage.completion_tokens > 1 && timings.decode > 0) parts.push(`${((usage.completion_tokens - 1) / timings.decode).toFixed(1)} tokens/s`);
  parts.push(`${usage.completion_tokens} tokens`);
  if (usage.prompt_tokens) parts.push(`${Math.round(100 * (usage.cached_tokens ?? 0) / usage.prompt_tokens)} % of ${usage.prompt_tokens} cached`);
  parts.push(node ? `${worker} on ${node}` : worker);
  if (celsius != null) parts.push(`${celsius.toFixed(0)} °C${is_throttled ? ", throttled" : ""}`);
  return parts.join(" · ");
}

export const CUTS = { length: "cut at its limit of tokens", stopped: "stopped", lost: "cut" };
