"""Hostile bytes: what strangers may send in place of a message.

    python -m tests.fuzz [COUNT] [SEED]

decodes a million of them by default; the suite does 20,000, and sends some through a real server to a worker.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import msgpack  # type: ignore[import-untyped]
import msgspec

from broker import codec
from broker.errors import InvalidMessage
from broker.messages import Cancel, DeadLetter, End, Message, Replay, ReplayRequest, Reply, Sampling, Turn

KINDS = (Turn, Cancel, ReplayRequest, Replay, DeadLetter, Reply, End)
_NUMBERS = (-1, 0, 2**63, 2**64 - 1, 1e308, float("nan"), float("inf"))
_WEIRD = (None, True, *_NUMBERS, "", "x" * 300, "\x00", b"", b"\xff" * 9)
_WORDS = ("v", "id", "messages", "role", "content", "sampling", "max_tokens", "stop", "grammar", "$", ".")
MAX_ERROR_CHARACTERS = 5000


def turn(rng: random.Random) -> Turn:
    """A valid one."""
    roles = ("user", "assistant")
    messages = tuple(Message(roles[at % 2], rng.choice(_WORDS) * 3) for at in range(rng.choice((1, 3))))  # type: ignore[arg-type]
    sampling = Sampling(max_tokens=rng.randrange(1, 9), stop=("end",), seed=rng.randrange(2**32))
    return Turn(f"t{rng.randrange(10**9)}", "c", messages, sampling)


def mutants(seed: int) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Payloads and headers, for ever: valid ones with bytes or fields changed, and plain noise."""
    rng = random.Random(seed)
    while True:
        content_type = rng.choice((codec.MSGPACK, codec.JSON))
        headers = {} if rng.random() < 0.3 else {codec.CONTENT_TYPE: rng.choice((content_type, content_type, "text/x"))}
        kind = rng.random()
        if kind < 0.1:
            payload = rng.randbytes(rng.randrange(200))
        elif kind < 0.5:
            payload = _bytes_changed(codec.encode(turn(rng), content_type), rng)
        else:
            payload = _encoded(_field_changed(msgspec.to_builtins(turn(rng)) | {"v": 1}, rng), content_type)
        yield payload, headers


def _bytes_changed(payload: bytes, rng: random.Random) -> bytes:
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


def _field_changed(value: object, rng: random.Random) -> object:
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
                changed[key] = _field_changed(value[key], rng)
        return changed
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _field_changed(value[at], rng), *value[at + 1 :]]
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
    for (payload, headers), _ in zip(mutants(seed), range(count), strict=False):
        for kind in KINDS:
            try:
                codec.decode(payload, kind, headers)
                taken += 1
            except InvalidMessage as error:
                refused += 1
                if len(str(error)) > MAX_ERROR_CHARACTERS:
                    raise  # it would be sent back in full
    return taken, refused


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    taken, refused = decode_all(count, seed)
    print(f"{count} inputs as {len(KINDS)} kinds of message each: {taken} taken, {refused} refused, nothing else")  # noqa: T201


if __name__ == "__main__":
    main()
