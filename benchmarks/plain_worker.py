"""`turnpike worker` whose chunks are plain publishes: neither stored nor fenced nor acknowledged.

For durable_replies.py. Its user must be one that may publish to `live.>`.
"""

from __future__ import annotations

import dataclasses
import sys

from nats.aio.client import Client as NatsConnection

from benchmarks.own_worker import run
from broker import codec, subjects
from broker.messages import CallDelta, Chunk, HandedBack, Progress, Reply, Started, TokenLogprob
from broker.subjects import TurnAddress
from workers.assembly import Parts, assemble
from workers.worker import Worker


class PlainWriter:
    """Implements workers.turns.ports.Writer; no turn goes on behind what was sent."""

    def __init__(self, nc: NatsConnection, address: TurnAddress, worker: str) -> None:
        self._nc = nc
        self._subject = subjects.live(address.client, address.turn)
        self._worker = worker
        self._num_characters = 0
        self._num_tokens = 0
        self.attempt = 0
        self.num_chunks = 0
        self.resumed_text = ""
        self.resumed_tokens: tuple[int, ...] = ()
        self.workers: tuple[str, ...] = ()

    async def start(
        self, model: str = "", *, grammar: str = "", can_resume: bool = True, num_prompt_tokens: int = 0
    ) -> Started:
        started = Started(self.num_chunks, self.attempt, self._worker, 1, model, grammar, num_prompt_tokens)
        await self._publish(started)
        return started

    async def hand_back(self) -> None:
        await self._publish(HandedBack(self.num_chunks, self.attempt))

    async def write(
        self,
        text: str,
        tokens: tuple[int, ...],
        logprobs: tuple[TokenLogprob, ...] = (),
        *,
        reasoning: str = "",
        calls: tuple[CallDelta, ...] = (),
        progress: tuple[Progress, ...] = (),
    ) -> None:
        assert not reasoning
        assert not calls
        assert not progress
        offsets = self._num_characters, self._num_tokens
        await self._publish(Chunk(self.num_chunks, self.attempt, text, tokens, logprobs, *offsets))
        self._num_characters += len(text)
        self._num_tokens += len(tokens)

    async def _publish(self, reply: Reply) -> None:
        await self._nc.publish(self._subject, codec.encode(reply), headers={codec.CONTENT_TYPE: codec.MSGPACK})
        self.num_chunks += 1


def assemble_plain(parts: Parts) -> Worker:
    """A worker as always, but for its writers."""
    worker = assemble(parts)
    turns = dataclasses.replace(worker.turns, writer=lambda address: PlainWriter(parts.nc, address, parts.options.name))
    return dataclasses.replace(worker, turns=turns)


if __name__ == "__main__":
    sys.exit(run(assemble_plain))
