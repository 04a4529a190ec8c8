"""A cluster that works, honest clients, and a hostile one among them: what the others notice.

    python -m tests.chaos.hostile [MINUTES] [SEED] [FOLDER] [ATTACK ...]

First so many minutes in peace, then as many besieged (ten by default): everybody else's turns end, none is lost, and
the worst silence between two tokens is set against the one in peace. ATTACKs are names from attacks.py; default: all.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from broker.accounts import LOCAL
from broker.answer import TurnFailed
from broker.client import Client
from broker.messages import Sampling, new_id
from broker.process import spawn
from producers.gateway.keys import new_key
from tests.chaos.attacks import MODEL
from tests.cluster import Cluster
from tests.fuzz.siege import bad_lines, probe
from tests.support import ROOT, TURNPIKE, RunFolder, argument, free_port

MALLORY = "mallory"
NUM_WORKERS = 2
NUM_HONEST = 2
"""Readers by NATS, and as many by HTTP."""
PAUSE_SECONDS = 0.2
ANSWER_SECONDS = 120.0
DOCUMENT = "Node 7 reports high temperature. Check the fan of node 7 first. " * 70
"""What the honest paste too: in peace, streams wait for the prompts of others as well."""
QUESTIONS = ("How do I drain a node?", "What is 14 plus 3?", "Hello. My name is Torvik and I am new here.")


@dataclass
class Account:
    """What honest clients saw of one phase."""

    num_turns: int = 0
    lost: list[str] = field(default_factory=list)
    """Failed, or without an end in time."""
    wrong: list[str] = field(default_factory=list)
    """Another answer than in peace."""
    gaps: list[float] = field(default_factory=list)
    """Seconds between two tokens of a turn."""
    attacks: Counter[str] = field(default_factory=Counter)

    @property
    def worst_gap(self) -> float:
        return max(self.gaps, default=0.0)

    def __str__(self) -> str:
        ordered = sorted(self.gaps) or [0.0]
        return (
            f"{self.num_turns} turns, {len(self.lost)} lost, {len(self.wrong)} wrong; longest silence "
            f"{self.worst_gap:.2f} s, p99.9 {ordered[int(len(ordered) * 0.999)]:.3f} s, median "
            f"{ordered[len(ordered) // 2]:.4f} s; {self.attacks.total()} attacks"
        )


class Siege:
    """One run in one folder."""

    def __init__(self, folder: Path, seed: int, attacks: Sequence[str] = ()) -> None:
        self._folder = folder
        self._attacks = attacks
        self._rng = random.Random(seed)
        self._cluster = Cluster(folder, MODEL, ack_wait_seconds=10)
        self._expected: dict[str, str] = {}
        self._url = ""
        self._keys: dict[str, str] = {}

    async def run(self, peace_seconds: float, siege_seconds: float) -> tuple[Account, Account, list[str]]:
        """The two phases, and what was wrong with the processes afterwards."""
        await self._cluster.start_broker()
        try:
            health = [free_port() for _ in range(NUM_WORKERS)]
            for index, port in enumerate(health):
                flags = ("--threads", "1", "--num-ctx", "4096", "--health-port", str(port))
                await self._cluster.start_worker(f"w{index}", *flags)
            gateway = await self._cluster.start_gateway("--keys", self._write_keys())
            self._url = f"http://127.0.0.1:{gateway}"
            command = [*TURNPIKE, "user", "add", MALLORY, "--data-dir", str(self._folder / "data")]
            await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
            async with Client(self._cluster.address(LOCAL)) as client:
                await self._wait_for_workers(client)
                for question in QUESTIONS:
                    self._expected[question] = (await client.ask(MODEL, question)).text
            peace = await self._phase(peace_seconds)
            siege = await self._phase(siege_seconds, besieged=True)
            problems = [*await asyncio.to_thread(lambda: list(probe(gateway, *health)))]
            parts = self._cluster.parts
            problems += [f"a part ended with {part.returncode}" for part in parts if part.returncode is not None]
            problems += [line for log in sorted(self._folder.glob("*.log")) for line in bad_lines(log)]
            return peace, siege, problems
        finally:
            await self._cluster.close()

    def _write_keys(self) -> Path:
        lines = []
        for name in (LOCAL, MALLORY):
            self._keys[name], digest = new_key()
            lines.append(f'[clients.{name}]\nsha256 = ["{digest}"]\n')
        path = self._folder / "keys.toml"
        path.write_text("".join(lines) + "turns_at_once = 4\n")  # of the last one: Mallory
        return path

    async def _wait_for_workers(self, client: Client) -> None:
        async with asyncio.timeout(120):
            while len(await client.workers()) < NUM_WORKERS:
                assert all(part.returncode is None for part in self._cluster.parts), "a worker did not start"

    async def _phase(self, seconds: float, *, besieged: bool = False) -> Account:
        account = Account()
        until = time.perf_counter() + seconds
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(self._cluster.address(LOCAL))) for _ in range(NUM_HONEST)]
            headers = {"Authorization": f"Bearer {self._keys[LOCAL]}"}
            http = httpx2.AsyncClient(base_url=self._url, headers=headers, timeout=ANSWER_SECONDS)
            stack.push_async_callback(http.aclose)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            for client in clients:
                group.create_task(self._ask_on(client, account, until))
                group.create_task(self._chat_on(http, account, until))
            if besieged:
                group.create_task(self._besiege(account, until))
        return account

    # --- The honest ---

    async def _ask_on(self, client: Client, account: Account, until: float) -> None:
        """Questions whose answers are known, long answers, and long prompts, in turn."""
        while time.perf_counter() < until:
            question = self._rng.choice(QUESTIONS)
            long = Sampling(max_tokens=150, ignore_eos=True)
            for text, sampling in ((question, Sampling()), (question, long), (f"{DOCUMENT}{new_id()}", long)):
                answer = client.ask(MODEL, text, sampling=sampling)
                account.num_turns += 1
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await _timed(answer.__aiter__(), account)
                except (TurnFailed, TimeoutError) as error:
                    account.lost.append(f"{answer.turn.id}: {error!r}")
                    continue
                if not answer.text.startswith(self._expected.get(text, "")):
                    account.wrong.append(answer.text)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _chat_on(self, http: httpx2.AsyncClient, account: Account, until: float) -> None:
        while time.perf_counter() < until:
            question = self._rng.choice(QUESTIONS)
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": question}],
                "stream": True,
                "temperature": 0,
            }
            account.num_turns += 1
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    text = await _streamed(http, body, account)
            except (httpx2.HTTPError, TimeoutError, ValueError) as error:
                account.lost.append(f"HTTP: {error!r}")
                continue
            if text != self._expected[question]:
                account.wrong.append(text)
            await asyncio.sleep(PAUSE_SECONDS)

    # --- The other one ---

    async def _besiege(self, account: Account, until: float) -> None:
        """In a process of its own, or what it computes would be taken for silence."""
        command: list[str | Path] = [sys.executable, "-m", "tests.chaos.attacks", self._cluster.credentials(MALLORY)]
        command += [self._url, self._keys[MALLORY], str(self._rng.random()), *self._attacks]
        with (self._folder / "mallory.txt").open("wb") as errors:
            env = {"PYTHONPATH": str(ROOT)}
            process = await spawn(command, env=env, stdout=asyncio.subprocess.PIPE, stderr=errors.fileno())
        assert process.stdout is not None
        await asyncio.sleep(until - time.perf_counter())
        process.terminate()
        said = await process.stdout.read()
        assert await process.wait() == 0, (self._folder / "mallory.txt").read_text()
        account.attacks.update(json.loads(said))


async def _timed(chunks: AsyncIterator[object], account: Account) -> None:
    last_at = None
    async for _ in chunks:
        now = time.perf_counter()
        if last_at is not None:
            account.gaps.append(now - last_at)
        last_at = now


async def _streamed(http: httpx2.AsyncClient, body: dict[str, object], account: Account) -> str:
    """The text of a stream that ends as it should; raises ValueError for another end."""
    text, reason, last_at = "", None, 0.0
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise ValueError(f"{answer.status_code} {await answer.aread()!r}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise ValueError(line)
            for choice in event["choices"]:
                reason = choice["finish_reason"] or reason
                if content := choice["delta"].get("content"):
                    now = time.perf_counter()
                    if text:
                        account.gaps.append(now - last_at)
                    text, last_at = text + content, now
    if reason != "stop":
        raise ValueError(f"ended with {reason} after {text!r}")
    return text


def main() -> int:
    folder = RunFolder("hostile", argument(3))
    seconds = 60 * float(argument(1) or 10)
    peace, siege, problems = asyncio.run(Siege(folder.path, int(argument(2) or 1), sys.argv[4:]).run(seconds, seconds))
    print(f"in peace: {peace}\nbesieged: {siege}\n  {dict(siege.attacks)}")  # noqa: T201
    print(f"longest silence besieged ÷ in peace: {siege.worst_gap / max(peace.worst_gap, 1e-9):.2f}")  # noqa: T201
    if peace.lost or siege.lost or siege.wrong or problems:
        faults = f"lost {siege.lost[:9]}\nwrong {siege.wrong[:9]}\n{problems[:20]}"
        print(f"{faults}\nsee {folder.path}", file=sys.stderr)  # noqa: T201
        return 1
    folder.all_was_well()
    return 0


if __name__ == "__main__":
    sys.exit(main())
