"""A reply put together as its messages arrive: each token once, in order, whatever was lost, repeated or begun anew."""

from __future__ import annotations

import itertools

from msgspec.structs import replace

from broker.messages import CallDelta, Chunk, Done, End, Other, Reply, Started, ToolCall
from broker.messages.tools import grown, new_deltas


class Reassembly:
    """What was read of one turn's reply. Takes messages, gives the chunks that they add; asks nobody for anything."""

    def __init__(self) -> None:
        self.text = ""
        """Of the attempt that is read."""
        self.reasoning = ""
        self.calls: tuple[ToolCall, ...] = ()
        self.num_tokens = 0
        self.attempt = 0
        self.next_index = 0
        """Of the message that is to come."""
        self.started: Started | None = None
        """The last start that was read."""
        self._starts: set[Started] = set()

    def skip_to(self, started: Started) -> None:
        """Moves on to a new attempt's start: what is missing before it is void anyway."""
        if started.attempt > self.attempt:
            self.next_index = started.index

    def take(self, reply: Reply | Other) -> list[Chunk]:
        """What a message adds: nothing where it is known, or lies behind a hole."""
        if isinstance(reply, Started) and reply not in self._starts:
            self._starts.add(reply)
            # A server that was killed may have lost chunks that we saw; the next worker goes on before them.
            self.next_index = min(self.next_index, reply.index)
        if reply.index != self.next_index:
            return []
        self.next_index += 1
        if reply.attempt > self.attempt:
            # Started anew: the reader is told by the chunk's attempt, and drops what it had.
            self._begin(reply.attempt)
        if isinstance(reply, Started):
            self.started = reply
        return self._added(reply) if isinstance(reply, Chunk) else []

    def _begin(self, attempt: int) -> None:
        self.attempt, self.text, self.reasoning, self.calls, self.num_tokens = attempt, "", "", (), 0

    def _added(self, chunk: Chunk) -> list[Chunk]:
        """The chunk, less what of it was seen before; none behind a hole, which the end or a new attempt fills, and
        none of an attempt before the one that is read."""
        if chunk.attempt < self.attempt or self._is_behind_a_hole(chunk):
            return []
        if self._is_next(chunk) and len(chunk.logprobs) <= len(chunk.tokens):
            return self._told(chunk)
        tokens = chunk.tokens[max(0, self.num_tokens - chunk.token_offset) :]
        chunk = replace(
            chunk,
            text=chunk.text[max(0, len(self.text) - chunk.text_offset) :],
            reasoning=chunk.reasoning[max(0, len(self.reasoning) - chunk.reasoning_offset) :],
            calls=new_deltas(self.calls, chunk.calls),
            tokens=tokens,
            logprobs=chunk.logprobs[len(chunk.logprobs) - len(tokens) :] if tokens else (),
        )
        return self._told(chunk)

    def _is_next(self, chunk: Chunk) -> bool:
        """Whether it begins where what was read ends, as nearly all do: nothing of it is to be cut or moved."""
        return (
            chunk.token_offset == self.num_tokens
            and chunk.text_offset == len(self.text)
            and chunk.reasoning_offset == (len(self.reasoning) if chunk.reasoning else 0)
            and not chunk.calls
        )

    def _is_behind_a_hole(self, chunk: Chunk) -> bool:
        if chunk.token_offset > self.num_tokens or chunk.text_offset > len(self.text):
            return True
        return chunk.reasoning_offset > len(self.reasoning)

    def _told(self, chunk: Chunk) -> list[Chunk]:
        """Adds what is new, told with the places that it has in what was read."""
        if not (chunk.text or chunk.tokens or chunk.reasoning or chunk.calls or chunk.progress):
            return []
        if not self._is_next(chunk):
            chunk = replace(
                chunk,
                text_offset=len(self.text),
                token_offset=self.num_tokens,
                reasoning_offset=len(self.reasoning) if chunk.reasoning else 0,
            )
        self.text += chunk.text
        self.reasoning += chunk.reasoning
        self.calls = grown(self.calls, chunk.calls)
        self.num_tokens += len(chunk.tokens)
        return [chunk]

    def rest(self, end: End | None) -> list[Chunk]:
        """What the end holds beyond what was read: all of it, as an attempt of its own, where that is not how it
        begins."""
        if not isinstance(end, Done):
            return []
        is_void = False
        if end.attempt != self.attempt or not self._begins(end):
            if end.finish_reason == "cancelled" and end.attempt <= self.attempt and self.text.startswith(end.text):
                return []  # stopped before another worker had begun: what was read is all there is
            is_void = bool(self.text or self.num_tokens)
            self._begin(max(end.attempt, self.attempt + is_void))
        chunk = Chunk(
            max(end.num_chunks, self.next_index),
            self.attempt,
            end.text[len(self.text) :],
            end.tokens[self.num_tokens :],
            reasoning=end.reasoning[len(self.reasoning) :],
            calls=self._rest_of_calls(end),
        )
        told = self._told(chunk) or ([chunk] if is_void else [])
        self.calls = end.tool_calls  # without those that had begun and turned out to be none
        return told

    def _rest_of_calls(self, end: Done) -> tuple[CallDelta, ...]:
        """What the end's calls have beyond what was read: each keeps its index, new ones come behind."""
        known = {call.id: index for index, call in enumerate(self.calls)}
        num_new = itertools.count(len(self.calls))
        deltas = [
            CallDelta(known[call.id], arguments=call.arguments)
            if call.id in known
            else CallDelta(next(num_new), call.id, call.name, call.arguments)
            for call in end.tool_calls
        ]
        return new_deltas(self.calls, deltas)

    def _begins(self, end: Done) -> bool:
        """Whether the end goes on from what was read. A call that it has not turned out to be none: it is text."""
        if not (end.text.startswith(self.text) and end.reasoning.startswith(self.reasoning)):
            return False
        known = {call.id: call for call in self.calls}
        pairs = [(known[call.id], call) for call in end.tool_calls if call.id in known]
        return all(of_end.name == one.name and of_end.arguments.startswith(one.arguments) for one, of_end in pairs)
