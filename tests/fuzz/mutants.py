"""Hostile bytes in place of messages: valid ones of every kind with bytes or fields changed, and plain noise."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

import msgpack  # type: ignore[import-untyped]
import msgspec

from broker import codec
from broker.errors import InvalidMessage
from broker.messages import (
    Beacon,
    Cancel,
    Chunk,
    CutPoint,
    DeadLetter,
    Done,
    Embeddings,
    End,
    Failed,
    FetchClose,
    FetchOpen,
    FetchPart,
    FetchRefused,
    FetchRequest,
    HandedBack,
    Holding,
    Message,
    NodeState,
    Opened,
    Point,
    Points,
    Remembered,
    Replay,
    ReplayRequest,
    Reply,
    RunEvent,
    Sampling,
    Started,
    StatePart,
    Timings,
    Turn,
    Usage,
)
from broker.messages.boards import BoardState, Claim, ModelOnBoard, Order

Headers = dict[str, str]

ANSWERS = Opened | StatePart | FetchRefused
KINDS = (
    *(Turn, Cancel, ReplayRequest, Replay, DeadLetter, Reply, End),
    *(Beacon, Holding, FetchRequest, ANSWERS, NodeState, Points, RunEvent),
    *(BoardState, Claim, Order),
)
_NUMBERS = (-1, 0, 2**63, 2**64 - 1, 1e308, float("nan"), float("inf"))
_WEIRD = (None, True, *_NUMBERS, "", "x" * 300, "\x00", b"", b"\xff" * 9)
_WORDS = ("v", "id", "messages", "role", "content", "sampling", "max_tokens", "stop", "grammar", "$", ".")
MAX_ERROR_CHARACTERS = 5000
TURN_ID = "odd-00000000"
"""Of every turn; as long as those that are put in its place, so that a payload stays as valid as it was."""


def turn(rng: random.Random) -> Turn:
    """A valid one, now and then of texts."""
    if rng.random() < 0.1:
        return Turn(TURN_ID, "c", kind="embed", texts=("text", (1, rng.randrange(99))), dimensions=rng.randrange(1, 9))
    roles = ("user", "assistant")
    messages = tuple(Message(roles[at % 2], rng.choice(_WORDS) * 3) for at in range(rng.choice((1, 3))))  # type: ignore[arg-type]
    sampling = Sampling(
        max_tokens=rng.randrange(1, 9),
        stop=("end",),
        seed=rng.randrange(2**32),
        presence_penalty=0.5,
        logit_bias=((rng.randrange(99), -1.0), ("end", 2.0)),
    )
    if rng.random() < 0.2:
        return Turn(
            TURN_ID, "c", (), sampling, raw=True, prompt=("x", rng.randrange(99)), suffix="y", files=(("a", "b"),)
        )
    return Turn(TURN_ID, "c", messages, sampling, kind=rng.choice(("generate", "generate", "prompt")))


def board(rng: random.Random) -> BoardState:
    """A valid one."""
    model = ModelOnBoard("x", "loading", 10**8, 9.0, file_bytes=99, read_bytes=rng.randrange(99), can=("chat",))
    return BoardState("pi", 10**9, 4, (model,), sent_at=rng.random())


def _usage(rng: random.Random) -> Usage:
    return Usage(rng.randrange(99), 0, rng.randrange(9))


SAMPLES: Mapping[str, Callable[[random.Random], msgspec.Struct]] = {
    "turn": turn,
    "cancel": lambda rng: Cancel(rng.randrange(1, 99), "m", 1.0, "deadline"),
    "replay request": lambda rng: ReplayRequest(rng.randrange(9)),
    "replay": lambda rng: Replay((codec.encode(Started(0, 0, "w")),), True),
    "dead letter": lambda rng: DeadLetter(f"turn.m.batch.c.{rng.randrange(99)}", "poison", 3, codec.encode(turn(rng))),
    "started": lambda rng: Started(0, rng.randrange(3), "w", 1, "f"),
    "chunk": lambda rng: Chunk(rng.randrange(4), 0, "text", (5, 6), (), 0, 0),
    "handed back": lambda rng: HandedBack(1, 0),
    "done": lambda rng: Done("stop", "text", (5, 6), _usage(rng), Timings(0.1, 0.2, 0.3), "w", 0, 2),
    "vectors": lambda rng: Done(
        "stop", "", (), _usage(rng), Timings(0.1, 0.2, 0.0), "w", embeddings=Embeddings(2, bytes(8 * rng.randrange(9)))
    ),
    "failed": lambda rng: Failed("overloaded", "no room", True, "w", 0, 2.0),
    "beacon": lambda rng: Beacon(rng.randrange(99), rng.randrange(9)),
    "holding": lambda rng: Holding("w1", "f", rng.randrange(99), rng.randrange(9999)),
    "fetch open": lambda rng: FetchOpen("c", f"conversation{rng.randrange(9)}"),
    "fetch part": lambda rng: FetchPart("transfer", rng.randrange(99), rng.randrange(1, 99)),
    "fetch close": lambda rng: FetchClose("transfer"),
    "opened": lambda rng: Opened(
        "t", "f", bytes(8), 99, 0, "0" * 64, Remembered((Message("user", "x"),), "x", bytes(8)), (CutPoint(1, 9),)
    ),
    "part": lambda rng: StatePart(0, bytes(rng.randrange(99))),
    "refused": lambda rng: FetchRefused("busy"),
    "node": lambda rng: NodeState(rng.random() * 9, True, 40.0 + rng.randrange(50), False),
    "points": lambda rng: Points((Point("turn", {"node": "n"}, {"tokens": rng.randrange(9), "ok": True}, 10**18),)),
    "board": board,
    "claim": lambda rng: Claim("pi", "x", rng.randrange(2)),
    "order": lambda rng: Order("x", "pi", "never", sent_at=rng.random()),
    "run": lambda rng: RunEvent("run", "run began", rng.randrange(10**18), "text"),
}
"""A valid message of each kind."""


def mutants(seed: int) -> Iterator[tuple[bytes, Headers]]:
    """Payloads and headers of turns, for ever."""
    rng = random.Random(seed)
    while True:
        yield mutant(rng, "turn")


def mutant(rng: random.Random, kind: str) -> tuple[bytes, Headers]:
    """Payload and headers that were a valid message of a kind of SAMPLES, or never were one."""
    content_type = rng.choice((codec.MSGPACK, codec.JSON))
    headers = {} if rng.random() < 0.3 else {codec.CONTENT_TYPE: rng.choice((content_type, content_type, "text/x"))}
    how = rng.random()
    if how < 0.1:
        return rng.randbytes(rng.randrange(200)), headers
    value = SAMPLES[kind](rng)
    if how < 0.5:
        return bytes_changed(codec.encode(value, content_type), rng), headers
    is_json = content_type == codec.JSON
    fields = msgspec.to_builtins(value, builtin_types=() if is_json else (bytes,)) | {"v": 1}
    return _encoded(field_changed(fields, rng), content_type), headers


def bytes_changed(payload: bytes, rng: random.Random) -> bytes:
    data = bytearray(payload)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.randrange(9)]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(9))
            case _:  # lengths and kinds of msgpack that promise more than there is
                data[at : at + 1] = bytes([rng.choice((0xC6, 0xC9, 0xDB, 0xDD, 0xDF, 0x9F, 0x8F))])
    return bytes(data)


def field_changed(value: object, rng: random.Random) -> object:
    """The same structure with one thing in it replaced, nested or lost."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        changed = dict(value)
        match rng.randrange(4):
            case 0:
                del changed[key]
            case 1:
                changed[rng.choice(_WORDS)] = _weird(rng)
            case _:
                changed[key] = field_changed(value[key], rng)
        return changed
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], field_changed(value[at], rng), *value[at + 1 :]]
    return _weird(rng)


def _weird(rng: random.Random) -> object:
    value: object = rng.choice(_WEIRD)
    for _ in range(rng.choice((0, 0, 0, 1, 5, 400))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _encoded(value: object, content_type: str) -> bytes:
    if content_type == codec.JSON:
        return msgspec.json.encode(value)
    packed: bytes = msgpack.packb(value)
    return packed


def decode_all(count: int, seed: int) -> tuple[int, int]:
    """How many were taken for messages, and how many were refused. Whatever else comes of one is raised."""
    taken = refused = 0
    rng = random.Random(seed)
    names = ("turn", *SAMPLES)
    for index in range(count):
        payload, headers = mutant(rng, names[index % len(names)])
        for kind in KINDS:
            try:
                codec.decode(payload, kind, headers)
                taken += 1
            except InvalidMessage as error:
                refused += 1
                if len(str(error)) > MAX_ERROR_CHARACTERS:
                    raise  # it would be sent back in full
    return taken, refused
