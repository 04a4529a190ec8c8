"""A reply put together as its messages arrive: each token once, in order, whatever was lost, repeated or begun anew."""

from __future__ import annotations

from broker.messages import Chunk, Done, End, Other, Reply, Started


class Reassembly:
    """What was read of one turn's reply. Takes messages, gives the chunks that they add; asks nobody for anything."""

    def __init__(self) -> None:
        self.text = ""
        """Of the attempt that is read."""
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
            self.attempt, self.text, self.num_tokens = reply.attempt, "", 0
        if isinstance(reply, Started):
            self.started = reply
        return self._added(reply) if isinstance(reply, Chunk) else []

    def _added(self, chunk: Chunk) -> list[Chunk]:
        """The chunk, less what of it was seen before; none behind a hole, which the end or a new attempt fills, and
        none of an attempt before the one that is read."""
        if chunk.attempt < self.attempt or chunk.token_offset > self.num_tokens or chunk.text_offset > len(self.text):
            return []
        text = chunk.text[max(0, len(self.text) - chunk.text_offset) :]
        tokens = chunk.tokens[max(0, self.num_tokens - chunk.token_offset) :]
        if len(tokens) < len(chunk.tokens):
            logprobs = chunk.logprobs[len(chunk.logprobs) - len(tokens) :] if tokens else ()
            offsets = len(self.text), self.num_tokens
            chunk = Chunk(chunk.index, chunk.attempt, text, tokens, logprobs, *offsets)
        self.text += text
        self.num_tokens += len(tokens)
        return [chunk] if text or tokens else []

    def rest(self, end: End | None) -> list[Chunk]:
        """What the end holds beyond what was read: all of it, as an attempt of its own, where that is not how it
        begins."""
        if not isinstance(end, Done):
            return []
        is_void = False
        if end.attempt != self.attempt or not end.text.startswith(self.text):
            if end.finish_reason == "cancelled" and end.attempt <= self.attempt and self.text.startswith(end.text):
                return []  # stopped before another worker had begun: what was read is all there is
            is_void = bool(self.text or self.num_tokens)
            self.attempt = max(end.attempt, self.attempt + is_void)
            self.text, self.num_tokens = "", 0
        text, tokens = end.text[len(self.text) :], end.tokens[self.num_tokens :]
        if not text and not tokens and not is_void:
            return []
        self.text += text
        self.num_tokens += len(tokens)
        offsets = len(end.text) - len(text), len(end.tokens) - len(tokens)
        return [Chunk(max(end.num_chunks, self.next_index), self.attempt, text, tokens, (), *offsets)]
