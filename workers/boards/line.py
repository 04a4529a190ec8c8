"""The line between a board and a worker that it has started: how the worker is goes up, how many threads it may take
comes down. A pair of sockets that keep packets apart; it ends with either of the two, and who does not read it holds
up nobody."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Self

import msgspec
from msgspec import Struct

from broker.discovery import EMBED
from broker.messages.boards import LOADING
from broker.messages.fields import Count, Seconds, Token, Word
from broker.waiting import comes_before

MAX_PACKET_BYTES = 4096
LOOK_SECONDS = 0.2
BUSY_LOOK_SECONDS = 0.05
"""How often a worker looks whether there is something to tell, and one that loads or has turns in hand."""
TELL_SECONDS = 5.0
"""How often it tells all the same: who is silent for long is not well."""


class FromWorker(Struct, frozen=True, omit_defaults=True):
    """How a worker is."""

    state: Word = LOADING
    """LOADING, SERVING or DRAINING."""
    read_bytes: Count = 0
    """Of its model's files, before llama.cpp has them."""
    phase: Word = "start"
    """Of LOADING (workers/boards/loading.py)."""
    done: float = 0.0
    """Of that phase, 0 to 1."""
    took: dict[str, float] = {}
    """Seconds, of its load's phases that are over."""
    num_slots: Count = 0
    num_in_hand: Count = 0
    """Turns."""
    num_settled: Count = 0
    """Turns that it had in hand before."""
    num_waited: Count = 0
    """Of those, that had waited for the model to be loaded."""
    waited_seconds: Seconds = 0.0
    """All of them together."""
    turn_seconds: Seconds | None = None
    """What one took lately; None before the first."""
    longest_turn_seconds: Seconds | None = None
    """What the longest one took lately."""
    can: tuple[Word, ...] | None = None
    """What it can (`broker.discovery`); None before it serves."""
    trouble: str | None = None
    """Why it should be started anew."""

    @property
    def yields(self) -> bool:
        """Whether its threads take what others leave by themselves: of an embedding model's worker they do."""
        return EMBED in (self.can or ())


class FromBoard(Struct, frozen=True, omit_defaults=True):
    """What a worker is told."""

    max_threads: Count | None = None
    """Those of a step at most; None: as many as it likes."""
    model: Token | None = None
    """Of one that was started without a model: now there is room for this one."""
    park_bytes: Count = 0
    """What it may keep of that model's conversations at rest."""


class Line[Sent: Struct, Heard: Struct]:
    """One end. From `open` on what the other one says goes to `take`, and its end to `ended`; `close` closes it."""

    def __init__(
        self, own: socket.socket, kind: type[Heard], take: Callable[[Heard], None], ended: Callable[[], None]
    ) -> None:
        own.setblocking(False)
        own.set_inheritable(False)
        self._socket = own
        self._decoder = msgspec.json.Decoder(kind)
        self._take = take
        self._ended = ended

    def open(self) -> None:
        """From now on the other end is heard."""
        asyncio.get_running_loop().add_reader(self._socket, self._on_packet)

    def close(self) -> None:
        """Twice does no harm."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def send(self, value: Sent) -> None:
        """Of any thread. Lost where the other end does not read, or is gone: the next one says the same."""
        with contextlib.suppress(OSError):
            self._socket.send(msgspec.json.encode(value))

    def _on_packet(self) -> None:
        try:
            packet = self._socket.recv(MAX_PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self.close()
            self._ended()
            return
        with contextlib.suppress(msgspec.DecodeError):
            self._take(self._decoder.decode(packet))


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a line."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class BoardLine:
    """A worker's end. Enter it as soon as the process runs; without a descriptor nobody listens, and all of it is
    nothing."""

    def __init__(self, descriptor: int | None, stop: asyncio.Event) -> None:
        """`stop` is set once the board has gone: nobody plans this worker's memory any more."""
        self._line: Line[FromWorker, FromBoard] | None = None
        if descriptor is not None:
            self._line = Line(socket.socket(fileno=descriptor), FromBoard, self._on_board, stop.set)
        self._look: Callable[[], FromWorker] = FromWorker
        self._limit: Callable[[int | None], None] = lambda _: None
        self._max_threads: int | None = None
        self._told: FromWorker | None = None
        self._told_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._model: asyncio.Future[FromBoard] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Self:
        if self._line is not None:
            self._line.open()
            self._tick()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._line is not None:
            self._line.close()

    def loading(self, look: Callable[[], FromWorker]) -> None:
        """From now on what `look` finds is told."""
        self._look = look

    async def given(self, stop: asyncio.Event) -> FromBoard | None:
        """The model that a worker is given which was started without one. Waits for it, until `stop`: None."""
        return self._model.result() if await comes_before(self._model, stop) else None

    def serving(self, look: Callable[[], FromWorker], limit_threads: Callable[[int | None], None]) -> None:
        """From now on what `look` finds is told, and `limit_threads` hears what the board says."""
        self._look, self._limit = look, limit_threads
        self._limit(self._max_threads)

    def _on_board(self, said: FromBoard) -> None:
        if said.model is not None and not self._model.done():
            self._model.set_result(said)
        self._max_threads = said.max_threads
        self._limit(said.max_threads)

    def _tick(self) -> None:
        assert self._line is not None
        found, now = self._look(), time.monotonic()
        if found != self._told or now - self._told_at >= TELL_SECONDS:
            self._line.send(found)
            self._told, self._told_at = found, now
        is_busy = found.state == LOADING or found.num_in_hand > 0
        delay = BUSY_LOOK_SECONDS if is_busy else LOOK_SECONDS
        self._timer = asyncio.get_running_loop().call_later(delay, self._tick)
