"""What a turn's life needs of the engine, of other workers and of the server. Narrow, so that tests have their own."""

from __future__ import annotations

from typing import Protocol

from broker.messages import CallDelta, Cancel, DeadLetter, End, Progress, Started, TokenLogprob, Turn
from broker.replies import StoredReply
from broker.subjects import TurnAddress
from workers.engine.events import Job, LoopSnapshot
from workers.kv.fetcher import Offer
from workers.kv.index import Key
from workers.turns.work import Work


class EnginePort(Protocol):
    """The engine's side of a turn. `EngineLoop` is one."""

    @property
    def snapshot(self) -> LoopSnapshot:
        """How the engine stood after its last step."""
        ...

    def submit(self, job: Job) -> None:
        """Takes a job; what comes of it is told by events."""
        ...

    def cancel(self, job_id: str) -> None:
        """Ends a job within a step; one that it does not know is no error."""
        ...

    def rename(self, key: Key, name: str, tokens: list[int]) -> None:
        """What is kept of an answered turn, `tokens`, is the conversation `name`'s from now on."""
        ...


class StateSource(Protocol):
    """Other workers' states of conversations. `Fetcher` is one."""

    async def find(self, client: str, turn: Turn) -> Offer | None:
        """What a peer has of the turn's conversation that is more than what is here."""
        ...

    async def fetch(self, offer: Offer, key: Key, prompt: bytes, num_here: int) -> float | None:
        """Takes what was offered; the seconds that it took, None where it was not taken."""
        ...


class Announcer(Protocol):
    """Where workers tell each other what they have. `Directory` is one."""

    async def announce(self, client: str, conversation: str, num_tokens: int) -> None:
        """Tells the peers what is here of a conversation."""
        ...

    async def announce_beginning(self, client: str, beginning: str, conversation: str, num_tokens: int) -> None:
        """Tells the peers that what is here of a conversation begins so."""
        ...


class CancelLookup(Protocol):
    """Whether a turn was cancelled. `Cancels` is one."""

    async def of(self, work: Work) -> Cancel | None:
        """The cancel that concerns a turn, heard or stored; None where there is none."""
        ...


class TurnStore(Protocol):
    """What the server keeps of turns. `NatsTurnStore` is one. Raises ServerError and PublishError."""

    async def read_end(self, client: str, turn: str) -> End | None:
        """The end of a turn, or None while it has none."""
        ...

    async def write_end(self, address: TurnAddress, end: End) -> bool:
        """Writes a turn's end; False where it had one."""
        ...

    async def bury(self, letter: DeadLetter, model: str, sequence: int) -> None:
        """Stores a dead letter of the turn with that sequence in its queue."""
        ...

    async def read_replies(self, client: str, turn: str) -> list[StoredReply]:
        """All that is stored of a turn's reply, in order."""
        ...


class Writer(Protocol):
    """One turn's reply as it is written. `ReplyWriter` is one; all of it raises Fenced."""

    attempt: int
    num_chunks: int
    resumed_text: str
    resumed_tokens: tuple[int, ...]
    """What an earlier worker has sent of this attempt: the answer goes on behind it."""
    workers: tuple[str, ...]
    """Who started the turn before, in order."""

    async def start(
        self, model: str = "", *, grammar: str = "", can_resume: bool = True, num_prompt_tokens: int = 0
    ) -> Started:
        """Says that the turn is begun, where an earlier worker with the same `model` and `grammar` stopped, or anew."""
        ...

    async def hand_back(self) -> None:
        """Says that this start was no crash."""
        ...

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
        """Sends the next chunk; comes back when it is stored."""
        ...
