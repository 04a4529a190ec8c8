// A conversation is a tree: what was edited or asked again stays beside what came of it. Nodes are messages, 0 is the root.

export function fresh(more = {}) {
  const id = [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
  return { id, title: "", used: Date.now(), nodes: [], chosen: {}, next: 1, system: "", sampling: {}, wants: null, turn: null, isUnread: false, ...more };
}

// From the root on, the message that is chosen of each set of versions, with these.
export function path(conversation) {
  const versionsOf = new Map();
  for (const node of conversation.nodes) {
    if (!versionsOf.has(node.parent)) versionsOf.set(node.parent, []);
    versionsOf.get(node.parent).push(node);
  }
  const found = [];
  for (let at = 0, versions; (versions = versionsOf.get(at));) {
    const node = versions.find((one) => one.id === conversation.chosen[at]) ?? versions.at(-1);
    found.push({ node, versions });
    at = node.id;
  }
  return found;
}

export function last(conversation) { return path(conversation).at(-1)?.node; }

export function nodeOf(conversation, id) { return conversation.nodes.find((one) => one.id === id); }

export function add(conversation, parent, role, content) {
  const node = { id: conversation.next++, parent, role, content };
  conversation.nodes.push(node);
  conversation.chosen[parent] = node.id;
  return node;
}

export function choose(conversation, node) { conversation.chosen[node.parent] = node.id; }

// The message and all that came of it; its versions stay. What `restore` wants comes back.
export function remove(conversation, node) {
  const gone = new Set([node.id]);
  for (const one of conversation.nodes) if (gone.has(one.parent)) gone.add(one.id); // parents come first
  const found = { nodes: conversation.nodes.filter((one) => gone.has(one.id)), chosen: { [node.parent]: node.id } };
  conversation.nodes = conversation.nodes.filter((one) => !gone.has(one.id));
  for (const id of [...gone, node.parent]) {
    if (conversation.chosen[id]) found.chosen[id] = conversation.chosen[id];
    delete conversation.chosen[id];
  }
  return found;
}

// Beside what was said meanwhile, which stays; as far as what it was said to is still there.
export function restore(conversation, { nodes, chosen }) {
  const known = new Set([0, ...conversation.nodes.map((one) => one.id)]);
  for (const node of nodes) {
    if (known.has(node.id) || !known.has(node.parent)) continue;
    known.add(node.id);
    conversation.nodes.push(node);
  }
  conversation.nodes.sort((a, b) => a.id - b.id);
  // An answer that comes just now stays in sight.
  conversation.chosen = conversation.turn ? { ...chosen, ...conversation.chosen } : { ...conversation.chosen, ...chosen };
}

// What a turn says: the system prompt, and the messages down to that one. An answer without words is left out.
export function history(conversation, id) {
  const found = [];
  for (let node = nodeOf(conversation, id); node; node = nodeOf(conversation, node.parent)) {
    if (node.content) found.unshift({ role: node.role, content: node.content });
  }
  if (conversation.system) found.unshift({ role: "system", content: conversation.system });
  return found;
}

export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const [line] = (conversation.nodes.find((one) => one.role === "user")?.content ?? "").split("\n");
  return (line.length > 60 ? `${line.slice(0, 58).replace(/\s+\S*$/, "")} …` : line) || "New conversation";
}

// From a list of messages, as other programs and the page's earlier releases have them.
export function ofMessages(messages, more = {}) {
  const conversation = fresh(more);
  let parent = 0;
  for (const { role, content, ...rest } of messages) {
    if (role === "system") conversation.system = content;
    else parent = Object.assign(add(conversation, parent, role, content), rest).id;
  }
  return conversation;
}
