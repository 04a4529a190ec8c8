"""The doors of a cluster, and what a stranger, a faulty peer or a newer release may put through each of them."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg

from broker import codec, discovery, priorities, subjects
from broker.accounts import LOCAL
from broker.errors import InvalidMessage
from tests.fuzz.mutants import KINDS, TURN_ID, Headers, bytes_changed, field_changed, mutant
from tests.raw_nats import RawClient

WORKER_NAME = "besieged"
ANSWERS_EACH = 20
"""Odd answers to one request of discovery."""
HTTP_SECONDS = 5.0
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/x", "/turns/x", "/health", "/", "/x")


class Doors:
    """Sends one input at a call, by a door at random, and keeps the turns that the server took.

    `stranger` is a producer, `peer` a worker, `sidecar` a sidecar, `operator` may all.
    """

    def __init__(
        self,
        model: str,
        rng: random.Random,
        users: dict[str, RawClient],
        gateway_port: int,
        health_port: int,
        node: str,
    ) -> None:
        self._model = model
        self._rng = rng
        self._users = users
        self._gateway_port = gateway_port
        self._health_port = health_port
        self._node = node
        self.counts: Counter[str] = Counter()
        self.acknowledged: list[str] = []
        self._num_turns = 0
        doors: dict[str, tuple[Callable[[], Awaitable[None]], int]] = {
            "decoder": (self._decode, 500),
            "turns": (self._turn, 15),
            "NATS headers": (self._headers, 10),
            "cancels": (self._cancel, 60),
            "replays": (self._replay, 20),
            "kv": (self._kv, 70),
            "directory": (self._directory, 70),
            "node state": (self._node_state, 60),
            "placement": (self._placement, 40),
            "telemetry": (self._telemetry, 70),
            "beacons": (self._beacon, 40),
            "runs": (self._run, 30),
            "live": (self._live, 30),
            "dead letters": (self._dead, 3),
            "HTTP": (self._http, 15),
            "health": (self._health, 3),
        }
        self._doors = {name: door for name, (door, _) in doors.items()}
        self._weights = [weight for _, weight in doors.values()]

    async def knock(self) -> None:
        """Raises what only a fault of the cluster's can cause: a connection that is gone, no answer at all."""
        name = self._rng.choices(list(self._doors), self._weights)[0]
        self.counts[name] += 1
        await self._doors[name]()

    async def _decode(self) -> None:
        payload, headers = mutant(self._rng, self._rng.choice(("turn", "done", "opened", "points", "chunk")))
        for kind in KINDS:
            with suppress(InvalidMessage):
                codec.decode(payload, kind, headers)

    # --- NATS ---

    def _next_turn(self) -> tuple[str, bytes]:
        self._num_turns += 1
        turn = f"odd-{self._num_turns:08d}"
        return turn, subjects.turn(self._model, self._rng.choice(priorities.LANES), LOCAL, turn).encode()

    async def _ask(self, turn: str, subject: bytes, payload: bytes, headers: bytes | None) -> None:
        stored = json.loads(await self._users["stranger"].request(subject, payload, headers) or b"{}")
        if "seq" in stored and "error" not in stored and not stored.get("duplicate"):
            self.acknowledged.append(turn)

    async def _turn(self) -> None:
        turn, subject = self._next_turn()
        payload, headers = mutant(self._rng, "turn")
        await self._ask(turn, subject, payload.replace(TURN_ID.encode(), turn.encode()), _block(headers))

    async def _headers(self) -> None:
        """A turn whose headers no library would write."""
        turn, subject = self._next_turn()
        payload, headers = mutant(self._rng, "turn")
        odd = self._rng.choice(("Status", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Msg-Id", "Nats-Expected-Stream"))
        block = _block(headers | {odd: self._rng.choice(("404", "503", "100", "x" * 3000, "\x00", "TURNS-x", "-1"))})
        if self._rng.random() < 0.5:
            block = b"NATS/1.0" + bytes_changed(block[8:], self._rng)
        await self._ask(turn, subject, payload if self._rng.random() < 0.7 else b"", block)

    async def _publish(self, user: str, subject: str, kind: str) -> None:
        """A mutant of that kind, now and then under a subject or to a reply that no library would send."""
        payload, headers = mutant(self._rng, kind)
        named = subject.encode()
        if self._rng.random() < 0.1:
            named += self._rng.choice((b"\xff\xfe", b"\x0b", b"\x00", b".." + bytes([self._rng.randrange(33, 256)])))
        reply = self._rng.choice((b"", b"_INBOX_x.\xff", b"end.local.odd-00000001", b"$JS.ACK.x", b"x"))
        block = _block(headers) if self._rng.random() < 0.8 else b"NATS/1.0" + self._rng.randbytes(9) + b"\r\n\r\n"
        await self._users[user].publish(named, payload, block, reply)

    async def _cancel(self) -> None:
        which = self._rng.choice(("turn.odd-00000001", "turn.x", "conversation.c", "all", "everything"))
        await self._publish("stranger", f"cancel.{LOCAL}.{which}", "cancel")

    async def _replay(self) -> None:
        turn = self._rng.choice(self.acknowledged[-50:] or ["x"])
        await self._publish("stranger", f"replay.{LOCAL}.{turn}", "replay request")

    async def _kv(self) -> None:
        kind = self._rng.choice(("fetch open", "fetch part", "fetch close", "opened", "part", "refused"))
        await self._publish("peer", subjects.kv(WORKER_NAME), kind)

    async def _directory(self) -> None:
        # Conversations that mutants of turns belong to.
        await self._publish("peer", subjects.held(self._model, LOCAL, self._rng.choice(("c", "x"))), "holding")

    async def _node_state(self) -> None:
        await self._publish("sidecar", subjects.node(self._node), "node")

    async def _placement(self) -> None:
        """What boards and operators say of a model that has no worker."""
        subject, kind = self._rng.choice(
            (
                (subjects.placed_board("pi"), "board"),
                (subjects.placed_claim("x", 0), "claim"),
                (subjects.placed_order("x", "pi"), "order"),
            )
        )
        await self._publish("operator", subject, kind)

    async def _telemetry(self) -> None:
        await self._publish("sidecar", subjects.telemetry(self._node), "points")

    async def _beacon(self) -> None:
        await self._publish("peer", subjects.queue(self._model, self._rng.choice(priorities.PRIORITIES)), "beacon")

    async def _run(self) -> None:
        await self._publish("stranger", subjects.runs(LOCAL), "run")

    async def _live(self) -> None:
        """What a newer worker's chunks may look like to a reader of today."""
        kind = self._rng.choice(("started", "chunk", "handed back", "done", "failed", "turn"))
        turn = self._rng.choice(self.acknowledged[-50:] or ["x"])
        await self._publish("operator", subjects.live(LOCAL, turn), kind)

    async def _dead(self) -> None:
        await self._publish("peer", subjects.dead(self._model), "dead letter")

    # --- HTTP ---

    async def _http(self) -> None:
        body = _chat_body(self._rng)
        method = self._rng.choice(("POST", "POST", "POST", "POST", "GET", "DELETE", "OPTIONS", "BREW"))
        lines = [
            f"{method} {self._rng.choice(PATHS[:3] if method == 'POST' else PATHS)} HTTP/1.1",
            "Host: x",
            "Connection: close",
            f"Content-Length: {len(body) if self._rng.random() < 0.95 else self._rng.choice((-1, 10**12, 'x'))}",
            *(f"{name}: {value}" for name, value in _odd_headers(self._rng).items()),
        ]
        request = "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body
        await self._send(self._gateway_port, request if self._rng.random() < 0.8 else bytes_changed(request, self._rng))

    async def _health(self) -> None:
        request = b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        await self._send(self._health_port, bytes_changed(request, self._rng))

    async def _send(self, port: int, request: bytes) -> None:
        """Reads what comes, for a while: whoever sends half a request is not answered."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(self._rng.choice((0.05, 0.5, HTTP_SECONDS))):
                    await writer.drain()
                    answer = await reader.read(64 * 1024)
                    assert not answer.startswith(b"HTTP/1.1 500"), (request, answer)
        finally:
            writer.close()


def _block(headers: Headers) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def _odd_headers(rng: random.Random) -> dict[str, str]:
    names = ("Turnpike-Conversation", "Turnpike-Priority", "Turnpike-Deadline-Seconds", "Turnpike-Detached")
    values = ("1", "x", "-1", "nan", "1e999", "batch", "a" * 300, "\udcff\udcfe", "c 1", "")
    found = {"Content-Type": rng.choice(("application/json", "text/plain", "application/json; charset=x"))}
    if rng.random() < 0.5:
        found[rng.choice((*names, "Authorization", "Content-Encoding", "Expect"))] = rng.choice(values)
    return found


def _chat_body(rng: random.Random) -> bytes:
    message = {
        "role": "user",
        "content": rng.choice(("Hello.", "\ud83d", "x" * 5000, [{"type": "text", "text": "Hi"}])),
    }
    body: dict[str, object] = {"model": rng.choice(("demo", "auto", "nobody")), "max_tokens": rng.randrange(1, 5)}
    if rng.random() < 0.5:
        body |= {"messages": [message], "stream": rng.random() < 0.5}
    else:
        body |= {"prompt": message["content"], "stop": ["x"], "seed": 1, "temperature": 0.5, "top_p": 1}
    if rng.random() < 0.2:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    if rng.random() < 0.2:
        body |= {"logprobs": True, "top_logprobs": 3, "n": 1, "user": "u", "stream_options": {"include_usage": True}}
    changed = field_changed(body, rng) if rng.random() < 0.8 else body
    with suppress(ValueError, RecursionError):
        text = json.dumps(changed, default=repr).encode()
        return text if rng.random() < 0.8 else bytes_changed(text, rng)
    return b"["


async def answer_discovery_oddly(nc: NatsConnection, rng: random.Random, counts: Counter[str]) -> None:
    """Answers every request of discovery on a worker's connection with mutants of a worker's answers."""
    told = {
        "name": discovery.SERVICE,
        "id": "ghost",
        "version": "9.9.9",
        "metadata": {"worker": "ghost", "model": "m", "model_name": "m", "quantization": "q", "num_ctx": "512"}
        | {"node": "n", "pid": "1", "facts": '{"file_bytes": "5"}'},
        "endpoints": [
            {
                "name": "state",
                "data": {"num_slots": 8, "num_active": 0, "num_pending": 0, "expected_wait_seconds": 0.0},
            }
        ],
    }

    async def answer(message: Msg) -> None:
        for _ in range(ANSWERS_EACH):
            counts["discovery"] += 1
            payload = msgspec.json.encode(field_changed(told, rng))
            await nc.publish(message.reply, payload if rng.random() < 0.8 else bytes_changed(payload, rng))

    for verb in ("INFO", "STATS", "PING"):
        await nc.subscribe(f"$SRV.{verb}.{discovery.SERVICE}", cb=answer)
