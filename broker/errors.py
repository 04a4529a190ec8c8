"""Every error that Turnpike raises on purpose.

::

    TurnpikeError
    ├── InvalidMessage            bytes or a field that are not what the wire says
    │   └── UnsupportedVersion    a wire version that this release does not speak
    ├── InvalidName               a model, client, id … that cannot be one token of a subject
    ├── SettingsError             every problem of the settings, at once
    ├── ServerError
    │   ├── ServerUnavailable     nobody answers at the address
    │   │   └── Refused           somebody does, and does not let us in, or is not trusted
    │   ├── ConnectionLost        closed for good: whoever relied on it has to end
    │   ├── ServerTooOld          a nats-server that would silently ignore what we ask of it
    │   ├── NoRoom                the server has no disk to set aside for a stream
    │   └── NotReady              streams or consumers are missing: `turnpike broker ensure`
    ├── PublishError              the message was not stored; a turn will not be answered
    │   ├── NoStream              no stream takes its subject; UnservedModel: no queue has this model's turns
    │   ├── NotServed             a queue would take them, but no worker answers; NotLoaded: no board can load it
    │   ├── NotStored             the server did not take it, `.code` says why; QueueFull: the queue is at its bound
    │   ├── PayloadTooLarge       over the server's max_payload, headers counted
    │   ├── Duplicate             its id was used before; DuplicateTurn: a turn's id
    │   └── NotAcknowledged       no acknowledgement came in time: it may or may not be stored
    ├── OtherFile                 a worker of a model that others serve from another file
    ├── ReplayUnavailable         no worker answers a reader that missed something
    ├── TurnFailed                the turn ended as `failed`; `.failed` says why (broker/answer.py)
    ├── TooManyRounds             the model went on calling tools (broker/rounds.py)
    ├── NoTool                    a function that a model cannot be offered (broker/functions.py)
    ├── CatalogueError            a catalogue or lock file that cannot be read
    ├── UnknownModel              a name that neither has
    ├── FileError                 a model's file that cannot be had as it should be
    │   ├── Missing               not on this node
    │   ├── WrongHash             not the bytes of the lock file
    │   └── HubError              the hub did not give it; DiskFull: there is no room for it
    ├── Fenced                    another worker writes this turn's reply now
    └── TurnRejected              what a worker answers as `failed`: `.code`, `.detail`, `.retryable`
"""

from __future__ import annotations

from collections.abc import Sequence


class TurnpikeError(Exception):
    """The base of all of the above."""


class InvalidMessage(TurnpikeError):
    """A message that is not what the wire says. `field` is a path such as `sampling.max_tokens`, or empty."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}" if field else reason)


class UnsupportedVersion(InvalidMessage):
    """A wire version that this release does not speak."""

    def __init__(self, version: object, supported: int) -> None:
        self.version = version
        super().__init__("v", f"wire version {version!r} is not spoken here, only {supported}")


class InvalidName(TurnpikeError):
    """A name that cannot stand as one token of a subject."""

    def __init__(self, what: str, value: object) -> None:
        self.what = what
        self.value = value
        super().__init__(f"{what} {str(value)[:80]!r} is not 1 to 64 letters, digits, '_' or '-'")


class SettingsError(TurnpikeError):
    """All the problems of the settings at once, one a line."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class ServerError(TurnpikeError):
    """Something about the NATS server as such."""


def _there(url: str, origin: str) -> str:
    return f"{url} ({origin})" if origin else url


class ServerUnavailable(ServerError):
    """Nobody answers at the address; `reason` is the network's, `origin` tells who named the address."""

    def __init__(self, url: str, reason: str, origin: str = "") -> None:
        self.url = url
        self.reason = reason
        super().__init__(
            f"no NATS server answers at {_there(url, origin)}: {reason}. "
            "Start one with `turnpike broker`, or set NATS_URL"
        )


class ConnectionLost(ServerError):
    """`reason` is a sentence of its own."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Refused(ServerUnavailable):
    """Somebody is at the address and does not let us in, or is not who we trust."""

    def __init__(self, url: str, reason: str, advice: str = "", origin: str = "") -> None:
        self.url = url
        self.reason = reason
        text = f"the NATS server at {_there(url, origin)} cannot be used: {reason}" + (f"; {advice}" if advice else "")
        TurnpikeError.__init__(self, text)


class ServerTooOld(ServerError):
    """A nats-server that would silently ignore what we ask of it."""

    def __init__(self, version: str, minimum: str) -> None:
        self.version = version
        self.minimum = minimum
        super().__init__(f"nats-server {version} is too old: it would silently ignore options that {minimum} knows")


class NotReady(ServerError):
    """A stream or consumer, `missing`, that an operator has to make first."""

    def __init__(self, missing: str) -> None:
        self.missing = missing
        super().__init__(f"{missing} does not exist on this server: run `turnpike broker ensure --model MODEL`")


class NoRoom(ServerError):
    """The server has less left for streams than this one is to hold."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(
            f"{what}: {reason}: the server's store has no room for so many bytes beside other streams. Give queues a "
            "smaller --max-queued-bytes, or the server more room (jetstream.max_file_store, the disk)"
        )


class OtherFile(TurnpikeError):
    """A worker that would serve a model from another file than those that serve it."""

    def __init__(self, model: str, worker: str, node: str) -> None:
        self.model = model
        self.worker = worker
        self.node = node
        super().__init__(
            f"model {model!r} is served by {worker} on {node} from another file: turns would be answered by either. "
            "Give this one another name (--model), stop the others first, "
            "or change the file worker by worker with --allow-other-file"
        )


class PublishError(TurnpikeError):
    """The message was not stored."""


class NoStream(PublishError):
    """No stream takes the subject: nothing is stored."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(f"no stream takes {subject}: run `turnpike broker ensure`")


class UnservedModel(PublishError):
    """The model has no queue here: no worker could ever answer. `choices` are models that have one, as far as known."""

    def __init__(self, model: str, choices: Sequence[str] = ()) -> None:
        self.model = model
        self.choices = tuple(choices)
        others = f"; these are: {', '.join(choices)}" if choices else " (see `turnpike top`)"
        super().__init__(f"model {model!r} is not served here: no stream takes its turns{others}")


class NotStored(PublishError):
    """`code` is the server's error code, None where it gave none."""

    def __init__(self, subject: str, code: int | None, reason: str) -> None:
        self.subject = subject
        self.code = code
        self.reason = reason
        super().__init__(f"the server did not store {subject}: {reason}" + (f" (code {code})" if code else ""))


class NotServed(PublishError):
    """The model has a queue, and no worker that answers just now, nor a board that could load it. `choices` are models
    that have either, where they are known."""

    def __init__(self, model: str, choices: Sequence[str] = ()) -> None:
        self.model = model
        self.choices = tuple(choices)
        others = f". These are served: {', '.join(choices)}" if choices else ""
        super().__init__(
            f"nobody serves model {model!r} just now: no worker of it answers. Start one with "
            f"`turnpike worker --model {model}`, or wait for one with --wait-seconds{others}"
        )


class NotLoaded(NotServed):
    """No board that has the model can load it, for `reason`; one tries again in `seconds`."""

    def __init__(self, model: str, reason: str, seconds: float) -> None:
        self.model = model
        self.choices = ()
        self.reason = reason
        self.seconds = seconds
        PublishError.__init__(
            self, f"model {model!r} cannot be loaded: {reason}; a board tries again in {seconds:.0f} s"
        )


class QueueFull(PublishError):
    """The model's queue is at its bound, as the server says in `reason`: later it may not be."""

    def __init__(self, model: str, reason: str) -> None:
        self.model = model
        self.reason = reason
        super().__init__(f"the queue of model {model!r} is full ({reason}): try again later")


class PayloadTooLarge(PublishError):
    """`num_bytes` and `limit` count the headers too, as the server does."""

    def __init__(self, num_bytes: int, limit: int) -> None:
        self.num_bytes = num_bytes
        self.limit = limit
        super().__init__(f"the message has {num_bytes:,} bytes, and the server takes at most {limit:,} (max_payload)")


class Duplicate(PublishError):
    """A message with this id was stored before, by somebody else."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(f"a message with the id of {subject} was stored before")


class DuplicateTurn(PublishError):
    """The turn's id was used before, by somebody else."""

    def __init__(self, turn: str) -> None:
        self.turn = turn
        super().__init__(f"turn id {turn} was published before: use a fresh random one")


class NotAcknowledged(PublishError):
    """`what` is a subject, or a turn."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"the publish of {what} was not acknowledged ({reason}): it may or may not be queued")


class ReplayUnavailable(TurnpikeError):
    """No worker answers a reader that missed something."""

    def __init__(self, turn: str, reason: str) -> None:
        self.turn = turn
        super().__init__(f"what is stored of turn {turn} cannot be read: {reason}")


class Fenced(TurnpikeError):
    """A write of a turn's reply was refused: another worker has written since, or the turn has ended."""

    def __init__(self, turn: str) -> None:
        self.turn = turn
        super().__init__(f"turn {turn} is written by another worker now")


class TurnRejected(TurnpikeError):
    """What a worker cannot or will not compute; it is told to the producer as `failed`.

    `code` is one of those that docs/protocol.md lists; `retryable` says whether the same turn may work later.
    """

    def __init__(self, code: str, detail: str, *, retryable: bool = False) -> None:
        self.code = code
        self.detail = detail
        self.retryable = retryable
        super().__init__(f"{code}: {detail}")
