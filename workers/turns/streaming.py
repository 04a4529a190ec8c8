"""From the engine's events to the reply: gathered into chunks, written, and then the turn's end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from broker.messages import Done, Failed, Progress, Timings, TokenLogprob
from workers.engine.events import Computed, Event, Finished, Generated, Lost, Rejected, Seated
from workers.kv.fetcher import Offer
from workers.prompts.history import Prompt
from workers.turns.answer_reader import ALL_TEXT, AnswerReader, AnswerReaders, Told, joined
from workers.turns.outcomes import Answered, Outcome, Returned
from workers.turns.ports import Writer
from workers.turns.recent import RecentTurns
from workers.turns.remembering import Remembering
from workers.turns.usage import usage
from workers.turns.work import Work

_LATE = "the deadline passed while the turn was computed"


@dataclass(frozen=True)
class _Piece:
    """What a batch of events adds to the answer."""

    told: Told
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    progress: tuple[Progress, ...]

    @classmethod
    def of(cls, batch: Sequence[Event], reader: AnswerReader, progress: _Progress) -> _Piece:
        made = [event for event in batch if isinstance(event, Generated)]
        told = [reader.feed(event.text, len(event.tokens)) for event in made]
        if isinstance(batch[-1], Finished):
            told.append(reader.finish())
        return cls(
            joined(told),
            tuple(token for event in made for token in event.tokens),
            tuple(logprob for event in made for logprob in event.logprobs),
            tuple(told for event in batch for told in progress.of(event)),
        )

    def __bool__(self) -> bool:
        return bool(self.told or self.tokens or self.progress)


@dataclass
class _Progress:
    """How far a prompt of so many tokens is computed, where that is to be told."""

    num_prompt: int
    is_told: bool
    num_cached: int = 0

    def of(self, event: Event) -> tuple[Progress, ...]:
        match event:
            case Seated(num_cached=num_cached) if self.is_told:
                # What an earlier worker answered may be cached too: the prompt's part of it.
                self.num_cached = min(num_cached, self.num_prompt)
                return (Progress(self.num_prompt, self.num_cached, self.num_cached, 0.0),)
            case Computed(num_tokens=num_tokens, seconds=seconds) if self.is_told:
                return (Progress(self.num_prompt, self.num_cached, num_tokens, seconds),)
        return ()


@dataclass
class _Answer:
    """The answer so far, with what an earlier worker sent of it."""

    reader: AnswerReader
    text: list[str]
    reasoning: list[str]
    tokens: list[int]
    queue_wait: float

    def add(self, piece: _Piece) -> None:
        self.text.append(piece.told.text)
        self.reasoning.append(piece.told.reasoning)
        self.tokens += piece.tokens


class Streaming:
    """Streams answers for the worker of that name. Chunks gather what comes within `coalesce_seconds` of the one
    before; 0 sends each token."""

    def __init__(
        self,
        worker: str,
        coalesce_seconds: float,
        remembering: Remembering,
        recent: RecentTurns,
        readers: AnswerReaders = ALL_TEXT,
    ) -> None:
        self._worker = worker
        self._coalesce_seconds = coalesce_seconds
        self._remembering = remembering
        self._recent = recent
        self._readers = readers

    async def stream(
        self, work: Work, prompt: Prompt, writer: Writer, offer: Offer | None, *, is_held: bool = False
    ) -> Outcome:
        """Writes what the engine tells until it has told the end; `is_held`: a grammar holds the calls in it. Raises
        Fenced."""
        answer = self._begun(work, prompt, writer, is_held)
        # What an earlier worker sent was behind its prompt, of which nothing is told any more.
        progress = _Progress(len(prompt.tokens), work.turn.progress and not writer.resumed_tokens)
        if work.turn.echo and not writer.resumed_text and prompt.rendered.text:
            await writer.write(prompt.rendered.text, ())
            answer.text.append(prompt.rendered.text)
        async for batch in gathered(work, self._coalesce_seconds):
            piece = _Piece.of(batch, answer.reader, progress)
            answer.add(piece)
            if isinstance(first := batch[0], Seated):
                answer.queue_wait += first.waited_seconds
            match batch[-1]:
                case Lost():
                    return Returned()
                case Rejected(code=code, detail=detail, retryable=retryable):
                    return Answered(Failed(code, detail, retryable, self._worker, writer.attempt))
                case _:
                    pass
            if piece:
                if piece.told or piece.tokens:
                    work.notes.token_sent()
                told = piece.told
                await writer.write(
                    *(told.text, piece.tokens, piece.logprobs),
                    reasoning=told.reasoning,
                    calls=told.calls,
                    progress=piece.progress,
                )
            if isinstance(end := batch[-1], Finished):
                return Answered(await self._finish(work, prompt, writer, offer, answer, end))
        raise AssertionError("the events ended without an end")

    def _begun(self, work: Work, prompt: Prompt, writer: Writer, is_held: bool) -> _Answer:
        """The answer where it is gone on with: what an earlier worker sent is read again, for where it stands in it."""
        reader = self._readers.of(work.turn, prompt.rendered.text, is_held=is_held)
        tokens = writer.resumed_tokens
        told = Told(writer.resumed_text)
        if self._readers.reads(work.turn):
            told = self._readers.read_again(reader, work.turn, tokens)
        return _Answer(reader, [told.text], [told.reasoning], list(tokens), work.queue_wait)

    async def _finish(
        self, work: Work, prompt: Prompt, writer: Writer, offer: Offer | None, answer: _Answer, end: Finished
    ) -> Done | Failed:
        work.notes.drew(end.joules)
        work.notes.broke(answer.reader.broken)
        if work.cancel is not None and work.cancel.reason == "deadline" and end.reason == "cancelled":
            return Failed("deadline", _LATE, False, self._worker, writer.attempt)
        text, calls = "".join(answer.text), answer.reader.calls
        self._recent.computed(len(answer.tokens))
        cancel = time.perf_counter() - work.cancelled_at if work.cancel is not None else 0.0
        written = self._readers.written(answer.tokens) if calls or any(answer.reasoning) else None
        await self._remembering.keep(work, prompt, end, text, calls, written)
        fetch = work.notes.fetch_seconds or 0.0
        return Done(
            finish_reason="tool_calls" if calls and end.reason == "stop" else end.reason,
            text=text,
            tokens=tuple(answer.tokens),
            usage=usage(end, prompt, work.notes, offer, answer.reader.num_reasoning_tokens),
            timings=Timings(answer.queue_wait, end.prefill_seconds, end.decode_seconds, cancel, fetch),
            worker=self._worker,
            attempt=writer.attempt,
            num_chunks=writer.num_chunks,
            scores=end.scores,
            tool_calls=calls,
            reasoning="".join(answer.reasoning),
            stop=end.stop,
        )


async def gathered(work: Work, coalesce_seconds: float) -> AsyncIterator[list[Event]]:
    """Events in batches: the first tokens at once, later ones gathered over the coalescing time. The last batch ends
    with what ends the turn, which may be its deadline."""
    sent_at: float | None = None
    while True:
        try:
            async with asyncio.timeout(work.seconds_left):
                batch = [await work.events.get()]
        except TimeoutError:
            yield [Rejected(work.job, "deadline", _LATE)]
            return
        if sent_at is not None and not _is_final(batch[-1]):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, sent_at + coalesce_seconds - time.perf_counter())):
                    while not _is_final(batch[-1]):
                        batch.append(await work.events.get())
        while not work.events.empty() and not _is_final(batch[-1]):
            batch.append(work.events.get_nowait())
        if any(isinstance(event, Generated) for event in batch):
            sent_at = time.perf_counter()
        yield batch
        if _is_final(batch[-1]):
            return


def _is_final(event: Event) -> bool:
    return isinstance(event, Finished | Rejected | Lost)
