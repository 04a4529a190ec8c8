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

`auto` is the served model with the shortest expected wait, unless the file says otherwise. Only such models are taken
as can answer the turn: with a chat template for a chat, with a context that holds it. Of equals the largest is taken
(half its bytes is as large), of those the least busy, then the fastest; what is equal even so shares the conversations.
A model that a board would have to load first is one of them, and what that takes is its wait.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from broker.discovery import CHAT, EMBED, RAW, SCORE, TOOLS, WorkerInfo
from broker.errors import PublishError, TurnpikeError, UnservedModel
from broker.messages import Message, Tool, new_id
from broker.model_status import ModelStatus
from broker.priorities import BATCH, DEFAULT_PRIORITY, Priority
from broker.toml_files import read_toml
from producers.routing.lengths import about, longest

AUTO = "auto"
MAX_NAME = 256
AS_LARGE = 0.5
"""A model of at least so much of the largest's bytes is its equal."""
AS_FAST = 0.75


class RoutingError(TurnpikeError):
    """A routing file that cannot be used; says where."""


class NoneAble(UnservedModel):
    """Models are served, and none of them can answer this turn."""

    def __init__(self, wanted: str, reason: str) -> None:
        self.model = wanted
        PublishError.__init__(self, f"no model of {wanted!r} can answer this turn: {reason}")


class NoneServed(UnservedModel):
    """A policy has nothing to choose from: none of its models has a worker that answers."""

    def __init__(self, wanted: str) -> None:
        self.model = wanted
        PublishError.__init__(
            self,
            f"no worker answers that {wanted!r} could choose. Start one with `turnpike worker`, "
            "or wait for one with --wait-seconds",
        )


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
        """What a name stands for; None for a model's."""
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
        routes = msgspec.convert(read_toml(path), Routes)
    except OSError as error:
        raise RoutingError(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
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
class Needs:
    """What a turn asks of its model, as far as it can be told beforehand."""

    can: frozenset[str] = frozenset()
    """CHAT, RAW, SCORE, TOOLS, EMBED."""
    num_tokens: int = 0
    """Of its prompt, about."""
    priority: Priority = DEFAULT_PRIORITY
    conversation: str | None = None
    """Its turns go to the same one of equal models."""

    @classmethod
    def of(
        cls,
        messages: Sequence[Message],
        *,
        raw: bool = False,
        kind: str = "generate",
        tools: Sequence[Tool] = (),
        priority: Priority = DEFAULT_PRIORITY,
        conversation: str | None = None,
        **parts: Any,
    ) -> Needs:
        """What the turn of these messages, or of the other parts that `lengths.py` knows, needs of a model and its
        worker. Of texts to embed its context holds one at a time."""
        can = {EMBED} if kind == "embed" else {RAW if raw else CHAT} | ({SCORE} if kind == "score" else set())
        if tools or any(one.tool_calls or one.tool_call_id or one.reasoning for one in messages):
            can.add(TOOLS)
        is_embed = kind == "embed"
        num_tokens = longest(parts.get("texts", ())) if is_embed else about(messages, raw=raw, tools=tools, **parts)
        return cls(frozenset(can), num_tokens, priority, conversation)


NO_NEEDS = Needs()
NO_BOARDS: Mapping[str, ModelStatus] = {}


@dataclass(frozen=True)
class _Served:
    """A model as its workers together offer it. Any of them may take the turn: it can what all of them can."""

    model: str
    wait_seconds: float
    size_bytes: int
    num_ctx: int
    busy_share: float
    tokens_per_second: float
    lacks: frozenset[str]
    """Of what is needed."""


def _served(workers: Iterable[WorkerInfo], boards: Mapping[str, ModelStatus], needs: Needs) -> list[_Served]:
    by_model: dict[str, list[WorkerInfo]] = {}
    for worker in workers:
        if worker.is_serving:
            by_model.setdefault(worker.model, []).append(worker)
    found = [_offered(model, found, needs) for model, found in by_model.items()]
    found += [_loadable(one, needs) for one in boards.values() if one.is_servable and one.model not in by_model]
    return sorted(found, key=lambda one: one.model)


def _loadable(status: ModelStatus, needs: Needs) -> _Served:
    """A model that a board would load first. What it does not tell of it is taken to be as is needed."""
    lacks = needs.can - set(status.can) if status.can is not None else frozenset[str]()
    num_ctx = status.num_ctx or needs.num_tokens + 1
    wait = status.expected_wait(needs.priority)
    return _Served(status.model, wait, status.file_bytes, num_ctx, 0.0, 0.0, lacks)


def _offered(model: str, workers: list[WorkerInfo], needs: Needs) -> _Served:
    loads = [worker.load for worker in workers]
    waits = [load.expected_wait_seconds for load in loads]
    if needs.priority == BATCH:
        known = [load.batch_wait_seconds for load in loads]
        waits = [wait if batch is None else batch for wait, batch in zip(waits, known, strict=True)]
    return _Served(
        model,
        min(waits),
        max(worker.file_bytes or 0 for worker in workers),
        min(worker.num_ctx for worker in workers),
        sum(load.num_active for load in loads) / max(1, sum(load.num_slots for load in loads)),
        max(load.decode_tokens_per_second or 0.0 for load in loads),
        frozenset(what for what in needs.can if not all(worker.does(what) for worker in workers)),
    )


def choose(
    routes: Routes,
    wanted: str,
    workers: Iterable[WorkerInfo],
    needs: Needs = NO_NEEDS,
    *,
    boards: Mapping[str, ModelStatus] = NO_BOARDS,
    without: Collection[str] = (),
) -> Decision:
    """Where a turn for `wanted` goes. A name that is no policy is a model's, its token or as people write it; whether
    that has a worker is not asked, its queue waits. Raises UnservedModel where a policy finds none.

    What `boards` could load is served too, and is waited for as long as that takes. Where no context holds the turn,
    the largest is taken: its worker tells both numbers. `without` are models that were
    tried and could not.
    """
    found = list(workers)
    if routes.policy(wanted) is None:
        return Decision(next((one.model for one in found if one.model_name == wanted), wanted))
    served = [one for one in _served(found, boards, needs) if one.model not in without]
    able = [one for one in served if not one.lacks]
    large = [one for one in able if one.num_ctx > needs.num_tokens]
    if (decision := _by_policies(routes, wanted, large, needs)) is not None:
        return decision
    if (decision := _by_policies(routes, wanted, able, needs, is_too_long=True)) is not None:
        return decision
    if _by_policies(routes, wanted, served, needs) is not None:
        lacks = ", ".join(sorted({what for one in served for what in one.lacks}))
        raise NoneAble(wanted, f"they lack {lacks}" + (" (a chat template)" if CHAT in lacks else ""))
    raise NoneServed(wanted)


def _by_policies(
    routes: Routes, wanted: str, served: list[_Served], needs: Needs, *, is_too_long: bool = False
) -> Decision | None:
    """By the policy, else by its fall-back; None where neither has one of those that are served."""
    name: str | None = wanted
    passed: list[str] = []
    while name is not None and (policy := routes.policy(name)) is not None:
        if able := _able(routes, policy, served):
            after = f" after {', '.join(passed)} had none" if passed else ""
            if is_too_long:
                chosen = max(able, key=lambda one: one.num_ctx)
                return Decision(chosen.model, wanted, f"the largest context of {len(able)}{after}")
            return Decision(_best(policy, able, needs).model, wanted, f"{policy.by} of {len(able)}{after}")
        passed.append(name)
        name = policy.fallback
    return None


def _able(routes: Routes, policy: Policy, served: list[_Served]) -> list[_Served]:
    return [
        one
        for one in served
        if (not policy.models or one.model in policy.models)
        and set(policy.tags) <= set(routes.models.get(one.model, ModelTags()).tags)
        and (policy.max_wait_seconds is None or one.wait_seconds <= policy.max_wait_seconds)
    ]


def _best(policy: Policy, able: list[_Served], needs: Needs) -> _Served:
    """By what the policy goes by, then by what makes one of equals the better choice."""
    equals = _least(able, _order(policy))
    equals = _least(equals, lambda one: one.wait_seconds)
    largest = max(one.size_bytes for one in equals)
    equals = [one for one in equals if one.size_bytes >= AS_LARGE * largest]
    equals = _least(equals, lambda one: one.busy_share)
    fastest = max(one.tokens_per_second for one in equals)
    equals = [one for one in equals if one.tokens_per_second >= AS_FAST * fastest]
    # The one that comes first for this conversation and not for others: each has its share, and no turn changes over.
    conversation = needs.conversation if needs.conversation is not None else new_id()
    return min(equals, key=lambda one: hashlib.sha256(f"{conversation}/{one.model}".encode()).digest())


def _least(able: list[_Served], key: Callable[[_Served], float]) -> list[_Served]:
    least = min(key(one) for one in able)
    return [one for one in able if key(one) == least]


def _order(policy: Policy) -> Callable[[_Served], float]:
    def key(one: _Served) -> float:
        match policy.by:
            case "smallest":
                return float(one.size_bytes)
            case "largest":
                return -float(one.size_bytes)
            case "order":
                return float(policy.models.index(one.model)) if one.model in policy.models else float("inf")
            case _:
                return 0.0

    return key
