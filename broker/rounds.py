"""A message answered over rounds: what the model calls is run, and its results are sent back, until it answers.

::

    talk = client.converse("tiny", "Is it warm in the attic? Then open the window.", tools=[temperature, open_window])
    async for chunk in talk:
        print(chunk.text, end="")
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Literal

import msgspec

from broker import functions
from broker.answer import Answer, AnswerPort
from broker.conversations import answered
from broker.errors import InvalidMessage, TurnpikeError
from broker.messages import Done, Message, Tool, ToolCall, Turn, new_id
from broker.messages.replies import Chunk
from broker.messages.tools import ToolChoice
from broker.priorities import Priority

DEFAULT_MAX_ROUNDS = 8

Offered = Tool | Callable[..., object]
"""A function that is run when it is called, or a tool that only `on_tool_call` knows how to run."""
OnToolCall = Callable[[ToolCall], object]
"""Hears of each call before it is run, async or not. What it returns, unless None, is the call's result, and nothing is
run."""
Ask = Callable[[Sequence[Message], Sequence[Tool], ToolChoice], Answer]
"""One turn of the conversation."""

log = logging.getLogger(__name__)


def offered(one: Offered) -> Tool:
    """What a model is told of it. Raises NoTool."""
    return one if isinstance(one, Tool) else functions.tool_of(one)


class TooManyRounds(TurnpikeError):
    """The model went on calling tools; `calls` are those that were not run any more."""

    def __init__(self, max_rounds: int, calls: tuple[ToolCall, ...]) -> None:
        self.max_rounds = max_rounds
        self.calls = calls
        names = ", ".join(dict.fromkeys(call.name for call in calls))
        super().__init__(f"after {max_rounds} rounds the model still calls tools ({names}); max_rounds allows no more")


class Rounds:
    """An async iterator of the chunks of all rounds, and `await rounds` for the end of the last one.

    Calls of one answer run in their order, one after the other. What goes wrong in a tool is told to the model as its
    result. Raises TooManyRounds, and what an Answer raises. A task that is cancelled stops the tool, not the turn.
    """

    def __init__(
        self,
        ask: Ask,
        messages: Sequence[Message],
        tools: Sequence[Offered],
        *,
        tool_choice: ToolChoice = "auto",
        on_tool_call: OnToolCall | None = None,
        max_rounds: int = DEFAULT_MAX_ROUNDS,
    ) -> None:
        """Raises NoTool, and InvalidMessage for a tool that nobody would run."""
        if max_rounds < 1:
            raise InvalidMessage("max_rounds", "must be at least 1")
        self._functions = {functions.tool_of(one).name: one for one in tools if not isinstance(one, Tool)}
        self._tools = tuple(map(offered, tools))
        if on_tool_call is None and (idle := [one.name for one in self._tools if one.name not in self._functions]):
            raise InvalidMessage("tools", f"{idle[0]!r} is no function, and there is no on_tool_call to run it")
        self._ask, self._tool_choice = ask, tool_choice
        self._on_tool_call = on_tool_call
        self._max_rounds = max_rounds
        self._is_cancelled = False
        self.messages = list(messages)
        """The history, whole at any time: each call in it has its result. After the end the last answer is in it."""
        self.answer = ask(messages, self._tools, tool_choice)
        """That of the round that runs, or was the last."""
        self.num_rounds = 0
        """How many answers were begun."""

    @property
    def done(self) -> Done:
        """The end of the last round. Raises TurnFailed."""
        return self.answer.done

    def __await__(self):  # type: ignore[no-untyped-def]
        return self._result().__await__()

    async def _result(self) -> Done:
        async for _ in self:
            pass
        return self.done

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        async with aclosing(self.answers()) as answers:
            async for answer in answers:
                async for chunk in answer:
                    yield chunk

    async def answers(self) -> AsyncGenerator[Answer]:
        """Each round's answer, before anything of it was sent: whoever asks for the next has read it to its end."""
        while True:
            self.num_rounds += 1
            yield self.answer
            done = self.answer.done
            calls = () if done.finish_reason == "cancelled" else done.tool_calls
            if calls and self.num_rounds >= self._max_rounds:
                raise TooManyRounds(self._max_rounds, calls)
            history = answered(self.messages, done.text, calls, done.reasoning)
            if not calls:
                self.messages[:] = history
                return
            await self._run_all(history)
            if self._is_cancelled:
                return
            # What had to be called was: forced again, the model would never answer.
            self._tool_choice = "none" if self._tool_choice == "none" else "auto"
            self.answer = self._ask(self.messages, self._tools, self._tool_choice)

    def stop(self) -> None:
        """No further tool and no further round begins."""
        self._is_cancelled = True

    async def cancel(self) -> None:
        """Stops the answer, queued or running; where tools run just now, no further one and no further round begins."""
        self.stop()
        if self.answer.may_run:
            await self.answer.cancel()

    async def _run_all(self, history: Sequence[Message]) -> None:
        """Goes on to the history with the calls, and what came of each; of those that did not come to an end, that
        too."""
        calls = history[-1].tool_calls
        results: list[Message] = []
        try:
            for call in calls:
                text = "error: the call was cancelled" if self._is_cancelled else await self._run(call)
                results.append(Message("tool", text, tool_call_id=call.id))
        finally:
            left = calls[len(results) :]
            results += [Message("tool", "error: the call was cancelled", tool_call_id=call.id) for call in left]
            self.messages[:] = [*history, *results]

    async def _run(self, call: ToolCall) -> str:
        """A call's result, or what went wrong, for the model to read."""
        if self._on_tool_call is not None:
            told = self._on_tool_call(call)
            if inspect.isawaitable(told):
                told = await told
            if told is not None or call.name not in self._functions:
                return functions.result_text(told)
        elif call.name not in self._functions:
            return f"error: there is no tool {call.name!r}, only {', '.join(self._functions)}"
        try:
            return functions.result_text(await functions.run(self._functions[call.name], call))
        except Exception as error:  # noqa: BLE001  (whatever a tool raises, the model hears of it)
            log.info("tool failed tool=%s error=%s", call.name, type(error).__name__)
            return functions.result_text(f"error: {error or type(error).__name__}")


class RoundsAnswer(Answer):
    """The answers of all rounds as one: iterating yields the chunks of each, awaiting gives the last one's end. All
    else is of the round that runs or was the last; each is a turn of its own. Raises what Rounds raises."""

    def __init__(
        self,
        client: AnswerPort,
        turn: Turn,
        model: str,
        priority: Priority,
        tools: Sequence[Offered],
        *,
        on_tool_call: OnToolCall | None,
        max_rounds: int,
        **more: Any,
    ) -> None:
        """`turn` is the first one; `more` is for the Answer of another kind that each round is, where a class says so.
        Raises InvalidMessage for a tool that nobody would run."""
        super().__init__(client, turn, model, priority, **more)

        def ask(messages: Sequence[Message], _: Sequence[Tool], tool_choice: ToolChoice) -> Answer:
            following = msgspec.structs.replace(
                self.turn, id=new_id(), messages=tuple(messages), tool_choice=tool_choice
            )
            self._begin(following, self.model)
            return self

        self._rounds = Rounds(
            ask, turn.messages, tools, tool_choice=turn.tool_choice, on_tool_call=on_tool_call, max_rounds=max_rounds
        )

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        async with aclosing(self._rounds.answers()) as answers:
            async for _ in answers:
                async for chunk in super().__aiter__():
                    yield chunk

    async def cancel(self, reason: Literal["cancelled", "deadline"] = "cancelled") -> None:
        """As an Answer's; where tools run just now, no further one and no further round begins."""
        self._rounds.stop()
        if self.end is None:
            await super().cancel(reason)
