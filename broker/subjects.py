"""Every subject, stream and consumer name. Made here, never typed elsewhere; what is not one token is refused."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

from broker import priorities
from broker.errors import InvalidName

TURNS_PREFIX = "TURNS-"
REPLIES = "REPLIES"
ENDS = "ENDS"
CANCELS = "CANCELS"
DEAD = "DEAD"
TELEMETRY = "TELEMETRY"
KV_HELD = "KV_HELD"
"""The bucket HELD, as the server stores it (ADR-8)."""
KV_PLACEMENT = "KV_PLACEMENT"
"""The bucket PLACEMENT, likewise."""
KV_ANSWERS = "KV_ANSWERS"
"""The bucket ANSWERS, likewise."""
WRITER = "writer"
"""The one consumer of TELEMETRY, which all sidecars share."""
ALL_TURNS = "turn.>"
ALL_QUEUED = "queued.>"
"""Where the server tells of turns as they are queued, without what is in them."""
ALL_CANCELS = "cancel.>"
ALL_REPLIES = "reply.>"
ALL_ENDS = "end.>"
ALL_LIVE = "live.>"
ALL_REPLAYS = "replay.>"
ALL_DEAD = "dead.>"
ALL_TELEMETRY = "telemetry.>"
ALL_HELD = "$KV.HELD.>"
ALL_KEPT = "$KV.ANSWERS.>"
ALL_PLACEMENT = "$KV.PLACEMENT.>"
ALL_PLACED = "placement.>"
"""Where the server republishes what the bucket PLACEMENT takes, under the same names."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_token(value: str) -> bool:
    """Whether it can be one token of a subject."""
    return _TOKEN.fullmatch(value) is not None


def token(value: str, what: str = "name") -> str:
    """`value` itself; raises InvalidName where it could not be one token of a subject."""
    if not isinstance(value, str) or not is_token(value):
        raise InvalidName(what, value)
    return value


def node_name(setting: str | None) -> str:
    """This machine's: the setting, or the host's name made into a token. A node's processes must agree on it."""
    return token(setting or re.sub(r"[^A-Za-z0-9_-]", "-", platform.node())[:64] or "unknown", "node")


@dataclass(frozen=True)
class TurnAddress:
    """What a turn's subject says."""

    model: str
    priority: str
    """Its lane: its priority, or that it takes no slot."""
    client: str
    turn: str


def turn(model: str, lane: str, client: str, turn: str) -> str:
    """Where a turn is queued; raises InvalidName, as all of these do."""
    return f"turn.{token(model, 'model')}.{priorities.lane(lane)}.{token(client, 'client')}.{token(turn, 'turn')}"


def parse_turn(subject: str) -> TurnAddress:
    """The parts of a turn's subject; raises InvalidName."""
    match subject.split("."):
        case ["turn", model, priority, client, turn] if priority in priorities.LANES:
            return TurnAddress(token(model, "model"), priority, token(client, "client"), token(turn, "turn"))
    raise InvalidName("subject", subject)


def is_aside(subject: str) -> bool:
    """Whether a turn of that subject takes no slot."""
    return subject.split(".")[2:3] == [priorities.ASIDE]


def turns(model: str, lane: str | None = None) -> str:
    """All turns of a model, or of one of its lanes: a filter."""
    return f"turn.{token(model, 'model')}.{lane}.>" if lane else f"turn.{token(model, 'model')}.>"


def turns_of(model: str, client: str) -> str:
    """All turns of one client in a model's queue: a filter."""
    return f"turn.{token(model, 'model')}.*.{token(client, 'client')}.*"


def queued(model: str) -> str:
    """Where the server tells of a model's turns as they are queued, under the same names: a filter."""
    return f"queued.{token(model, 'model')}.>"


def queued_model(subject: str) -> str:
    """Which model a turn was queued for; empty for none of those subjects."""
    first, _, rest = subject.partition(".")
    return rest.partition(".")[0] if first == "queued" else ""


def turns_stream(model: str) -> str:
    """The stream that is the model's queue."""
    return f"{TURNS_PREFIX}{token(model, 'model')}"


def reply(client: str, turn: str) -> str:
    """Where a worker writes what it tells of a turn before its end."""
    return f"reply.{token(client, 'client')}.{token(turn, 'turn')}"


def end(client: str, turn: str) -> str:
    """Where a turn's end is written, once."""
    return f"end.{token(client, 'client')}.{token(turn, 'turn')}"


def live(client: str, turn: str) -> str:
    """Where the server republishes replies and ends as they are stored."""
    return f"live.{token(client, 'client')}.{token(turn, 'turn')}"


def live_of(client: str) -> str:
    """All replies and ends of a client's turns: a filter."""
    return f"live.{token(client, 'client')}.*"


def replay(client: str, turn: str) -> str:
    """Where a reader asks the workers for what it missed."""
    return f"replay.{token(client, 'client')}.{token(turn, 'turn')}"


def parse_replay(subject: str) -> tuple[str, str]:
    """Client and turn of a replay's subject; raises InvalidName."""
    match subject.split("."):
        case ["replay", client, turn]:
            return token(client, "client"), token(turn, "turn")
    raise InvalidName("subject", subject)


def cancel_turn(client: str, turn: str) -> str:
    """Where one turn is cancelled."""
    return f"cancel.{token(client, 'client')}.turn.{token(turn, 'turn')}"


def cancel_conversation(client: str, conversation: str) -> str:
    """Where the turns of a conversation are cancelled."""
    return f"cancel.{token(client, 'client')}.conversation.{token(conversation, 'conversation')}"


def cancel_all(client: str) -> str:
    """Where all of a client's turns are cancelled."""
    return f"cancel.{token(client, 'client')}.all"


@dataclass(frozen=True)
class CancelAddress:
    """Whom a cancel is for: one turn, one conversation, or with neither all of the client's."""

    client: str
    turn: str | None = None
    conversation: str | None = None


def cancel(address: CancelAddress) -> str:
    """The subject of a cancel."""
    if address.turn is not None:
        return cancel_turn(address.client, address.turn)
    if address.conversation is not None:
        return cancel_conversation(address.client, address.conversation)
    return cancel_all(address.client)


def parse_cancel(subject: str) -> CancelAddress:
    """The parts of a cancel's subject; raises InvalidName."""
    match subject.split("."):
        case ["cancel", client, "turn", turn]:
            return CancelAddress(token(client, "client"), turn=token(turn, "turn"))
        case ["cancel", client, "conversation", conversation]:
            return CancelAddress(token(client, "client"), conversation=token(conversation, "conversation"))
        case ["cancel", client, "all"]:
            return CancelAddress(token(client, "client"))
    raise InvalidName("subject", subject)


def dead(model: str | None = None) -> str:
    """Where the turns of a model that were given up on lie; of all models without one, a filter."""
    return f"dead.{token(model, 'model')}" if model is not None else "dead.*"


def dead_rest(model: str) -> str:
    """Where the rest of a payload lies that has no room in its letter."""
    return f"dead.{token(model, 'model')}.rest"


def queue(model: str, lane: str) -> str:
    """Where workers tell how far their consumer has come."""
    return f"queue.{token(model, 'model')}.{lane}"


LEAVING = "queue.*.leaving"
"""What those listen to who remember workers."""


def leaving(model: str) -> str:
    """Where a model's workers tell that they take no more turns."""
    return f"queue.{token(model, 'model')}.leaving"


def telemetry(node: str) -> str:
    """Where the points of a node's workers and sidecar go."""
    return f"telemetry.{token(node, 'node')}"


def node(node: str) -> str:
    """Where a node's sidecar tells its workers how the node is."""
    return f"node.{token(node, 'node')}"


def held(model: str, client: str, conversation: str) -> str:
    """The directory's entry on a conversation: which worker has its state."""
    return f"$KV.HELD.{token(model, 'model')}.{token(client, 'client')}.{token(conversation, 'conversation')}"


def kept(client: str, answer: str) -> str:
    """Where an answer is kept that its client asked to be."""
    return f"$KV.ANSWERS.{token(client, 'client')}.{token(answer, 'answer')}"


def placed_board(board: str) -> str:
    """The bucket's entry on a board: its state."""
    return f"$KV.PLACEMENT.board.{token(board, 'board')}"


def placed_claim(model: str, copy: int) -> str:
    """The bucket's entry on a copy of a model: which board has it, or is about to. Copies count from 0."""
    return f"$KV.PLACEMENT.claim.{token(model, 'model')}.{token(str(copy), 'copy')}"


def placed_order(model: str, board: str | None = None) -> str:
    """The bucket's entry on what operators want of a model, on one board or, without one, on all."""
    order = f"$KV.PLACEMENT.order.{token(model, 'model')}"
    return order if board is None else f"{order}.{token(board, 'board')}"


def placed_kind(subject: str) -> str:
    """`board`, `claim` or `order`: what an entry of the bucket is; empty for none of its subjects."""
    tokens = subject.split(".")
    return tokens[2] if len(tokens) > 3 else ""


def kv(worker: str) -> str:
    """Where a worker gives its states to others."""
    return f"kv.{token(worker, 'worker')}"


RUNS = "run.*"
"""What sidecars listen to."""


def runs(client: str) -> str:
    """Where a load generator tells that a run begins or ends."""
    return f"run.{token(client, 'client')}"


def inbox(user: str) -> str:
    """A user's own inbox prefix: with a shared one, a user could read what another fetched."""
    return f"_INBOX_{token(user, 'user')}"
