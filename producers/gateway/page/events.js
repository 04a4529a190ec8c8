// Requests to the gateway, and the events of a stream.
import { state } from "./store.js";

export async function call(path, { headers = {}, ...options } = {}) {
  const key = state.key ? { Authorization: `Bearer ${state.key}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...key, ...headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("the gateway cannot be reached"), { isLost: true });
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw Object.assign(new Error(said?.error?.message ?? answer.statusText), { status: answer.status });
}

export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith(": turnpike ")) yield { comment: JSON.parse(part.slice(11)) };
      else if (part.startsWith("data: {")) yield { data: JSON.parse(part.slice(6)) };
    }
  }
}
