"""What boards and operators say about which models are where: the values of the bucket PLACEMENT."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from broker.messages.fields import Count, Seconds, Token, Word

AVAILABLE, LOADING, SERVING, DRAINING, BROKEN = "available", "loading", "serving", "draining", "broken"
"""What a model is on a board: its file is there and it would fit; its worker starts; its worker takes turns; it
finishes what it has; it could not be loaded, and will not be tried before `retry_at`."""
IN_MEMORY = (LOADING, SERVING, DRAINING)
"""The states in which it takes memory."""
ALWAYS, NEVER = "always", "never"
"""Pins: loaded and never evicted; never loaded."""
SHORT_OF_MEMORY = 0.2
"""A board with more `memory_pressure` loads nothing."""
TURN_SECONDS = 20.0
"""What a turn takes, where no board has had one of its model yet."""
MAX_STATE_BYTES = 128 * 1024
"""Of what a board says, on the wire."""


class ModelFile(Struct, frozen=True, omit_defaults=True):
    """What a model's file says of it; "" and 0 where that is not known."""

    architecture: Annotated[str, Meta(max_length=64)] = ""
    """`general.architecture` of its header."""
    quantization: Annotated[str, Meta(max_length=64)] = ""
    num_parameters: Count = 0
    num_embd: Count = 0
    """Of its embedding: the width of a token."""
    sha256: Annotated[str, Meta(max_length=64)] = ""
    """Of its bytes, as they are locked."""
    modified_at: Seconds = 0.0
    """In seconds since the epoch."""


NO_FILE = ModelFile()


class ModelOnBoard(Struct, frozen=True, omit_defaults=True):
    """One model as one board has it, or could have it."""

    model: Token
    state: Word
    planned_bytes: Count
    """Of memory while it is loaded: the worker's plan."""
    load_seconds: Seconds
    """From the start of its process to its first turn: as measured here, else by its bytes and the board's rate."""
    file_bytes: Count = 0
    read_bytes: Count = 0
    """Of the file, while it is loaded."""
    since: Seconds = 0.0
    """When it came into this state, by the board's clock, in seconds since the epoch."""
    used_at: Seconds = 0.0
    """When its latest turn ended, or was seated; 0 where there was none."""
    num_in_hand: Count = 0
    """Turns that its worker has."""
    pin: Word | None = None
    turn_seconds: Seconds | None = None
    """What a turn took lately, a slot's time; None before the first."""
    longest_turn_seconds: Seconds | None = None
    """What the longest one took lately."""
    num_slots: Count = 0
    """Turns at once that its worker takes, or would take; 0 where the board does not tell."""
    num_waiting: Count = 0
    """Interactive turns in its queue that no worker has taken, as the board saw it last, …"""
    num_waiting_batch: Count = 0
    """… and batch turns."""
    reason: Annotated[str, Meta(max_length=512)] = ""
    """What was wrong when it was tried last, in one line."""
    retry_at: Seconds = 0.0
    """Before that it is not tried again."""
    num_failures: Count = 0
    """How often it has failed, one after the other."""
    is_passing: bool = False
    """Of BROKEN: its worker died, or there was no room just then; its turns wait until it is tried again."""
    num_ctx: Count = 0
    """Of the context that its worker has, or would have; 0 where the board does not tell."""
    loaded: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Of LOADING: how much of the whole load is done, by what its parts took before; None where its board does not
    tell."""
    can: tuple[Word, ...] | None = None
    """What its worker can (`broker.discovery`), as far as the file tells; None where the board does not."""
    file: ModelFile = NO_FILE


class BoardState(Struct, frozen=True, omit_defaults=True):
    """A board, as its supervisor says every few seconds and whenever something changes. It expires with its board."""

    board: Token
    memory_bytes: Count
    """For models, all together."""
    num_cores: Count
    models: tuple[ModelOnBoard, ...] = ()
    sent_at: Seconds = 0.0
    started_at: Seconds = 0.0
    is_throttled: bool = False
    memory_pressure: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """The share of the last ten seconds in which something waited for memory (PSI, `some`)."""
    num_swaps: Count = 0
    """Models unloaded for another since the board's start."""
    loading_seconds: Seconds = 0.0
    """Spent on loading since its start."""
    num_failed_loads: Count = 0
    """Models that could not be loaded, since its start."""
    num_waited: Count = 0
    """Turns that had waited for their model to be loaded here, since its start."""
    waited_seconds: Seconds = 0.0
    """All of them together."""
    kept_bytes: Count = 0
    """Of memory, by conversations of models that are not loaded."""


class Claim(Struct, frozen=True):
    """A board is about to load a model, or has it: the bucket takes one of each `model` and `copy`, and it expires with
    its board unless that renews it."""

    board: Token
    model: Token
    copy: Count = 0
    """0 for the first copy in the cluster, 1 for the second, …"""


class Order(Struct, frozen=True, omit_defaults=True):
    """An operator's word on a model, on one board or on all of them; it stands until another one is given."""

    model: Token
    board: Token | None = None
    pin: Word | None = None
    """ALWAYS, NEVER, or none: as the policy says."""
    load: bool | None = None
    """Load it now, or unload it now; once, by boards that were there at `sent_at`."""
    sent_at: Seconds = 0.0
