"""A turn whose model a policy chose: where that model cannot answer it, the next one is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any, Self

import msgspec

from broker.answer import Answer, AnswerPort, TurnFailed
from broker.client import Client
from broker.discovery import CHAT, WorkerInfo
from broker.errors import QueueFull, UnservedModel
from broker.messages import Chunk, Message, Turn, new_id
from broker.model_status import ModelStatus, statuses
from broker.priorities import DEFAULT_PRIORITY, Priority
from broker.rounds import DEFAULT_MAX_ROUNDS, Offered, RoundsAnswer, offered
from producers.routing.lengths import parts_of
from producers.routing.policies import Decision, Needs, Routes, choose

MODELS_OWN = frozenset(
    {"invalid_template", "prompt_too_long", "empty_prompt", "unsupported", "overloaded", "not_loaded"}
)
"""Failures that another model need not have: its template, its context, its speed, its file."""
PATIENT_SECONDS = 2.0
NO_ROUTES = Routes()
CHATS = Needs(can=frozenset({CHAT}))

Choose = Callable[[Collection[str]], Decision]
"""The decision without the models that were tried; raises UnservedModel."""


class FallbackAnswer(Answer):
    """An answer that changes over to another model as long as nothing of it was told. It is another turn then, with an
    id of its own: the first has had its end."""

    def __init__(
        self,
        client: AnswerPort,
        turn: Turn,
        model: str,
        priority: Priority,
        *,
        decision: Decision,
        choose_again: Choose,
    ) -> None:
        """Of a turn that was not published yet, for the model of `decision`."""
        super().__init__(client, turn, model, priority)
        self.decision = decision
        self._choose_again = choose_again
        self._tried = [decision.model]

    async def publish(self) -> None:
        """To the next model where one's queue is full or gone; raises PublishError where there is no next one."""
        while True:
            try:
                return await super().publish()
            except (QueueFull, UnservedModel):
                if not self._change_over():
                    raise

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        has_told = False
        while True:
            try:
                async for chunk in super().__aiter__():
                    has_told = True
                    yield chunk
                return
            except TurnFailed as error:
                if has_told or error.failed.code not in MODELS_OWN or not self._change_over():
                    raise

    @classmethod
    def instead_of(cls, first: Answer, decision: Decision, choose_again: Choose) -> Self:
        """Of the turn of `first`, which was not published yet."""
        return cls(
            first._client, first.turn, decision.model, first._priority, decision=decision, choose_again=choose_again
        )

    def _change_over(self) -> bool:
        """To the next model; False where there is none."""
        try:
            decision = self._choose_again(self._tried)
        except UnservedModel:
            return False
        self.decision = decision
        self._tried.append(decision.model)
        self._begin(msgspec.structs.replace(self.turn, id=new_id()), decision.model)
        return True


class FallbackRounds(RoundsAnswer, FallbackAnswer):
    """The answers of all rounds as one: each round is a turn that changes over where its model cannot answer it, and
    the next one goes on with the model that did."""


async def resolve(client: Client, model: str, routes: Routes = NO_ROUTES, needs: Needs = CHATS) -> str:
    """The model that `auto` or a policy stands for; any other name is a model's. Raises UnservedModel."""
    if routes.policy(model) is None:
        return model
    workers, boards = await offers(client)
    return choose(routes, model, workers, needs, boards=boards).model


async def offers(client: Client, patience: float = PATIENT_SECONDS) -> tuple[list[WorkerInfo], dict[str, ModelStatus]]:
    """What there is to choose from: the workers, and what boards have and could load. Where nobody answers at once,
    workers are waited for as long as `patience` says: on a busy board the answers come late."""
    workers, boards = await asyncio.gather(client.workers(), client.boards())
    found = statuses(boards)
    return workers or ([] if found else await client.workers(patience)), found


async def ask_routed(
    client: Client,
    routes: Routes,
    wanted: str,
    messages: Sequence[Message],
    *,
    priority: Priority = DEFAULT_PRIORITY,
    conversation: str | None = None,
    **options: Any,
) -> Answer:
    """The answer of a turn for a model, `auto` or a policy, as `Client.ask` has it. Raises UnservedModel."""
    conversation = conversation or new_id()
    if routes.policy(wanted) is None:
        return client.ask(wanted, messages, priority=priority, conversation=conversation, **options)
    raw, kind = options.get("raw", False), options.get("kind", "generate")
    tools: Sequence[Offered] = options.get("tools", ())
    on_tool_call, max_rounds = options.pop("on_tool_call", None), options.pop("max_rounds", None)
    told = tuple(map(offered, tools))
    parts = parts_of(options)
    needs = Needs.of(messages, raw=raw, kind=kind, tools=told, priority=priority, conversation=conversation, **parts)
    workers, boards = await offers(client)
    decision = choose(routes, wanted, workers, needs, boards=boards)
    answer = client.ask(decision.model, messages, priority=priority, conversation=conversation, **options)

    def again(tried: Collection[str]) -> Decision:
        return choose(routes, wanted, workers, needs, boards=boards, without=tried)

    if on_tool_call is None and max_rounds is None:
        return FallbackAnswer.instead_of(answer, decision, again)
    return FallbackRounds(
        client,
        answer.turn,
        decision.model,
        priority,
        tools,
        on_tool_call=on_tool_call,
        max_rounds=DEFAULT_MAX_ROUNDS if max_rounds is None else max_rounds,
        decision=decision,
        choose_again=again,
    )
