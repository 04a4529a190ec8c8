"""How requests say how tokens are to be chosen, and what becomes of it: the ranges and the odd values are the same for
every dialect, what a request leaves open is as its API has it. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta
from msgspec.structs import replace

from broker.errors import InvalidMessage
from broker.messages import Sampling
from producers.gateway.dialect import plain_name
from producers.gateway.errors import ApiError

MOST_TOKENS = 1_000_000
"""What the wire takes; no context holds as many."""
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
MAX_ANSWERS = 8
"""Of one prompt."""

Share = Annotated[float, Meta(ge=0, le=1)]
Temperature = Annotated[float, Meta(ge=0, le=100)]
Penalty = Annotated[float, Meta(ge=-100, le=100)]
RepeatPenalty = Annotated[float, Meta(gt=0, le=100)]
NumLogprobs = Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)]
NumAnswers = Annotated[int, Meta(ge=1, le=MAX_ANSWERS)]
Limit = Annotated[int, Meta(ge=-1)]
"""Of tokens; -1 is as many as the context holds, and so is what no context holds."""
Stop = Annotated[str, Meta(max_length=256)]
"""An empty one stops nothing."""


@dataclass(frozen=True)
class Defaults:
    """What an API has where a request does not say."""

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def sampling_of(
    defaults: Defaults,
    *,
    limit: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repeat_penalty: float | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    stop: str | tuple[str, ...] | None = None,
    seed: int | None = None,
    param_of: Callable[[str], str] = plain_name,
    **more: Any,
) -> Sampling:
    """As a turn has it; a random seed without one. `more` is told as it is. Raises ApiError."""
    share = min(1.0, _or(top_p, defaults.top_p))
    try:
        return Sampling(
            max_tokens=num_tokens(_or(limit, defaults.max_tokens)),
            temperature=max(0.0, _or(temperature, defaults.temperature)),
            # No share of the probability at all is the likeliest token alone.
            top_k=1 if share <= 0 else min(max(0, _or(top_k, defaults.top_k)), MOST_TOKENS),
            top_p=share if share > 0 else 1.0,
            min_p=min(1.0, max(0.0, _or(min_p, defaults.min_p))),
            repeat_penalty=_or(repeat_penalty, 1.0),
            presence_penalty=_or(presence_penalty, 0.0),
            frequency_penalty=_or(frequency_penalty, 0.0),
            stop=_stops_of(stop),
            seed=secrets.randbits(62) if seed is None else seed % 2**63,
            **more,
        )
    except InvalidMessage as error:
        param = param_of(error.field)
        raise ApiError(400, f"{param}: {error.reason}", param=param) from None


def num_tokens(limit: int) -> int:
    """Of an answer at most, as the wire takes them: below 0 is no limit, and 0 the least that there is."""
    return MOST_TOKENS if limit < 0 else min(max(limit, 1), MOST_TOKENS)


def counted_up(first: Sampling, num_answers: int) -> list[Sampling]:
    """That of each answer to one prompt: seeds count up."""
    return [replace(first, seed=(first.seed + place) % 2**63) for place in range(num_answers)]


def _stops_of(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The texts that end an answer."""
    return tuple(one for one in ((given,) if isinstance(given, str) else given or ()) if one)


def _or[T](value: T | None, default: T) -> T:
    return default if value is None else value
