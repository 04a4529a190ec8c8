"""An experiment's plan: which models, with which load."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from broker.errors import TurnpikeError
from broker.toml_files import read_toml
from producers.evaluate.items import SHIPPED
from producers.settings import LoadSettings


class ExperimentError(TurnpikeError):
    """A plan that cannot be carried out; says what of it."""


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """One model of a plan. With `worker` flags, a worker is started here and stopped afterwards."""

    model: str
    worker: tuple[str, ...] | None = None
    shape: str | None = None
    """A random-weight model of this shape, made on the spot, instead of a file."""
    quantization: str = "Q4_0"
    second_of: str | None = None
    """The model of the plan that this is another quantisation of."""
    load: dict[str, Any] = {}
    """What is another for this model than in the plan's load."""


class Winogrande(Struct, frozen=True, forbid_unknown_fields=True):
    """The questions of a plan: a file of them, or those that we ship, and how many."""

    path: str = str(SHIPPED)
    limit: int | None = None


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    """An experiment's file."""

    name: str
    models: tuple[Model, ...]
    load: dict[str, Any] = {}
    winogrande: Winogrande | None = None


def read_plan(path: Path) -> Plan:
    """Raises ExperimentError with the field that is wrong."""
    try:
        plan = msgspec.convert(read_toml(path), Plan)
        for model in plan.models:
            options(plan, model).check()
    except OSError as error:
        raise ExperimentError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, TypeError, TurnpikeError) as error:
        raise ExperimentError(f"{path}: {error}") from None
    names = {model.model for model in plan.models}
    for model in plan.models:
        if model.second_of is not None and model.second_of not in names - {model.model}:
            raise ExperimentError(f"{path}: {model.model}: second_of {model.second_of!r} is no other model of the plan")
    if len(names) < len(plan.models):
        raise ExperimentError(f"{path}: a model is listed twice")
    return plan


def options(plan: Plan, model: Model) -> LoadSettings:
    """The load of one model. Its run is named after both, so that an interrupted experiment finds it again."""
    said = plan.load | model.load
    unknown = set(said) - {one.name for one in msgspec.structs.fields(LoadSettings)}
    if unknown:
        raise ExperimentError(f"load: unknown setting {', '.join(sorted(unknown))}")
    fields = said | {"model": model.model, "run": f"{plan.name}-{model.model}"}
    return msgspec.convert(fields, LoadSettings)
