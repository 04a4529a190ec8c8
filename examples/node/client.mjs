// A client of Turnpike in JavaScript, written from docs/protocol.md: publish a turn, stream its answer, cancel it, read it later.
//
//   node client.mjs ask MODEL "Why is the mast alarm on?"      streams; ^C cancels
//   node client.mjs read TURN                                  the whole answer, also hours later
//
// TURNPIKE_CREDENTIALS names a credentials file, as `turnpike user add` writes it.
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect, headers, RequestError } from "@nats-io/transport-node";
import { decode, encode } from "@msgpack/msgpack";

const credentials = JSON.parse(readFileSync(process.env.TURNPIKE_CREDENTIALS, "utf8"));
const client = credentials.user;

async function open() {
  return connect({
    servers: credentials.url, user: client, pass: credentials.password,
    inboxPrefix: credentials.inbox_prefix, maxReconnectAttempts: -1,
  });
}

// Exactly one end comes; chunks come once, in order, unless something was lost: then the end's text has the rest.
async function ask(nc, model, text) {
  const id = randomBytes(16).toString("hex");
  const live = nc.subscribe(`live.${client}.${id}`); // before the publish, or its first words are missed
  const turn = { v: 1, id, conversation: id, messages: [{ role: "user", content: text }] };
  const said = headers();
  said.set("Nats-Msg-Id", id);
  said.set("Content-Type", "application/msgpack");
  let queued;
  try {
    queued = (await nc.request(`turn.${model}.interactive.${client}.${id}`, encode(turn), { headers: said, timeout: 5000 })).json();
  } catch (error) {
    if (error instanceof RequestError && error.isNoResponders()) throw new Error(`model ${model} is not served here`);
    throw error;
  }
  if (queued.error) throw new Error(queued.error.description);
  if (queued.duplicate) throw new Error("this turn's id was used before");
  process.stderr.write(`turn ${id}\n`);
  process.once("SIGINT", () => cancel(nc, model, id, queued.seq));
  let seen = "";
  let attempt = 0;
  for await (const message of live) {
    const reply = decode(message.data);
    if (reply.v !== 1) throw new Error(`wire version ${reply.v} is not spoken here`);
    if ((reply.attempt ?? 0) > attempt) { // begun anew: what was said before is void
      attempt = reply.attempt;
      seen = "";
      process.stdout.write("\n");
    }
    if (reply.type === "chunk" && (reply.text_offset ?? 0) <= seen.length) {
      const fresh = reply.text.slice(seen.length - (reply.text_offset ?? 0));
      process.stdout.write(fresh);
      seen += fresh;
    } else if (reply.type === "failed") {
      throw new Error(`${reply.code}: ${reply.detail}`);
    } else if (reply.type === "done") {
      // The end is right where it is not what was said and more.
      process.stdout.write((reply.text.startsWith(seen) ? reply.text.slice(seen.length) : `\n${reply.text}`) + "\n");
      return reply;
    }
  }
}

async function cancel(nc, model, id, sequence) {
  await nc.request(`cancel.${client}.turn.${id}`, encode({ v: 1, model, sequence }), { timeout: 5000 });
}

async function read(nc, id) {
  const found = await nc.request(`$JS.API.DIRECT.GET.ENDS.end.${client}.${id}`, "", { timeout: 5000 });
  return found.headers?.code === 404 ? null : decode(found.data);
}

const [, , command, ...rest] = process.argv;
const nc = await open();
try {
  if (command === "ask" && rest.length === 2) {
    const end = await ask(nc, ...rest);
    process.stderr.write(`${end.finish_reason}, ${end.usage.completion_tokens} tokens by ${end.worker}\n`);
  } else if (command === "read" && rest.length === 1) {
    const end = await read(nc, rest[0]);
    if (end === null) throw new Error("no such turn, or it has not ended");
    process.stdout.write(`${end.text ?? `${end.code}: ${end.detail}`}\n`);
  } else {
    throw new Error("usage: node client.mjs ask MODEL TEXT | read TURN");
  }
} catch (error) {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
} finally {
  await nc.close();
}
