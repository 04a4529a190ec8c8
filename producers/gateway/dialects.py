"""The dialects that a gateway speaks. The first one tells what is read by a turn's id, and what is nobody's path."""

from __future__ import annotations

from producers.gateway.anthropic.dialect import Anthropic
from producers.gateway.dialect import Dialect
from producers.gateway.native.dialect import Native
from producers.gateway.ollama.dialect import Ollama
from producers.gateway.openai.dialect import OpenAi


def all_dialects(*, num_clients: int = 1, has_slots: bool = True) -> tuple[Dialect, ...]:
    """Made anew: what one keeps is of its gateway. `num_clients` share the room for answers that are kept; without
    slots llama-server's tells of none."""
    return OpenAi(num_clients=num_clients), Anthropic(), Ollama(), Native(has_slots=has_slots)


def nearest(dialects: tuple[Dialect, ...], path: str) -> Dialect:
    """The one that has a path which begins as this one does, by the most words; the first of those that are alike."""
    return max(dialects, key=lambda one: max((_alike(known, path) for known in paths_of(one)), default=0))


def paths_of(dialect: Dialect) -> list[str]:
    """All of its paths."""
    return [*dialect.turns, *(one.path for one in dialect.plain)]


def _alike(known: str, path: str) -> int:
    """How many words two paths have in common from their beginning on."""
    words = [*zip(known.strip("/").split("/"), path.strip("/").split("/"), strict=False)]
    return next((index for index, (one, other) in enumerate(words) if one != other), len(words))
