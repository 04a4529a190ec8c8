"""API keys: whose they are, and how much they may. The file holds their SHA-256, never the keys.

::

    [clients.alice]                     # the client's name in subjects, in telemetry and in `turnpike cancel`
    sha256 = ["9f86d081…"]              # of `printf %s KEY | sha256sum`
    turns_at_once = 8
    tokens_per_minute = 20000           # prompt tokens that were computed, and generated ones
"""

from __future__ import annotations

import hmac
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from broker import subjects
from broker.accounts import API_KEY_PREFIX, LOCAL, api_key_digest
from broker.errors import InvalidName, TurnpikeError
from broker.toml_files import read_toml
from producers.gateway.errors import ApiError

TURNS_AT_ONCE = 64
ANYONE = 1 << 30
"""Turns at once where there are no keys: the server's connections and the queue's length are the bounds."""
MINUTE = 60.0


class KeysError(TurnpikeError):
    """A file of keys that cannot be used; says where."""


class ClientKeys(Struct, frozen=True, forbid_unknown_fields=True):
    """One client's keys and limits."""

    sha256: tuple[Annotated[str, Meta(pattern="^[0-9a-f]{64}$")], ...] = ()
    turns_at_once: Annotated[int, Meta(ge=1)] = TURNS_AT_ONCE
    tokens_per_minute: Annotated[int, Meta(ge=1)] | None = None


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    clients: dict[str, ClientKeys] = {}


def new_key() -> tuple[str, str]:
    """A random key and its SHA-256."""
    key = API_KEY_PREFIX + secrets.token_urlsafe(32)
    return key, api_key_digest(key)


def read_keys(path: Path) -> dict[str, ClientKeys]:
    """Raises KeysError."""
    try:
        found = msgspec.convert(read_toml(path), _File).clients
        for name in found:
            subjects.token(name, "client")
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, InvalidName) as error:
        raise KeysError(f"{path}: {error}") from None
    if not any(one.sha256 for one in found.values()):
        raise KeysError(f"{path}: holds no key: make one with `turnpike gateway --new-key`")
    return found


@dataclass
class Account:
    """A client at this gateway: what it has under way and what it may have still."""

    name: str
    limits: ClientKeys = field(default_factory=ClientKeys)
    num_turns: int = 0
    _tokens: float | None = None
    """Left of its minute; below zero it has to wait."""
    _refilled_at: float = 0.0

    @property
    def has_limits(self) -> bool:
        """Whether anything bounds it, so that its turns are to be counted to their ends."""
        return self.limits.turns_at_once < ANYONE or self.limits.tokens_per_minute is not None

    def begin(self, now: float, num_turns: int = 1) -> None:
        """Takes note of turns; raises ApiError where they are too many."""
        allowed = self.limits.turns_at_once
        if num_turns > allowed:
            message = f"{num_turns} turns are asked for, and no more than {allowed} are allowed at once"
            raise ApiError(400, message, code="too_many_turns")
        if self.num_turns + num_turns > allowed:
            message = f"{self.num_turns} turns are under way, and no more are allowed at once"
            if num_turns > 1:
                message = f"{self.num_turns} turns are under way, and no more than {allowed} are allowed at once"
            raise ApiError(429, message, kind="requests", code="rate_limit_exceeded", retry_after=1.0)
        left = self._refill(now)
        if left is not None and left <= 0:
            rate = self.limits.tokens_per_minute
            assert rate is not None
            wait = (1 - left) / rate * MINUTE
            message = f"the limit of {rate} tokens a minute is reached: try again in {wait:.0f} s"
            raise ApiError(429, message, kind="tokens", code="rate_limit_exceeded", retry_after=wait)
        self.num_turns += num_turns

    def end(self, num_tokens: int, now: float) -> None:
        """Its turn is over, and took so many tokens."""
        self.num_turns -= 1
        if (left := self._refill(now)) is not None:
            self._tokens = left - num_tokens

    def _refill(self, now: float) -> float | None:
        """A bucket that holds a minute's tokens and fills as time passes."""
        rate = self.limits.tokens_per_minute
        if rate is None:
            return None
        if self._tokens is None:
            self._tokens = float(rate)
        else:
            self._tokens = min(float(rate), self._tokens + (now - self._refilled_at) / MINUTE * rate)
        self._refilled_at = now
        return self._tokens


class Keys:
    """Who a request is of. Without a file everybody is the local client, and needs no key."""

    def __init__(self, clients: dict[str, ClientKeys] | None) -> None:
        self.are_wanted = clients is not None
        found = clients or {LOCAL: ClientKeys(turns_at_once=ANYONE)}
        self._accounts = {name: Account(name, limits) for name, limits in found.items()}
        self._by_digest = {digest: self._accounts[name] for name, limits in found.items() for digest in limits.sha256}

    @property
    def num_clients(self) -> int:
        """How many there may be."""
        return len(self._accounts)

    def account(self, headers: Mapping[str, str]) -> Account:
        """Of a request's head: `Authorization: Bearer`, or else `x-api-key`; raises ApiError."""
        if not self.are_wanted:
            return self._accounts[LOCAL]
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = headers.get("x-api-key", "")
        if not key.strip():
            raise ApiError(401, "an API key is wanted: Authorization: Bearer KEY", code="missing_api_key")
        digest = api_key_digest(key.strip())
        for known, account in self._by_digest.items():
            if hmac.compare_digest(known, digest):
                return account
        raise ApiError(401, "the API key is not known here", code="invalid_api_key")
