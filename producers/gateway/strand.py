"""One answer among those of a stream: what its client has of it, also where it was begun anew."""

from __future__ import annotations

from typing import Any

import msgspec

from broker.answer import Answer
from broker.messages import Chunk
from producers.gateway.dialect import AnswerWriter
from producers.gateway.told import NOTHING, Told
from producers.routing.asking import FallbackAnswer


class Strand:
    """One answer, written by the writer of all of them. `reads_comments`: its client is told where it was begun anew,
    and drops what it has."""

    def __init__(self, index: int, answer: Answer, writer: AnswerWriter, *, reads_comments: bool) -> None:
        self.index = index
        self.answer = answer
        self._writer = writer
        self._reads_comments = reads_comments
        self._turn = answer.turn.id
        self._has_begun = False
        self._attempt = 0
        self._written_attempt = 0
        """The one that the writer's pieces are of: an answer that goes on behind what the client has is no new one to
        it, whoever computed it."""
        self._sent = NOTHING
        """What the client has."""
        self._held: Told | None = None
        """Of an attempt that was begun anew, as long as it says what was said before."""

    @property
    def is_behind(self) -> bool:
        """Whether an answer that was begun anew is not as long as what the client has."""
        return self._held is not None

    @property
    def is_contradicted(self) -> bool:
        """Whether an answer that was begun anew is another one than the client has the beginning of."""
        return self._held is not None and self._sent.contradicts(self._held)

    def follow_model(self) -> None:
        """To whom the turn goes by now."""
        if isinstance(self.answer, FallbackAnswer):
            self._writer.goes_to(self.index, self.answer.turn.id, self.answer.decision.model)

    def moved(self) -> bytes:
        """What is said where the turn went to another model once the head was sent, and nothing of it was told yet."""
        if not isinstance(self.answer, FallbackAnswer) or self.answer.turn.id == self._turn:
            return b""
        self._turn = self.answer.turn.id
        self.follow_model()
        decision = self.answer.decision
        return comment(self._writer, {"turn": self._turn, "model": decision.model, "route": decision.reason})

    def begin(self, *, has_arrived: bool) -> bytes:
        """The first event, once it is known who answers, or where something of the answer has arrived."""
        if self.answer.started is not None:
            self._writer.begun_with(self.index, self.answer.started)
        elif not has_arrived:
            return b""
        if self._has_begun:
            return b""
        self._has_begun = True
        return self._writer.begin(self.index)

    def chunk(self, chunk: Chunk) -> bytes:
        """What is sent for a chunk; nothing as long as an answer that was begun anew repeats what the client has."""
        begin = b""
        if chunk.attempt > self._attempt:
            self._attempt = chunk.attempt
            if self._reads_comments and self._sent:
                # Who reads comments drops what it has.
                begin, self._sent = comment(self._writer, self._restarted(chunk.attempt)), NOTHING
            elif self._sent:
                # What an API client has cannot be taken back.
                self._held = NOTHING
            if self._held is None:
                self._written_attempt = chunk.attempt
        if self._held is not None:
            self._held = self._held.and_then(chunk)
            if not self._sent.is_beginning_of(self._held):
                return b""
            event = self._piece(self._sent.missing_of(self._held, chunk))
            self._sent, self._held = self._held, None
            self._writer.go_on_at(self.index, len(self._sent.text))
            return event
        self._sent = self._sent.and_then(chunk)
        return begin + self._piece(chunk)

    def _piece(self, chunk: Chunk) -> bytes:
        if chunk.attempt != self._written_attempt:
            chunk = msgspec.structs.replace(chunk, attempt=self._written_attempt)
        return self._writer.piece(self.index, chunk)

    def _restarted(self, attempt: int) -> dict[str, Any]:
        return {"restarted": attempt} | ({"index": self.index} if self.index else {})

    def end(self) -> bytes:
        """What is sent at its end."""
        return self._writer.end(self.index, self.answer.done)


def comment(writer: AnswerWriter, value: dict[str, Any]) -> bytes:
    """What a stream says beside its answers."""
    return writer.comment(f"turnpike {msgspec.json.encode(value).decode()}")
