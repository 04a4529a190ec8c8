"""What a measurement is: its name, its tags, its fields with their types; and how a point of it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from broker.messages import FieldValue, Point

NONE = "-"
"""A tag that does not apply, as the run of what belongs to no load run: InfluxDB has no empty tags."""


@dataclass(frozen=True)
class Field:
    """A field: its type and unit, and what it is, with its source."""

    kind: Literal["float", "int", "bool", "str"]
    unit: str
    meaning: str


class UnknownField(ValueError):
    """A point that is not in this file: `measurement`, `name`."""

    def __init__(self, measurement: str, name: str) -> None:
        self.measurement, self.name = measurement, name
        super().__init__(f"{measurement}: {name!r} is not one of its tags and fields")


def _clean(tag: str) -> str:
    """A tag as line protocol can carry it: on one line, not empty, without a backslash at its end."""
    return " ".join(tag.split()).rstrip("\\")[:256] or "-"


@dataclass(frozen=True)
class Measurement:
    """A name, its tags and its fields."""

    name: str
    meaning: str
    tags: tuple[str, ...]
    fields: Mapping[str, Field]

    def point(self, time: int, tags: Mapping[str, str], fields: Mapping[str, FieldValue | None]) -> Point | None:
        """A point at `time`, nanoseconds since the epoch; None when every field is absent.

        Raises UnknownField for what is not declared, and ValueError for a number that is not finite.
        """
        if set(tags) != set(self.tags):
            raise UnknownField(self.name, ", ".join(sorted(set(tags) ^ set(self.tags))))
        found: dict[str, FieldValue] = {}
        for name, value in fields.items():
            if name not in self.fields:
                raise UnknownField(self.name, name)
            if value is not None:
                found[name] = self._converted(name, value)
        return Point(self.name, {name: _clean(value) for name, value in tags.items()}, found, time) if found else None

    def _converted(self, name: str, value: FieldValue) -> FieldValue:
        kind = self.fields[name].kind
        if kind == "float" and not isinstance(value, str):
            value = float(value)
            if not math.isfinite(value):
                raise ValueError(f"{self.name}.{name}: {value} cannot be stored")
        if type(value).__name__ != kind:
            raise ValueError(f"{self.name}.{name}: {value!r} is no {kind}")
        return value


def number(unit: str, meaning: str) -> Field:
    """A field that is a float."""
    return Field("float", unit, meaning)


def count(unit: str, meaning: str) -> Field:
    """A field that is an integer."""
    return Field("int", unit, meaning)


def flag(meaning: str) -> Field:
    """A field that is true or false."""
    return Field("bool", "", meaning)


def text(meaning: str) -> Field:
    """A field that is a text."""
    return Field("str", "", meaning)
