"""What stays of an answered turn: the conversation goes on from it, here or with a peer."""

from __future__ import annotations

from broker.messages import ToolCall
from workers.engine.events import Finished
from workers.kv.beginnings import beginning_of
from workers.kv.index import Key
from workers.prompts.history import History, Prompt
from workers.prompts.off_loop import MAX_READ, off_loop
from workers.turns.ports import Announcer, EnginePort
from workers.turns.work import Work


class Remembering:
    """Tells history, engine and peers alike which conversation an answer's tokens belong to."""

    def __init__(self, history: History, engine: EnginePort, directory: Announcer) -> None:
        self._history = history
        self._engine = engine
        self._directory = directory

    async def keep(
        self,
        work: Work,
        prompt: Prompt,
        end: Finished,
        answer: str,
        calls: tuple[ToolCall, ...] = (),
        written: str | None = None,
    ) -> None:
        """Notes an answer, as far as it came where it was cancelled: its text, what it calls, and how it was written
        where that is more. Nothing goes on from a raw or scored one, or from none."""
        turn, client = work.turn, work.address.client
        is_none = end.reason == "cancelled" and not answer and not calls
        if is_none or turn.continuations or turn.raw:
            return
        recorded = await off_loop(
            len(prompt.rendered.text) + len(answer),
            lambda: self._history.recorded(turn, prompt, list(end.tokens), answer, calls, written),
            at_most=MAX_READ,
        )
        name = self._history.note(client, recorded)
        if name != turn.conversation:
            self._engine.rename(Key(client, turn.conversation), name, list(end.tokens))
        await self._directory.announce(client, name, len(end.tokens) - 1)
        if (beginning := beginning_of(turn)) is not None:
            await self._directory.announce_beginning(client, beginning, name, len(end.tokens) - 1)
