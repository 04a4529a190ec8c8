"""What do stored and fenced replies cost a stream's decode, against plain publishes of the same chunks?

Two workers, one of each kind, answer by turns on one broker; the other one is stopped (SIGSTOP) meanwhile.
"""

from __future__ import annotations

import asyncio
import signal
import statistics

from benchmarks.harness import CORES, Row, System, show, system, text_of, timed
from broker import jetstream, subjects
from broker.accounts import OPERATOR
from broker.connection import connect

NUM_TOKENS = 128
NUM_ROUNDS = 5
PLAIN = ["-m", "benchmarks.plain_worker"]


async def num_stored(one: System) -> int:
    """Messages of replies that a server has stored."""
    nc = await connect(one.server.address(OPERATOR), name="benchmark")
    try:
        info = await jetstream.stream(nc, subjects.REPLIES)
    finally:
        await nc.close()
    assert info is not None
    return info.state.num_messages


async def rates(coalesce_seconds: float) -> tuple[list[float], list[float]]:
    """Tokens per second by the client's clock, of stored and of plain replies, round by round."""
    flags = ("--threads", CORES, "--coalesce-seconds", coalesce_seconds)
    async with system(*flags, user=OPERATOR) as stored, system(*flags, user=OPERATOR, entry=PLAIN) as plain:
        found: tuple[list[float], list[float]] = ([], [])
        for one in (stored, plain):
            await timed(one.client, text_of(32), 16)
        assert await num_stored(stored) > 0
        assert await num_stored(plain) == 0
        for number in range(NUM_ROUNDS):
            for one, other, into in ((stored, plain, found[0]), (plain, stored, found[1])):
                other.worker.send_signal(signal.SIGSTOP)
                into.append((await timed(one.client, text_of(32, number), NUM_TOKENS)).decode_rate)
                await asyncio.sleep(0.5)  # its acknowledgement still travels
                other.worker.send_signal(signal.SIGCONT)
    return found


def main() -> None:
    rows = []
    for name, coalesce_seconds in (("50 ms chunks", 0.05), ("a chunk a token", 0.0)):
        stored, plain = asyncio.run(rates(coalesce_seconds))
        ratio = statistics.median(ours / peer for ours, peer in zip(stored, plain, strict=True))
        ours, peer = statistics.median(stored), statistics.median(plain)
        rows.append(Row(f"decode, stored ÷ plain, {name}", f"{ours:.1f}/s", f"{peer:.1f}/s", ratio, 0.98))
    show("durable replies against plain publishes", rows)


if __name__ == "__main__":
    main()
