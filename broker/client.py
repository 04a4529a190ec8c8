"""The producer's side of the wire: publish a turn, follow its answer as it streams, cancel it, read it later.

::

    async with Client(Address.parse("nats://me:secret@pi:4222")) as client:
        async for chunk in client.ask("tiny", "How do I restart the node?"):
            print(chunk.text, end="")
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import availability, codec, discovery, jetstream, model_status, placing, publishing, replies, subjects
from broker.answer import Answer, Followed
from broker.connection import Address, close, connect
from broker.embedding import IN_FLIGHT, Vectors, embedded, joined
from broker.errors import (
    Duplicate,
    DuplicateTurn,
    InvalidMessage,
    NoStream,
    NotStored,
    QueueFull,
    ReplayUnavailable,
    UnservedModel,
)
from broker.mailbox import Mailbox
from broker.messages import (
    Cancel,
    EmbedText,
    End,
    Kind,
    Message,
    Replay,
    ReplayRequest,
    RunEvent,
    Sampling,
    Tool,
    ToolChoice,
    Turn,
    new_id,
)
from broker.messages.boards import BoardState
from broker.model_status import ModelStatus
from broker.place_in_line import Line
from broker.priorities import BATCH, DEFAULT_PRIORITY, Lane, Priority, lane_of
from broker.rounds import DEFAULT_MAX_ROUNDS, Offered, OnToolCall, Rounds, RoundsAnswer, offered
from broker.subjects import CancelAddress

REPLAY_SECONDS = 2.0
"""For a worker's answer to a reader that missed something."""
MAX_WAITING_MESSAGES = 4096
MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Of an answer that nobody reads just now; what is dropped then is asked for again."""


class Client:
    """A connection of one producer; an async context manager. Its name on the wire is the address's user."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._nc: NatsConnection | None = None

    @classmethod
    def on(cls, nc: NatsConnection, name: str) -> Self:
        """A client of that name on somebody's connection, who may act for it and closes it."""
        client = cls(Address("", subjects.token(name, "client")))
        client._nc = nc
        return client

    @property
    def name(self) -> str:
        """The client's on the wire."""
        return self._address.user

    @property
    def nc(self) -> NatsConnection:
        """Its connection, while it is entered."""
        assert self._nc is not None, "use the client as an async context manager"
        return self._nc

    async def __aenter__(self) -> Self:
        self._nc = await connect(self._address, name=f"turnpike-client-{self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await close(self.nc)

    def ask(
        self,
        model: str,
        messages: str | Sequence[Message],
        *,
        sampling: Sampling = Sampling(),
        conversation: str | None = None,
        priority: Priority = DEFAULT_PRIORITY,
        deadline: float | None = None,
        kind: Kind = "generate",
        continuations: Sequence[str] = (),
        run: str | None = None,
        raw: bool = False,
        chat_template_kwargs: dict[str, Any] | None = None,
        tools: Sequence[Offered] = (),
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        on_tool_call: OnToolCall | None = None,
        max_rounds: int | None = None,
        **more: Any,
    ) -> Answer:
        """One turn. Nothing is sent before the answer is iterated or awaited.

        `messages` is the whole history and ends with the user's message, or with a tool's; a text stands for just a
        user's. What the model calls of `tools` is in `Done.tool_calls`, for whoever asked to run it.

        With `on_tool_call`, or `max_rounds`, it is run as `converse` does, whose settings they are (8 rounds where only
        the first is given): as many turns as the model calls tools in. The chunks are those of all, the end is the last
        answer's.

        `deadline` is in seconds since the epoch; `more` are other fields of the turn, as `prompt`, `suffix`,
        `echo` or `texts` (docs/protocol.md has them). Raises NoTool,
        InvalidMessage and InvalidName here, PublishError, TurnFailed and TooManyRounds on the way.
        """
        if isinstance(messages, str):
            messages = (Message("user", messages),)
        turn = Turn(
            id=new_id(),
            conversation=subjects.token(conversation or new_id(), "conversation"),
            messages=tuple(messages),
            sampling=sampling,
            deadline=deadline,
            kind=kind,
            continuations=tuple(continuations),
            run=None if run is None else subjects.token(run, "run"),
            raw=raw,
            chat_template_kwargs=chat_template_kwargs,
            tools=tuple(map(offered, tools)),
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            **more,
        )
        if on_tool_call is None and max_rounds is None:
            return Answer(self, turn, model, priority)
        num_allowed = DEFAULT_MAX_ROUNDS if max_rounds is None else max_rounds
        return RoundsAnswer(self, turn, model, priority, tools, on_tool_call=on_tool_call, max_rounds=num_allowed)

    async def embed(
        self,
        model: str,
        texts: Iterable[EmbedText],
        *,
        truncate: bool = False,
        dimensions: int | None = None,
        priority: Priority = BATCH,
        deadline: float | None = None,
        run: str | None = None,
        max_in_flight: int = IN_FLIGHT,
    ) -> Vectors:
        """The vectors of texts, or of lists of tokens, in their order: as many turns as it takes, `max_in_flight` of
        them at once.

        `truncate`: of a text that is longer than the model's context so much is taken as it holds; else the turn
        fails. `dimensions`: the first so many values of each vector, again of length 1, for a model that was trained
        for that. A turn of the priority `batch` is computed by what its node has left over; `interactive` is for who
        waits for an answer. Raises TurnFailed, PublishError, InvalidMessage.
        """
        if isinstance(texts, str):
            texts = (texts,)
        parts = self.embed_in_turns(
            model,
            texts,
            truncate=truncate,
            dimensions=dimensions,
            priority=priority,
            deadline=deadline,
            run=run,
            max_in_flight=max_in_flight,
        )
        return joined([part async for part in parts])

    def embed_in_turns(
        self,
        model: str,
        texts: Iterable[EmbedText] | AsyncIterable[EmbedText],
        *,
        truncate: bool = False,
        dimensions: int | None = None,
        priority: Priority = BATCH,
        deadline: float | None = None,
        run: str | None = None,
        max_in_flight: int = IN_FLIGHT,
    ) -> AsyncIterator[Vectors]:
        """As `embed`, for more texts than one wants to have in memory: the vectors of each turn as they come."""

        def ask(part: tuple[EmbedText, ...]) -> Answer:
            turn = Turn(
                id=new_id(),
                conversation=new_id(),
                kind="embed",
                texts=part,
                truncate=truncate,
                dimensions=dimensions,
                deadline=deadline,
                run=None if run is None else subjects.token(run, "run"),
            )
            return Answer(self, turn, model, priority)

        return embedded(ask, texts, max_in_flight)

    def converse(
        self,
        model: str,
        messages: str | Sequence[Message],
        *,
        tools: Sequence[Offered],
        tool_choice: ToolChoice = "auto",
        on_tool_call: OnToolCall | None = None,
        max_rounds: int = DEFAULT_MAX_ROUNDS,
        conversation: str | None = None,
        **options: Any,
    ) -> Rounds:
        """As `ask`, whose options it takes, over as many turns of one conversation as the model calls tools in, and
        with the history of it all, `Rounds.messages`.

        Functions among `tools` are run when they are called: the schema is their type hints', the description their
        docstring's. `on_tool_call` hears of each call first; what it returns, unless None, is the result in the
        function's place. `tool_choice` holds for the first answer, then the model may answer. Raises NoTool and
        InvalidMessage here, TooManyRounds and what `ask` raises on the way.
        """
        if isinstance(messages, str):
            messages = (Message("user", messages),)
        conversation = conversation or new_id()

        def ask(so_far: Sequence[Message], tools: Sequence[Tool], tool_choice: ToolChoice) -> Answer:
            return self.ask(model, so_far, conversation=conversation, tools=tools, tool_choice=tool_choice, **options)

        return Rounds(ask, messages, tools, tool_choice=tool_choice, on_tool_call=on_tool_call, max_rounds=max_rounds)

    async def read(self, turn: str) -> End | None:
        """The end of a turn of this client's, also hours later; None while it has none."""
        return await replies.read_end(self.nc, self.name, turn)

    async def cancel(self, *, turn: str | None = None, conversation: str | None = None) -> None:
        """Stops a turn, a conversation's turns, or with neither all of this client's, queued or running."""
        await self.publish_cancel(CancelAddress(self.name, turn, conversation), Cancel(sent_at=time.time()))

    async def publish_cancel(self, address: CancelAddress, cancel: Cancel) -> None:
        """Stores a cancel as it is. Raises PublishError."""
        # With an id of its own: what was not acknowledged is tried again, and stored once.
        await publishing.publish(self.nc, subjects.cancel(address), codec.encode(cancel), message_id=new_id())

    def follow(self, turn: str) -> Answer:
        """The answer to a turn that was published before, by this client or by another process of its name.

        Iterating it yields all of the answer from the start, then goes on as it comes, without a gap or a repeat.
        """
        return Followed(self, turn)

    async def replay(self, turn: str, index: int) -> Replay:
        """What is stored of a turn's reply from an index on; raises ReplayUnavailable when no worker answers."""
        try:
            reply = await self.nc.request(
                subjects.replay(self.name, turn), codec.encode(ReplayRequest(index)), timeout=REPLAY_SECONDS
            )
            return codec.decode(reply.data, Replay, reply.headers)
        except (nats.errors.Error, TimeoutError, InvalidMessage) as error:
            raise ReplayUnavailable(turn, str(error) or type(error).__name__) from None

    @property
    def num_reconnects(self) -> int:
        """How often the connection was made anew: what was republished meanwhile has not arrived."""
        return int(self.nc.stats["reconnects"])

    async def listen(self, turn: str) -> Mailbox:
        """A subscription to what the server republishes of the turn's reply and end."""
        return await Mailbox.subscribed(
            self.nc, subjects.live(self.name, turn), max_messages=MAX_WAITING_MESSAGES, max_bytes=MAX_WAITING_BYTES
        )

    async def line(self, model: str, lane: Lane, sequence: int) -> Line | None:
        """The line in which the queued turn of this sequence waits; None while the server does not tell."""
        return await Line.of(self.nc, model, lane, sequence)

    async def tell_run(self, run: str, kind: Literal["run began", "run ended"], text: str = "") -> None:
        """Tells sidecars of a load run, for their dashboards; nobody has to be listening."""
        event = RunEvent(subjects.token(run, "run"), kind, time.time_ns(), text)
        await self.nc.publish(subjects.runs(self.name), codec.encode(event))

    async def workers(self, wait: float = 0.25) -> list[discovery.WorkerInfo]:
        """Every worker that answers within `wait` seconds."""
        return await discovery.find_workers(self.nc, wait)

    async def is_served(self, model: str) -> bool:
        """Whether a worker of the model answers; its queue takes turns also while none does. Raises ServerError."""
        return await availability.is_served(self.nc, model)

    async def served(self, model: str) -> list[discovery.WorkerInfo]:
        """The model's workers that answer, with their load; none where nobody serves it. Raises ServerError."""
        return await availability.served_by(self.nc, model)

    async def status(self, model: str) -> ModelStatus | None:
        """What boards do about a model: loaded, loading and how far, or not yet; None where none of them may serve it,
        also where there are none, or nobody tells."""
        return model_status.status_of(model, await self.boards())

    async def boards(self) -> tuple[BoardState, ...]:
        """What the boards have, and could have; none where nobody tells."""
        return await placing.boards(self.nc)

    async def until_served(self, model: str, seconds: float = 0.0) -> ModelStatus | None:
        """Comes back once a turn for the model would be answered, at once where a worker serves it: then with None.
        Else with what a board that will load it does about it.

        Raises NotServed after so many seconds, NotLoaded where boards cannot load it, UnservedModel where no stream
        takes its turns, ServerError.
        """
        return await availability.until_served(self.nc, model, seconds)

    async def publish(self, turn: Turn, model: str, priority: Priority = DEFAULT_PRIORITY) -> int:
        """Queues a turn; returns its stream sequence once the server has it on disk. Raises PublishError."""
        subject = subjects.turn(model, lane_of(turn.kind, priority), self.name, turn.id)
        try:
            return (await publishing.publish(self.nc, subject, codec.encode(turn), message_id=turn.id)).sequence
        except NoStream:
            raise UnservedModel(model) from None
        except Duplicate:
            # Ids are random: somebody else used this one, and what is queued is not ours.
            raise DuplicateTurn(turn.id) from None
        except NotStored as error:
            raise QueueFull(model, error.reason) if error.code == jetstream.NOT_TAKEN else error from None
