"""A JetStream in memory that implements `broker.wire.Wire`: streams by their subjects, fences, one end a turn, direct
gets, and answers that get lost. It speaks the server's JSON and headers, and knows nothing of ours."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import nats.errors
from nats.aio.msg import Msg

TIME = "2026-01-02T03:04:05.678901234Z"


def message(subject: str, data: bytes, headers: dict[str, str] | None = None) -> Msg:
    """As a client hands it on."""
    return Msg(_client=None, subject=subject, data=data, headers=headers)  # type: ignore[arg-type]


class FakeMessages:
    """A subscription: what is put into it comes out, and then nothing."""

    def __init__(self) -> None:
        self.waiting: deque[Msg] = deque()
        self.is_subscribed = True

    async def next_msg(self, timeout: float) -> Msg:
        if not self.waiting:
            raise nats.errors.TimeoutError
        return self.waiting.popleft()

    async def unsubscribe(self) -> None:
        self.is_subscribed = False


@dataclass
class FakeStream:
    """What of a stream's configuration the fake keeps to, and its messages by sequence."""

    first_token: str
    """Of the subjects that it takes."""
    max_bytes: int = -1
    one_a_subject: bool = False
    messages: dict[int, tuple[str, dict[str, str], bytes]] = field(default_factory=dict)
    last_sequence: int = 0

    @property
    def num_bytes(self) -> int:
        return sum(len(data) for _, _, data in self.messages.values())

    def last(self, subject: str) -> int:
        """The sequence of a subject's last message, 0 without one."""
        return max((number for number, (known, _, _) in self.messages.items() if known == subject), default=0)

    def payloads(self) -> list[bytes]:
        return [data for _, _, data in self.messages.values()]


class FakeJetStream:
    """The streams REPLIES and ENDS. `script` says what becomes of the next publishes."""

    def __init__(self, *, max_payload: int = 1024 * 1024, max_end_bytes: int = -1) -> None:
        self.max_payload = max_payload
        self.is_closed = False
        self.streams = {
            "REPLIES": FakeStream("reply"),
            "ENDS": FakeStream("end", max_end_bytes, one_a_subject=True),
        }
        self.script: deque[str] = deque()
        """Of each publish: "lost" on its way, or "unheard", stored and its acknowledgement lost; else it arrives."""
        self.num_published = 0
        self._inboxes: dict[str, FakeMessages] = {}

    def new_inbox(self) -> str:
        return f"_INBOX.{len(self._inboxes)}"

    async def subscribe(self, subject: str) -> FakeMessages:
        return self._inboxes.setdefault(subject, FakeMessages())

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """A batched direct get."""
        stream = self.streams[subject.removeprefix("$JS.API.DIRECT.GET.")]
        wanted = json.loads(payload)
        matching = [
            number
            for number, (known, _, _) in sorted(stream.messages.items())
            if number >= wanted["seq"] and known == wanted["next_by_subj"]
        ]
        inbox = self._inboxes[reply].waiting
        inbox.extend(_stored(stream, number) for number in matching[: wanted["batch"]])
        inbox.append(message("", b"", {"Status": "204" if matching else "404", "Description": "EOB"}))

    async def request(
        self, subject: str, payload: bytes, timeout: float, *, headers: dict[str, str] | None = None
    ) -> Msg:
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if subject.startswith("$JS.API.DIRECT.GET."):
            name, _, wanted = subject.removeprefix("$JS.API.DIRECT.GET.").partition(".")
            number = self.streams[name].last(wanted)
            return _stored(self.streams[name], number) if number else message("", b"", {"Status": "404"})
        if subject.startswith("$JS.API."):
            return _json(self._api(subject.removeprefix("$JS.API."), json.loads(payload or b"{}")))
        self.num_published += 1
        fate = self.script.popleft() if self.script else "arrives"
        if fate == "lost":
            raise nats.errors.TimeoutError
        stream = next((one for one in self.streams.values() if one.first_token == subject.partition(".")[0]), None)
        if stream is None:
            raise nats.errors.NoRespondersError
        answer = _put(stream, subject, payload, headers or {})
        if fate == "unheard":
            raise nats.errors.TimeoutError
        return _json(answer)

    def _api(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        name = verb.rpartition(".")[2]
        stream = self.streams[name]
        if verb == f"STREAM.INFO.{name}":
            state = {
                "messages": len(stream.messages),
                "bytes": stream.num_bytes,
                "first_seq": min(stream.messages, default=stream.last_sequence + 1),
                "last_seq": stream.last_sequence,
                "first_ts": TIME,
                "consumer_count": 0,
            }
            return {"config": {"name": name, "max_bytes": stream.max_bytes}, "state": state}
        assert verb == f"STREAM.MSG.DELETE.{name}", verb
        if stream.messages.pop(body["seq"], None) is None:
            return _error(400, 10043, "no message found")
        return {"success": True}


def _put(stream: FakeStream, subject: str, payload: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    fence = headers.get("Nats-Expected-Last-Subject-Sequence")
    if fence is not None and int(fence) != stream.last(subject):
        return _error(400, 10071, f"wrong last sequence: {stream.last(subject)}")
    if stream.one_a_subject and stream.last(subject):
        return _error(503, 10077, "maximum messages per subject exceeded")
    if 0 <= stream.max_bytes < stream.num_bytes + len(payload):
        return _error(503, 10077, "maximum bytes exceeded")
    stream.last_sequence += 1
    stream.messages[stream.last_sequence] = subject, dict(headers), payload
    return {"stream": "S", "seq": stream.last_sequence}


def _error(code: int, err_code: int, description: str) -> dict[str, Any]:
    return {"error": {"code": code, "err_code": err_code, "description": description}, "seq": 0}


def _json(answer: dict[str, Any]) -> Msg:
    return message("", json.dumps(answer).encode())


def _stored(stream: FakeStream, number: int) -> Msg:
    subject, headers, data = stream.messages[number]
    found = headers | {"Nats-Sequence": str(number), "Nats-Subject": subject, "Nats-Time-Stamp": TIME}
    return message(subject, data, found)
