"""Strings that know of each character whose it is: the template's own or a message's.

A chat template may do to a content what it likes: split it, strip it, replace in it, change its case, print it as JSON.
Marks around the content would get lost or in the way; so each character's origin goes with it, in a second string of
the same length that is cut and joined like the first. llama.cpp's own renderer does so too (common/jinja/string.h).
What an operation of another kind makes of a content counts as content, all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, SupportsIndex

TEMPLATE = "\0"
MIXED = "\1"
"""Of contents, nobody knows which."""
_FIRST_MESSAGE = 2
_EDGES = "\U00080000"
"""From here on, of what is put around a message so that nothing is stripped off it, and taken out of the result: no
conversation has so many messages."""


def of_message(index: int) -> str:
    """The origin of what the message says."""
    return chr(index + _FIRST_MESSAGE)


def edge_of(index: int) -> str:
    """The origin of what stands around the message."""
    return chr(index + ord(_EDGES))


class Sourced(str):
    """A text and its characters' origins. Equal to the plain text, and what it is asked for is Sourced as well."""

    __slots__ = ("_origins",)
    _origins: str

    def __new__(cls, text: str, origins: str | None = None) -> Sourced:
        self = super().__new__(cls, text)
        self._origins = MIXED * len(text) if origins is None else origins
        return self

    def __str__(self) -> str:
        return self

    def __iter__(self) -> Iterator[str]:
        return map(Sourced, super().__iter__(), self._origins)

    def __getitem__(self, key: SupportsIndex | slice) -> Sourced:
        return Sourced(super().__getitem__(key), self._origins[key])

    def __add__(self, other: str) -> Sourced:
        return Sourced(super().__add__(other), self._origins + origins(other))

    def __radd__(self, other: str) -> Sourced:
        return sourced(other) + self

    def __mul__(self, times: SupportsIndex) -> Sourced:
        return Sourced(super().__mul__(times), self._origins * times)

    __rmul__ = __mul__

    def lstrip(self, chars: str | None = None) -> Sourced:
        """As str's; what is left keeps its origins."""
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None) -> Sourced:
        """As str's; what is left keeps its origins."""
        return self[: len(super().rstrip(chars))]

    def strip(self, chars: str | None = None) -> Sourced:
        """As str's; what is left keeps its origins."""
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str) -> Sourced:
        """As str's; what is left keeps its origins."""
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix: str) -> Sourced:
        """As str's; what is left keeps its origins."""
        return self[: len(self) - len(suffix)] if self.endswith(suffix) else self

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As str's; each piece keeps its origins."""
        return self._pieces(super().split(sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As str's; each piece keeps its origins."""
        return self._pieces(super().rsplit(sep, maxsplit), sep)

    def _pieces(self, pieces: list[str], sep: str | None) -> list[str]:
        found: list[str] = []
        at = 0
        for piece in pieces:
            at = at if sep is not None else self.index(piece, at)
            found.append(self[at : at + len(piece)])
            at += len(piece) + len(sep or "")
        return found

    def splitlines(self, keepends: bool = False) -> list[str]:
        """As str's; each line keeps its origins."""
        found: list[str] = []
        at = 0
        for kept, whole in zip(super().splitlines(keepends), super().splitlines(True), strict=True):
            found.append(self[at : at + len(kept)])
            at += len(whole)
        return found

    def partition(self, sep: str) -> tuple[str, str, str]:
        """As str's; each part keeps its origins."""
        before, found, _ = super().partition(sep)
        end = len(before) + len(found)
        return self[: len(before)], self[len(before) : end], self[end:]

    def rpartition(self, sep: str) -> tuple[str, str, str]:
        """As str's; each part keeps its origins."""
        before, found, _ = super().rpartition(sep)
        end = len(before) + len(found)
        return self[: len(before)], self[len(before) : end], self[end:]

    def join(self, parts: Iterable[str]) -> Sourced:
        """As str's; each part keeps its origins, and what is between them has this text's."""
        parts = list(parts)
        return Sourced(super().join(parts), self._origins.join(map(origins, parts)))

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> Sourced:
        """As str's; what is put in keeps its origins, and so does the rest."""
        if not old:
            return whole(str.replace(plain(self), old, plain(new), count), (self, new))
        return sourced(new).join(self.split(old, count))

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        """Raises TypeError: bytes have no origins."""
        raise TypeError("a content's bytes are not to be had")


def _changed(name: str) -> Callable[..., Sourced]:
    """A method that changes characters: one for one where the length stays, else all of it is content."""
    method = getattr(str, name)

    def change(self: Sourced, *args: Any, **kwargs: Any) -> Sourced:
        text = method(plain(self), *plain(args), **plain(kwargs))
        if name in _CASES and len(text) == len(self):
            return Sourced(text, origins(self))
        return whole(text, (self, args, kwargs))

    change.__name__ = name
    return change


_CASES = ("capitalize", "casefold", "lower", "swapcase", "title", "upper")
for _name in (*_CASES, "center", "expandtabs", "ljust", "rjust", "zfill", "translate"):
    setattr(Sourced, _name, _changed(_name))
for _name in ("__mod__", "__format__"):
    setattr(Sourced, _name, _changed(_name))


def sourced(text: str) -> Sourced:
    """The text with origins: the template's where it has none."""
    return text if isinstance(text, Sourced) else Sourced(text, TEMPLATE * len(text))


def origins(text: str) -> str:
    """One character for each of the text's."""
    return text._origins if isinstance(text, Sourced) else TEMPLATE * len(text)


def source_of(value: object, depth: int = 0) -> str | None:
    """Whose text is in the value, at any depth: None where it is the template's alone."""
    if isinstance(value, Sourced):
        found = {one for one in set(value._origins) if TEMPLATE != one < _EDGES}
    elif isinstance(value, dict | list | tuple | set | frozenset):
        if depth > 50:
            raise RecursionError
        inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        found = {source for one in inner if (source := source_of(one, depth + 1)) is not None}
    else:
        # An object of another kind may hold anything.
        return None if value is None or isinstance(value, str | int | float) else MIXED
    return None if not found else found.pop() if len(found) == 1 else MIXED


def whole(text: str, inputs: object) -> Sourced:
    """What was made of `inputs` in a way that keeps no origins: all of it counts as content."""
    return Sourced(text, (source_of(inputs) or TEMPLATE) * len(text))


def mapped(value: Any, change: Callable[[Sourced], str]) -> Any:
    """The value with its Sourced texts changed, at any depth."""
    match value:
        case Sourced():
            return change(value)
        case dict():
            return {mapped(name, change): mapped(one, change) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            kind = value if type(value) in (list, tuple, set, frozenset) else ()
            return type(kind)(mapped(one, change) for one in value)
        case _:
            return value


def plain(value: Any) -> Any:
    """The value with plain strings in it, at any depth."""
    return mapped(value, str.__str__)


def traced(operation: Callable[..., Any], inputs: Any, nonce: str) -> Any:
    """What `operation(plain inputs)` gives: where it is a text that puts its inputs into another, with their origins.

    It is done once more with marks around the contents, which nobody can guess. If anything but marks is different
    then, or a mark is missing, all of it counts as content.
    """
    text = operation(plain(inputs))
    source = source_of(inputs)
    if source is None or not isinstance(text, str):
        return text
    num_marks = 0

    def marked(one: Sourced) -> str:
        nonlocal num_marks
        parts = []
        for origin, run in _runs(one):
            num_marks += 1
            parts.append(f"{nonce}{ord(origin)};{run}{nonce}0;")
        return "".join(parts)

    marks = operation(mapped(inputs, marked))
    pieces = str(marks).split(nonce)
    found = sourced(pieces[0])
    for piece in pieces[1:]:
        origin, end, run = piece.partition(";")
        if not end:  # cut off in a mark
            return whole(text, inputs)
        found += Sourced(run, chr(int(origin)) * len(run))
    return found if found == text and len(pieces) == 2 * num_marks + 1 else whole(text, inputs)


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """Its stretches of one origin."""
    at = 0
    for origin, group in groupby(origins(text)):
        end = at + sum(1 for _ in group)
        yield origin, str.__str__(text)[at:end]
        at = end


def contents(text: str) -> tuple[str, list[list[int]]]:
    """The text without edges, and its contents as [message index, start, end) in order; −1 where nobody knows whose."""
    parts: list[str] = []
    found: list[list[int]] = []
    at = 0
    for origin, run in _runs(text):
        if origin >= _EDGES:
            continue
        if origin != TEMPLATE:
            index = -1 if origin == MIXED else ord(origin) - _FIRST_MESSAGE
            found.append([index, at, at + len(run)])
        parts.append(run)
        at += len(run)
    return "".join(parts), found
