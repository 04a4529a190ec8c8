"""What a hostile or careless client does, over NATS and over HTTP: a process of its own, with a user and a key.

    python -m tests.chaos.attacks CREDENTIALS URL KEY SEED [ATTACK ...]

SIGTERM ends it; it prints how often it did what, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import nats.errors

from broker import codec, priorities, subjects
from broker.accounts import read_credentials
from broker.client import Client
from broker.errors import TurnpikeError
from broker.messages import Message, Sampling, Turn, new_id
from tests.fuzz.mutants import bytes_changed, mutant
from tests.raw_nats import RawClient, raw_client

MODEL = "demo"
ATTACKS_AT_ONCE = 4
PAUSE_SECONDS = 0.2
"""Between two attacks of one attacker: it is one client, not the load of a hundred."""
PATIENCE_SECONDS = 20.0
"""How long an attack waits for its own answer."""
LITERAL = "".join(random.Random(1).choice("0123456789") for _ in range(400))


def doubling_grammar(depth: int) -> str:
    """A few hundred bytes with 2^depth ways to say nothing behind each character of a long literal."""
    rules = "".join(f"b{index} ::= b{index - 1} b{index - 1}\n" for index in range(1, depth + 1))
    return f'root ::= "{LITERAL}" b{depth}\nb0 ::= "q" | ""\n{rules}'


GRAMMARS = (
    doubling_grammar(12),
    doubling_grammar(20),
    'root ::= root "a" | "a"',
    'root ::= (("a"?){1,200}){1,200} "b"',
    "root ::= " + "(" * 30 + '"x"' + ")" * 30,
    'root ::= [a-z]{1,100000} "."',
)
SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "string", "pattern": "^(a+)+$"},
    {"type": "string", "pattern": "^((a|b)*(c|d)*){1,500}$"},
    {"type": "array", "items": {"type": "integer"}, "minItems": 100_000},
    {"enum": [f"value {index}" for index in range(2000)]},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"anyOf": [{"anyOf": [{"type": "object", "properties": {f"p{i}": {}}} for i in range(40)]} for _ in range(8)]},
)


class Mallory:
    """One hostile client with a NATS account of its own and a key of the gateway's.

    What comes back is of no concern; whatever of its own is refused, late or cut off neither.
    """

    def __init__(
        self,
        model: str,
        client: Client,
        raw: RawClient,
        url: str,
        key: str,
        rng: random.Random,
        only: Sequence[str] = (),
    ) -> None:
        self._model = model
        self._client = client
        self._raw = raw
        self._http = httpx2.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_SECONDS
        )
        self._rng = rng
        self.attacks: dict[str, Callable[[], Awaitable[object]]] = {
            "payload and headers just over the limit": self._over_the_limit,
            "an end just under the limit": self._large_end,
            "grammars": self._grammar,
            "schemas": self._schema,
            "cancel storm": self._cancel_storm,
            "odd turns": self._odd_turns,
            "odd bytes": self._odd_bytes,
            "long and empty prompts": self._prompts,
            "streams left": self._leave,
            "detached streams": self._detach,
            "readers that do not read": self._do_not_read,
            "half requests": self._half_requests,
            "odd bodies": self._odd_bodies,
            "what is not allowed": self._not_allowed,
            "models that nobody has": self._no_model,
            "replays": self._replays,
            "deadlines": self._deadlines,
        }
        for name in set(self.attacks) - set(only) if only else ():
            del self.attacks[name]

    async def close(self) -> None:
        await self._http.aclose()

    async def attack(self) -> str:
        """One of them; its name."""
        name = self._rng.choice(list(self.attacks))
        with suppress(TurnpikeError, nats.errors.Error, httpx2.HTTPError, OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.attacks[name]()
        return name

    async def _ask(self, text: str, **options: Any) -> None:
        await self._client.ask(self._model, text, **options)

    async def _chat(self, **fields: Any) -> None:
        body = {"model": self._model, "max_tokens": 20, "messages": [{"role": "user", "content": "Hello."}]}
        await self._http.post("/v1/chat/completions", json=body | fields)

    # --- Sizes ---

    async def _over_the_limit(self) -> None:
        limit = self._client.nc.max_payload
        turn = Turn("0" * 32, "c" * 32, (Message("user", "x" * 70_000),), Sampling(max_tokens=1))
        room = limit - len(codec.encode(turn)) + 70_000 - self._rng.randrange(0, 400)
        await self._chat(messages=[{"role": "user", "content": "x" * room}])
        await self._ask("x" * room, sampling=Sampling(max_tokens=1))

    async def _large_end(self) -> None:
        await self._ask("q", kind="score", continuations=["word " * 60] * 64)

    async def _prompts(self) -> None:
        text = self._rng.choice(("x " * 30_000, "<|im_end|>" * 500, " ", "\x00\ufffe" * 50, "\U0001f600" * 500))
        sampling = Sampling(max_tokens=60, logprobs=20, stop=tuple("abcdefghijklmnop"), temperature=100.0, top_k=1)
        await self._ask(text, sampling=sampling)

    # --- Grammars ---

    async def _grammar(self) -> None:
        await self._ask("q", sampling=Sampling(max_tokens=450, grammar=self._rng.choice(GRAMMARS)))

    async def _schema(self) -> None:
        schema = {"name": "x", "schema": self._rng.choice(SCHEMAS)}
        await self._chat(response_format={"type": "json_schema", "json_schema": schema}, max_tokens=200)

    # --- Many ---

    async def _cancel_storm(self) -> None:
        async def one(index: int) -> None:
            with suppress(TurnpikeError):
                await self._client.cancel(**({"turn": new_id()} if index % 2 else {"conversation": f"c{index % 7}"}))

        await asyncio.gather(*(one(index) for index in range(50)))
        await self._client.cancel()

    async def _odd_turns(self) -> None:
        for _ in range(20):
            payload, headers = mutant(self._rng, "turn")
            subject = subjects.turn(self._model, self._rng.choice(priorities.PRIORITIES), self._client.name, new_id())
            await self._client.nc.request(subject, payload, headers=headers or None, timeout=5)

    async def _odd_bytes(self) -> None:
        name = self._client.name.encode()
        for subject in (b"cancel.%s.turn.\xff" % name, b"cancel.%s.turn.a\x0bb" % name, b"replay.%s.\xfe" % name):
            await self._raw.publish(subject, b"x", b"NATS/1.0 \xff\xfe\r\n\r\n", b"end.local.x")
        await self._raw.flush()

    async def _replays(self) -> None:
        for _ in range(50):
            await self._raw.publish(
                f"replay.{self._client.name}.{new_id()}".encode(), b"\x81\xa1v\x01", None, b"_INBOX_x.y"
            )
        await self._raw.flush()

    async def _not_allowed(self) -> None:
        """The server says no; whose business it is hears nothing."""
        for subject in (
            "turn.demo.interactive.local.x",
            "end.local.x",
            "cancel.local.all",
            "$JS.API.STREAM.DELETE.ENDS",
        ):
            await self._raw.publish(subject.encode(), b"{}")
        await self._raw.flush()

    async def _deadlines(self) -> None:
        for deadline in (0.0, time.time() - 1, time.time() + 0.05):
            with suppress(TurnpikeError):
                await self._ask("Hello.", deadline=deadline)
        for text in ("nan", "-1", "1e999", "0.01"):
            body = {"model": self._model, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 5}
            await self._http.post("/v1/chat/completions", json=body, headers={"Turnpike-Deadline-Seconds": text})

    # --- HTTP ---

    async def _leave(self) -> None:
        for _ in range(5):
            body = {"model": self._model, "messages": [{"role": "user", "content": "Hello."}], "stream": True}
            async with self._http.stream("POST", "/v1/chat/completions", json=body | {"max_tokens": 400}) as answer:
                async for _ in answer.aiter_lines():
                    break

    async def _detach(self) -> None:
        for _ in range(5):
            body = {"model": self._model, "messages": [{"role": "user", "content": "Hello."}], "stream": True}
            headers = {"Turnpike-Detached": "1"}
            async with self._http.stream("POST", "/v1/chat/completions", json=body, headers=headers):
                pass

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._http.base_url.host, self._http.base_url.port)

    async def _do_not_read(self) -> None:
        body = json.dumps(
            {"model": self._model, "prompt": "x", "stream": True, "max_tokens": 400, "logprobs": 5}
        ).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: {self._http.headers['authorization']}\r\n"
        writers = [(await self._connect())[1] for _ in range(4)]
        for writer in writers:
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
        await asyncio.sleep(2)
        for writer in writers:
            writer.close()

    async def _half_requests(self) -> None:
        writers = [(await self._connect())[1] for _ in range(30)]
        for writer in writers:
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"[
                    : self._rng.randrange(80)
                ]
            )
        await asyncio.sleep(1)
        for writer in writers:
            writer.close()

    async def _odd_bodies(self) -> None:
        deep = b'{"model": "demo", "messages": ' + b"[" * 50_000
        for body in (
            deep,
            b"\xff\xfe",
            b"{}",
            b'{"model": "demo", "messages": [{"role": "user", "content": "\\ud83d"}]}',
        ):
            for changed in (body, bytes_changed(body, self._rng)):
                await self._http.post("/v1/chat/completions", content=changed)

    async def _no_model(self) -> None:
        await self._chat(model=self._rng.choice(("nobody", "a/b", "x" * 300, "../..", "auto")), stream=True)


async def main(credentials: Path, url: str, key: str, rng: random.Random, only: Sequence[str]) -> Counter[str]:
    """Attacks until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    address = read_credentials(credentials)
    counts: Counter[str] = Counter()
    async with Client(address) as client, raw_client(address) as raw:
        mallory = Mallory(MODEL, client, raw, url, key, rng, only)

        async def attack_on() -> None:
            while not stop.is_set():
                counts[await mallory.attack()] += 1
                await asyncio.sleep(PAUSE_SECONDS)

        async with asyncio.TaskGroup() as group:
            for _ in range(ATTACKS_AT_ONCE):
                group.create_task(attack_on())
        await mallory.close()
    return counts


def run() -> None:
    if len(sys.argv) < 5:
        sys.exit("usage: python -m tests.chaos.attacks CREDENTIALS URL KEY SEED [ATTACK ...]")
    credentials, url, key, seed, *only = sys.argv[1:]
    os.nice(10)  # its computing is another machine's
    print(json.dumps(asyncio.run(main(Path(credentials), url, key, random.Random(seed), only))))  # noqa: T201


if __name__ == "__main__":
    run()
