"""What travels: turns, replies, ends, cancels, dead letters, states, points.

Frozen structs with typed, bounded fields. `broker.codec` is the only place where bytes become these, so a value of
one of these types has been checked.
"""

from __future__ import annotations

from broker.messages.ends import (
    NOT_UNDERSTOOD,
    CachedIn,
    Done,
    End,
    Failed,
    FinishReason,
    RecomputedFor,
    Score,
    Timings,
    Usage,
)
from broker.messages.fields import WIRE_VERSION, Count, Seconds, Token, Word, new_id
from broker.messages.queue import Beacon, Cancel, DeadLetter, Leaving
from broker.messages.replies import (
    Chunk,
    HandedBack,
    Other,
    Progress,
    Replay,
    ReplayRequest,
    Reply,
    Started,
    TokenLogprob,
)
from broker.messages.states import (
    MAX_PART_BYTES,
    CutPoint,
    Earlier,
    FetchClose,
    FetchOpen,
    FetchPart,
    FetchRefused,
    FetchRequest,
    Holding,
    Opened,
    Remembered,
    StatePart,
    Written,
)
from broker.messages.telemetry import MAX_BATCH_POINTS, FieldValue, NodeState, Point, Points, RunEvent
from broker.messages.tools import CallDelta, NamedTool, Tool, ToolCall, ToolChoice
from broker.messages.turns import MAX_GRAMMAR_BYTES, Kind, Message, Role, Sampling, Turn, check_messages

__all__ = [
    "MAX_BATCH_POINTS",
    "MAX_GRAMMAR_BYTES",
    "MAX_PART_BYTES",
    "NOT_UNDERSTOOD",
    "WIRE_VERSION",
    "Beacon",
    "CachedIn",
    "CallDelta",
    "Cancel",
    "Chunk",
    "Count",
    "CutPoint",
    "DeadLetter",
    "Done",
    "Earlier",
    "End",
    "Failed",
    "FetchClose",
    "FetchOpen",
    "FetchPart",
    "FetchRefused",
    "FetchRequest",
    "FieldValue",
    "FinishReason",
    "HandedBack",
    "Holding",
    "Kind",
    "Leaving",
    "Message",
    "NamedTool",
    "NodeState",
    "Opened",
    "Other",
    "Point",
    "Points",
    "Progress",
    "RecomputedFor",
    "Remembered",
    "Replay",
    "ReplayRequest",
    "Reply",
    "Role",
    "RunEvent",
    "Sampling",
    "Score",
    "Seconds",
    "Started",
    "StatePart",
    "Timings",
    "Token",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "Turn",
    "Usage",
    "Word",
    "Written",
    "check_messages",
    "new_id",
]
