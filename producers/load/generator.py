"""The load generator: conversations and their turns, sent in a closed loop or on a schedule, each with its record.

An open loop's schedule is of turns: at each instant the conversation that has been ready longest takes its next turn,
and where none is ready a new conversation begins. So the rate is what was asked for, and turns follow their histories.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from broker import priorities
from broker.answer import Answer, TurnFailed
from broker.client import Client
from broker.errors import PublishError
from broker.messages import Chunk, Done, End, Failed, Message, new_id
from broker.priorities import Priority
from broker.rounds import DEFAULT_MAX_ROUNDS
from producers.data.datasets import Conversation
from producers.load.arrivals import Arrivals, Closed, Open, Think, share, stream
from producers.load.chances import drawn, fate, thinks
from producers.records.lines import TurnRecord, with_end
from producers.settings import LoadSettings

STOP_SECONDS = 0.35
"""How long the ends of cancelled turns are waited for."""
OnChunk = Callable[[str, Answer, Chunk], None]


def goes_on(num_calls: int, round: int) -> bool:
    """Whether a turn of that round, whose answer has so many calls, is followed by one with their results."""
    return num_calls > 0 and round + 1 < DEFAULT_MAX_ROUNDS


@dataclass
class Progress:
    """How far a run is, for whoever shows it."""

    num_conversations: int = 0
    num_finished: int = 0
    records: list[TurnRecord] = field(default_factory=list)
    active: dict[str, Answer] = field(default_factory=dict)
    """By turn."""
    started_at: float = field(default_factory=time.perf_counter)

    def begin(self, seconds_before: float = 0.0) -> None:
        """The run begins now, or began so many seconds ago in an earlier life."""
        self.started_at = time.perf_counter() - seconds_before

    def take_over(self, records: Iterable[TurnRecord], num_finished: int) -> None:
        """What an earlier life of the run has done."""
        self.records += records
        self.num_finished = num_finished


@dataclass
class Talk:
    """A conversation under way."""

    number: int
    conversation: Conversation
    model: str
    priority: Priority
    key: str = field(default_factory=new_id)
    history: list[Message] = field(default_factory=list)
    position: int = 0
    """In the conversation's messages."""
    index: int = 0
    num_asked: int = 0
    """Of the user's messages."""
    round: int = 0
    """Of the next turn since the user's message: from 1 on it brings results of tools."""
    has_results: bool = False
    """They wait for an answer."""
    ready_at: float = 0.0
    """When the user has thought, in seconds since the run's start."""

    def next_question(self, history: str, max_user_turns: int | None) -> bool:
        """Brings the history to the next message that is to be answered, a user's or a tool's; False for none."""
        if self.has_results:
            self.has_results = False
            return True
        messages = self.conversation.messages
        while self.position < len(messages):
            message = messages[self.position]
            if message.role == "user" and self.num_asked == max_user_turns:
                return False
            self.position += 1
            if message.role == "user":
                self.num_asked, self.round = self.num_asked + 1, 0
            if history == "dataset" or message.role in ("user", "system"):
                self.history.append(message)
                if self.conversation.is_question(self.position - 1):
                    self.round += message.role == "tool"
                    return True
        return False

    def answered(self, done: Done) -> None:
        """The model's own answer is in the history, and its calls have the results that the data has for them."""
        self.history.append(Message("assistant", done.text, done.tool_calls))
        results = ((call.id, self.conversation.result_of(call)) for call in done.tool_calls)
        self.history += [Message("tool", result, tool_call_id=call) for call, result in results]
        self.has_results = goes_on(len(done.tool_calls), self.round)
        self.round += self.has_results

    def goes_on_at_once(self, history: str) -> bool:
        """Whether results of tools are next: there is nothing to think about."""
        behind = self.conversation.messages[self.position : self.position + 1]
        return self.has_results or (history == "dataset" and any(one.tool_calls for one in behind))


class Generator:
    """One run, or one part of it. `done` gets each turn's record as it ends."""

    def __init__(
        self,
        client: Client,
        options: LoadSettings,
        conversations: Sequence[Conversation],
        *,
        arrivals: Arrivals,
        models: Sequence[tuple[str, float]],
        done: Callable[[TurnRecord], None] = lambda record: None,
        on_chunk: OnChunk | None = None,
        progress: Progress | None = None,
        skip: frozenset[int] = frozenset(),
        nodes: dict[str, str] | None = None,
        started_at: float | None = None,
        level: float | None = None,
        offset: float = 0.0,
        first_number: int = 0,
    ) -> None:
        """The schedule begins `offset` seconds after the run's start, and conversations count from `first_number`.

        `skip` are the conversations (closed) or arrivals (open) that an earlier life of the run has done.
        """
        self._client = client
        self._options = options
        self._conversations = conversations
        self._arrivals = arrivals
        self._models = models
        self._priorities = options.weights(options.priority)
        self._sampling = options.sampling()
        self._think = Think.parse(options.think)
        self._done = done
        self._on_chunk = on_chunk
        self.progress = progress or Progress()
        self._skip = skip
        self._nodes = nodes or {}
        self._started_at = time.perf_counter() if started_at is None else started_at
        self._level = level
        self._offset = offset
        self._ready: deque[Talk] = deque()
        self._talks = count(first_number)

    def now(self) -> float:
        """Seconds since the run's start."""
        return time.perf_counter() - self._started_at

    async def run(self, stop: asyncio.Event) -> None:
        """Sends until all is sent or `stop` is set, which cancels what runs; comes back when all has ended.

        What has not ended STOP_SECONDS after `stop` has no record: nobody may be there to end it.
        """
        async with asyncio.TaskGroup() as group:
            arrivals = self._arrivals
            working = group.create_task(
                self._closed(stop) if isinstance(arrivals, Closed) else self._open(arrivals, stop)
            )
            cancelling = group.create_task(self._cancel_all(stop, working))
            working.add_done_callback(lambda _: cancelling.cancel())

    async def _cancel_all(self, stop: asyncio.Event, working: asyncio.Task[None]) -> None:
        await stop.wait()
        cancelled = [asyncio.ensure_future(answer.cancel()) for answer in list(self.progress.active.values())]
        try:
            await asyncio.sleep(STOP_SECONDS)
        finally:
            for one in cancelled:
                one.cancel()  # then it runs to its end
            await asyncio.gather(*cancelled, return_exceptions=True)
        working.cancel()

    # --- Closed: so many conversations at once ---

    async def _closed(self, stop: asyncio.Event) -> None:
        options = self._options
        numbers = (
            number
            for number in range(len(self._conversations))
            if number % options.num_parts == options.part and number not in self._skip
        )
        self.progress.num_conversations = len(self._conversations)

        async def one_after_another() -> None:
            for number in numbers:
                talk = self._begin(number)
                while not self._is_over(stop) and talk.next_question(options.history, options.max_user_turns):
                    wait = talk.ready_at - self.now()
                    if wait > 0 and await _is_set_within(stop, wait):
                        break
                    if not await self._turn(talk, number * 1000 + talk.index, None):
                        break
                if self._is_over(stop):
                    return
                self.progress.num_finished += 1

        async with asyncio.TaskGroup() as loops:
            for _ in range(min(options.concurrency, len(self._conversations))):
                loops.create_task(one_after_another())

    def _is_over(self, stop: asyncio.Event) -> bool:
        duration = self._options.duration_seconds
        return stop.is_set() or (duration is not None and self.now() >= duration)

    # --- Open: on a schedule ---

    async def _open(self, arrivals: Open, stop: asyncio.Event) -> None:
        options = self._options
        times = arrivals.offsets(random.Random(f"{options.seed}/arrivals"))
        async with asyncio.TaskGroup() as sent:
            stopping = sent.create_task(stop.wait())
            for number, due in share(self._bounded(times), options.part, options.num_parts):
                if number in self._skip:
                    continue
                at = self._offset + due
                await _done_within(stopping, at - self.now())
                if stop.is_set():
                    break
                talk = self._next_talk(number)
                if talk is None:
                    break
                sent.create_task(self._scheduled(talk, number, at))
            stopping.cancel()

    def _bounded(self, times: Iterator[float]) -> Iterator[float]:
        """The schedule up to the run's duration and number of turns."""
        duration, num_turns = self._options.duration_seconds, self._options.num_turns
        for number, at in enumerate(times):
            if (duration is not None and at >= duration) or number == num_turns:
                return
            yield at

    def _next_talk(self, number: int) -> Talk | None:
        """A conversation whose user has thought; else a new one. None when those of the data set are through."""
        options = self._options
        for _ in range(len(self._ready)):
            talk = self._ready.popleft()
            if talk.ready_at > self.now():
                self._ready.append(talk)
            elif talk.next_question(options.history, options.max_user_turns):
                return talk
            else:
                self.progress.num_finished += 1
        # Those of a part are every n-th; a data set that is used up begins again, with conversations of their own.
        talk = self._begin(next(self._talks) * options.num_parts + options.part)
        return talk if talk.next_question(options.history, options.max_user_turns) else None

    async def _scheduled(self, talk: Talk, number: int, at: float) -> None:
        if await self._turn(talk, number, at):
            self._ready.append(talk)

    # --- A turn ---

    def _begin(self, number: int) -> Talk:
        rng = stream(self._options.seed, "conversation", number)
        model = drawn(self._models, rng)
        priority = priorities.named(drawn(self._priorities, rng))
        conversation = self._conversations[number % len(self._conversations)]
        return Talk(number, conversation, model, priority)

    async def _turn(self, talk: Talk, number: int, scheduled_at: float | None) -> bool:
        """Sends the talk's question and follows the answer; False when the conversation cannot go on."""
        options = self._options
        cancel_after, has_deadline = fate(options, number)
        answer = self._client.ask(
            talk.model,
            _as_prompt(talk.history) if options.raw else talk.history,
            sampling=self._sampling,
            conversation=talk.key,
            priority=talk.priority,
            deadline=time.time() + options.deadline_seconds if has_deadline else None,
            run=options.run,
            raw=options.raw,
            tools=() if options.raw else talk.conversation.tools,
        )
        active = self.progress.active
        active[answer.turn.id] = answer
        arrivals: list[tuple[float, int]] = []
        try:
            if cancel_after is None:
                end = await self._follow(talk, answer, arrivals)
            else:
                async with asyncio.TaskGroup() as group:
                    cancelling = group.create_task(_cancel_after(answer, cancel_after))
                    end = await self._follow(talk, answer, arrivals)
                    cancelling.cancel()
        finally:
            del active[answer.turn.id]
        self._record(talk, answer, end, number, scheduled_at, arrivals)
        talk.index += 1
        if isinstance(end, Failed) or end.finish_reason == "cancelled":
            return False
        if options.history == "generated":
            talk.answered(end)
        talk.ready_at = self.now()
        if not talk.goes_on_at_once(options.history):
            talk.ready_at += thinks(self._think, options, number)
        return True

    async def _follow(self, talk: Talk, answer: Answer, arrivals: list[tuple[float, int]]) -> End:
        attempt = 0
        try:
            async for chunk in answer:
                if chunk.attempt > attempt:
                    attempt = chunk.attempt
                    arrivals.clear()
                if chunk.tokens:
                    arrivals.append((self.now(), len(chunk.tokens)))
                if self._on_chunk is not None:
                    self._on_chunk(talk.conversation.id, answer, chunk)
        except TurnFailed as error:
            return error.failed
        except PublishError as error:
            return Failed("not_published", str(error), retryable=True)
        return answer.done

    def _record(
        self,
        talk: Talk,
        answer: Answer,
        end: End,
        number: int,
        scheduled_at: float | None,
        arrivals: list[tuple[float, int]],
    ) -> None:
        now = self.now()
        record = with_end(
            end,
            number=number,
            conversation=talk.number,
            index=talk.index,
            round=talk.round,
            turn=answer.turn.id,
            model=talk.model,
            priority=talk.priority,
            dataset_id=talk.conversation.id,
            sent_at=answer.sent_at - self._started_at if answer.sent_at is not None else now,
            ended_at=now,
            scheduled_at=scheduled_at,
            arrivals=tuple(arrivals),
            node=self._nodes.get(end.worker) if end.worker is not None else None,
            level=self._level,
        )
        self.progress.records.append(record)
        self._done(record)


def _as_prompt(history: Sequence[Message]) -> list[Message]:
    """A conversation so far as one raw prompt."""
    return [Message("user", "\n\n".join(message.content for message in history) + "\n\n")]


async def _cancel_after(answer: Answer, seconds: float) -> None:
    await asyncio.sleep(seconds)
    with suppress(PublishError):  # then it runs to its end
        await answer.cancel()


async def _done_within(task: asyncio.Task[Any], seconds: float) -> None:
    """Waits for the task, but no longer than that, and leaves it running."""
    if seconds > 0:
        await asyncio.wait((task,), timeout=seconds)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Waits for the event, but no longer than that."""
    if event.is_set() or seconds <= 0:
        return event.is_set()
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
