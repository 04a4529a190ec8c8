"""Which model a turn goes to: a name, `auto`, or a policy of a TOML file. Pure but for reading that file.

::

    [policies.quick]                  # `model: quick` or `turnpike ask quick`
    by = "expected_wait"              # or "smallest", "largest", "order"
    tags = ["chat"]                   # only models that have all of these
    models = ["phi", "llama"]         # only these; with by = "order" in this order
    max_wait_seconds = 30             # who waits longer is passed over
    fallback = "any"                  # another policy, where none of these has a worker

    [models.phi]
    tags = ["chat", "code"]

A line `default = "quick"` before all of them says where what names no model goes. A policy may be called as any model
is, `gpt-3.5-turbo` or `org/name`, so that clients with a name built in find one.

`auto` is the served model with the shortest expected wait, unless the file says otherwise.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from broker.discovery import WorkerInfo
from broker.errors import TurnpikeError, UnservedModel

AUTO = "auto"
MAX_NAME = 256


class RoutingError(TurnpikeError):
    """A routing file that cannot be used; says where."""


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is chosen among those that are served."""

    by: Literal["expected_wait", "smallest", "largest", "order"] = "expected_wait"
    tags: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    max_wait_seconds: float | None = None
    fallback: str | None = None


class ModelTags(Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says of a model."""

    tags: tuple[str, ...] = ()


class Routes(Struct, frozen=True, forbid_unknown_fields=True):
    """A routing file."""

    default: str | None = None
    """A policy, for requests that name no model."""
    policies: dict[str, Policy] = {}
    models: dict[str, ModelTags] = {}

    def policy(self, name: str) -> Policy | None:
        return self.policies.get(name, Policy() if name == AUTO else None)


@dataclass(frozen=True)
class Decision:
    """The model that a turn goes to, by which policy, and why. A model that was named has no policy."""

    model: str
    policy: str | None = None
    reason: str = "named"


def read_routes(file: str | Path | None) -> Routes:
    """Of a setting, where None is no file. Raises RoutingError for what is wrong, a fall-back that is not there or that
    leads back among others."""
    if file is None:
        return Routes()
    path = Path(file).expanduser()
    try:
        routes = msgspec.convert(tomllib.loads(path.read_text()), Routes)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise RoutingError(f"{path}: {error}") from None
    if routes.default is not None and routes.policy(routes.default) is None:
        raise RoutingError(f"{path}: default: there is no policy {routes.default!r}")
    for name in routes.policies:
        if not _can_name(name):
            reason = f"is not 1 to {MAX_NAME} printable characters without blanks"
            raise RoutingError(f"{path}: policy {name[:80]!r} {reason}")
        seen = [name]
        while (policy := routes.policy(seen[-1])) is not None and policy.fallback is not None:
            if routes.policy(policy.fallback) is None:
                raise RoutingError(f"{path}: policies.{seen[-1]}.fallback: there is no policy {policy.fallback!r}")
            if policy.fallback in seen:
                raise RoutingError(f"{path}: policies.{name}.fallback: leads back to {policy.fallback!r}")
            seen.append(policy.fallback)
    return routes


def _can_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME and name.isascii() and name.isprintable() and not set(name) & set(" \\")


@dataclass(frozen=True)
class _Served:
    """A model as its workers together offer it."""

    model: str
    wait_seconds: float
    size_bytes: int


def _served(workers: Iterable[WorkerInfo]) -> list[_Served]:
    by_model: dict[str, list[WorkerInfo]] = {}
    for worker in workers:
        by_model.setdefault(worker.model, []).append(worker)
    return [
        _Served(
            model,
            min(worker.load.expected_wait_seconds for worker in found),
            max(int(worker.facts.get("file_bytes", "0")) for worker in found),
        )
        for model, found in sorted(by_model.items())
    ]


def choose(routes: Routes, wanted: str, workers: Iterable[WorkerInfo]) -> Decision:
    """Where a turn for `wanted` goes. A name that is no policy is a model's, its token or as people write it; whether
    that has a worker is not asked, its queue waits. Raises UnservedModel where a policy finds none."""
    found = list(workers)
    name: str | None = wanted
    passed: list[str] = []
    served = _served(found)
    if routes.policy(wanted) is None:
        return Decision(next((one.model for one in found if one.model_name == wanted), wanted))
    while name is not None and (policy := routes.policy(name)) is not None:
        able = _able(routes, policy, served)
        if able:
            chosen = min(able, key=_order(policy))
            after = f" after {', '.join(passed)} had none" if passed else ""
            return Decision(chosen.model, wanted, f"{policy.by} of {len(able)}{after}")
        passed.append(name)
        name = policy.fallback
    raise UnservedModel(wanted)


def _able(routes: Routes, policy: Policy, served: list[_Served]) -> list[_Served]:
    return [
        one
        for one in served
        if (not policy.models or one.model in policy.models)
        and set(policy.tags) <= set(routes.models.get(one.model, ModelTags()).tags)
        and (policy.max_wait_seconds is None or one.wait_seconds <= policy.max_wait_seconds)
    ]


def _order(policy: Policy) -> Callable[[_Served], tuple[float, float, str]]:
    def key(one: _Served) -> tuple[float, float, str]:
        match policy.by:
            case "smallest":
                first = float(one.size_bytes)
            case "largest":
                first = -float(one.size_bytes)
            case "order":
                first = float(policy.models.index(one.model)) if one.model in policy.models else float("inf")
            case _:
                first = 0.0
        return first, one.wait_seconds, one.model

    return key
