"""`logit_bias` as the OpenAI API and llama-server have it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta

from broker.messages.turns import FORBIDDEN, TokenId
from producers.gateway.errors import ApiError

MAX_BIASES = 1024
_Text = Annotated[str, Meta(max_length=256)]
LogitBias = (
    Annotated[dict[_Text, float | bool], Meta(max_length=MAX_BIASES)]
    | Annotated[tuple[tuple[TokenId | _Text, float | bool], ...], Meta(max_length=MAX_BIASES)]
)
"""An object of tokens' numbers, or pairs of a number or a text; a text stands for all tokens that it is made of, and
false forbids."""
MOST = 1e6
"""More is not more."""


def biases_of(given: LogitBias | None) -> tuple[tuple[int | str, float], ...]:
    """As a turn has them; those of nothing are left out. Raises ApiError."""
    pairs: Iterable[tuple[int | str, float | bool]] = given.items() if isinstance(given, dict) else given or ()
    found = ((_token(token), _bias(bias)) for token, bias in pairs)
    return tuple((token, bias) for token, bias in found if bias and token != "")


def _token(token: int | str) -> int | str:
    if not isinstance(token, str) or not (token.isascii() and token.isdecimal()):
        return token
    if (number := int(token)) >= 2**31:
        raise ApiError(400, f"logit_bias: there is no token {token}", param="logit_bias")
    return number


def _bias(bias: float | bool) -> float:
    if isinstance(bias, bool):
        return 0.0 if bias else FORBIDDEN
    return min(max(bias, FORBIDDEN), MOST)
