"""What a stream has told of an answer, beside what an attempt that was begun anew says of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from broker.messages import CallDelta, Chunk, ToolCall
from broker.messages.tools import grown, new_deltas


@dataclass(frozen=True)
class Told:
    """Text, thoughts and calls of an answer, as far as they came."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.calls)

    def and_then(self, chunk: Chunk) -> Told:
        """With what the chunk adds."""
        return Told(self.text + chunk.text, self.reasoning + chunk.reasoning, grown(self.calls, chunk.calls))

    def is_beginning_of(self, other: Told) -> bool:
        """Whether the other one goes on from here."""
        return (
            other.text.startswith(self.text)
            and other.reasoning.startswith(self.reasoning)
            and len(self.calls) <= len(other.calls)
            and all(_begins(one, another) for one, another in zip(self.calls, other.calls, strict=False))
        )

    def contradicts(self, other: Told) -> bool:
        """Whether the two cannot become the same, whatever comes."""
        return not (
            _agree(self.text, other.text)
            and _agree(self.reasoning, other.reasoning)
            and all(
                _begins(one, another) or _begins(another, one)
                for one, another in zip(self.calls, other.calls, strict=False)
            )
        )

    def missing_of(self, whole: Told, chunk: Chunk) -> Chunk:
        """The chunk, as what the whole, which goes on from here, has beyond this."""
        deltas = [CallDelta(index, one.id, one.name, one.arguments) for index, one in enumerate(whole.calls)]
        return replace(
            chunk,
            text=whole.text[len(self.text) :],
            reasoning=whole.reasoning[len(self.reasoning) :],
            calls=new_deltas(self.calls, deltas),
            logprobs=(),
        )


NOTHING = Told()


def _begins(one: ToolCall, other: ToolCall) -> bool:
    return (one.id, one.name) == (other.id, other.name) and other.arguments.startswith(one.arguments)


def _agree(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
