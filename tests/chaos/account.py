"""What became of every turn of a chaos run: by what its producers wrote down, and by what the server has stored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from nats.aio.client import Client as NatsConnection

from broker import codec, subjects
from broker.accounts import LOCAL
from broker.connection import Address, connect
from broker.errors import ServerError
from broker.jetstream import read_stored
from broker.messages import Chunk, Done, End, Other, Reply, Started
from broker.placing import CLAIM_SECONDS
from broker.replies import read_replies
from tests.chaos.board_logs import Loads

COLUMNS = (
    "seed",
    "time",
    "faults",
    "turns",
    "ends",
    "lost",
    "doubled",
    "wrong",
    "longest silence",
    "resumed",
    "begun anew",
    "tokens computed again",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"
AWAY_SECONDS = 15.0
"""A board is frozen or cut off for so long at most."""


@dataclass
class Account:
    """What became of the turns."""

    seed: int
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    num_acknowledged: int = 0
    num_done: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """By code."""
    num_tokens: int = 0
    lost: list[str] = field(default_factory=list)
    """Acknowledged, and without an end."""
    doubled: list[str] = field(default_factory=list)
    """More than one end, or a reader that saw a token twice or not at all."""
    wrong: list[str] = field(default_factory=list)
    """Another text than the undisturbed run's."""
    longest_silence: float = 0.0
    """Seconds between two tokens of one turn, as a reader saw them."""
    num_starts: int = 0
    num_restarts: int = 0
    num_recomputed: int = 0
    """Of prompts and of answers already sent, by the next worker; what its cache had of them is counted too."""

    def markdown(self) -> str:
        """A row of HEADER's table."""
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        failed = "".join(f" {count} {code}" for code, count in sorted(self.failed.items()))
        cells = (
            self.seed,
            f"{self.seconds:.0f} s",
            f"{sum(self.faults.values())}: {faults}",
            self.num_acknowledged,
            f"{self.num_done} done{', failed:' if failed else ''}{failed}",
            len(self.lost),
            len(self.doubled),
            len(self.wrong),
            f"{self.longest_silence:.1f} s",
            self.num_starts - self.num_acknowledged,
            self.num_restarts,
            f"{self.num_recomputed} of {self.num_tokens + self.num_recomputed}",
        )
        return f"| {' | '.join(map(str, cells))} |"

    async def settle(self, files: Sequence[Path], expected: Mapping[int, list[int]], operator: Address) -> None:
        """Accounts for what producers wrote into `files`, against the tokens of each case, and the server's store."""
        cases: dict[str, int] = {}
        sessions: dict[tuple[str, str], list[dict[str, object]]] = {}
        for file in files:
            for line in file.read_text().splitlines():
                with suppress(json.JSONDecodeError):
                    entry = json.loads(line)
                    if entry["event"] == "acknowledged":
                        cases[entry["turn"]] = entry["case"]
                    sessions.setdefault((entry["turn"], entry["session"]), []).append(entry)
        self.num_acknowledged = len(cases)
        for (turn, _), seen in sessions.items():
            if turn in cases:
                self._account_reader(turn, seen, expected[cases[turn]])
        nc = await connect(operator, name="account")
        try:
            for turn, number in cases.items():
                await self._account_turn(nc, turn, expected[number])
        finally:
            await nc.close()

    def _account_reader(self, turn: str, seen: list[dict[str, object]], expected: list[int]) -> None:
        """What one reader saw of a turn, up to its death or the end: each token once, in order."""
        tokens: list[int] = []
        attempt, last_at = 0, None
        for entry in seen:
            if entry["event"] != "chunk":
                continue
            if entry["attempt"] != attempt:
                attempt, tokens = int(str(entry["attempt"])), []
                self.num_restarts += 1
            tokens += cast(list[int], entry["tokens"])
            at = float(str(entry["at"]))
            if last_at is not None:
                self.longest_silence = max(self.longest_silence, at - last_at)
            last_at = at
        is_whole = seen[-1]["event"] == "done"
        if tokens != expected[: len(tokens)] or (is_whole and len(tokens) != len(expected)):
            self.doubled.append(turn)

    async def _account_turn(self, nc: NatsConnection, turn: str, expected: list[int]) -> None:
        ends = await read_stored(nc, subjects.ENDS, subjects.end(LOCAL, turn))
        if not ends:
            self.lost.append(turn)
            return
        if len(ends) > 1:
            self.doubled.append(turn)
        end = codec.decode(ends[0].payload, End, ends[0].headers)
        with suppress(ServerError):
            stored = await read_replies(nc, LOCAL, turn)
            self._account_starts([one.reply for one in stored], end)
        if not isinstance(end, Done):
            self.failed[end.code] += 1
            return
        self.num_done += 1
        self.num_tokens += end.usage.prompt_tokens + len(end.tokens)
        if list(end.tokens) != expected:
            self.wrong.append(turn)

    def _account_starts(self, stored: list[Reply | Other], end: End) -> None:
        num_known = end.usage.prompt_tokens if isinstance(end, Done) else 0
        num_starts = 0
        for reply in stored:
            if isinstance(reply, Chunk):
                num_known += len(reply.tokens)
            elif isinstance(reply, Started):
                num_starts += 1
                self.num_recomputed += num_known if num_starts > 1 else 0
        self.num_starts += num_starts


@dataclass
class BoardsAccount(Account):
    """What became of the turns, and of the boards."""

    orphans: list[int] = field(default_factory=list)
    """Workers that outlived their board."""
    left: list[str] = field(default_factory=list)
    """Claims, queued turns and half-written files after the end."""
    loads: Loads = field(default_factory=Loads)

    def told(self) -> str:
        """The boards' part, for people."""
        return (
            f"{self.loads.num_loads} loads, {self.loads.num_swaps} swaps, one model loaded by two boards at once for "
            f"{self.loads.longest_double:.1f} s at most; workers left behind: {len(self.orphans)}; "
            f"left after the end: {', '.join(self.left) or 'nothing'}"
        )

    @property
    def failures(self) -> dict[str, object]:
        """All that may not be; empty where all was well."""
        found: dict[str, object] = {
            "lost": self.lost,
            "doubled": self.doubled,
            "wrong": self.wrong,
            "failed": {code: num for code, num in self.failed.items() if code != "poison"},
        }
        found |= {"orphans": self.orphans, "left": self.left}
        if self.loads.longest_double > CLAIM_SECONDS + AWAY_SECONDS:
            found["loaded by two boards, seconds"] = self.loads.longest_double
        return {name: one for name, one in found.items() if one}
