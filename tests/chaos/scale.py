"""How large a cluster of boards a chaos run has, its models, and how its boards are started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.account import AWAY_SECONDS
from tests.support import lock_files
from workers.boards.offers import Offers
from workers.boards.settings import BoardSettings
from workers.llama.random_model import write_model

SHAPES = ("tiny", "tiny-swa", "tiny-hybrid", "tiny-recurrent", "tiny-delta", "tiny-mamba2", "tiny-experts", "tiny")
REAL = {1: "gemma-3-270m-q4_k_m.gguf", 7: "q05.gguf"}
"""In whose place, where TP_MODELS has them."""
NUM_CTX, NUM_SLOTS, PARK_BYTES = 4096, 4, 16_000_000
FLAGS = ("--deterministic", "--threads", "1", "--wait-seconds", "60")
PATIENCE = ("--max-wait-seconds", "20", "--min-stay-seconds", "2")
KEPT_BYTES = 64_000_000
"""Of a board, for conversations of models that are not loaded."""


@dataclass(frozen=True)
class Scale:
    """How large a cluster is, and how long it is broken."""

    num_boards: int = 3
    num_models: int = 5
    num_offered: int = 3
    """By each board."""
    num_fitting: tuple[int, ...] = (1, 2)
    """By a board, and the next one, and so on again."""
    num_turns: int = 300
    turns_per_second: float = 1.0
    every: float | None = None
    """Seconds from one kill to the next; None: all kinds of faults, at random."""
    between: tuple[float, float] = (1.0, 8.0)
    max_away_seconds: float = AWAY_SECONDS
    """A board is frozen or cut off for so long at most, a worker frozen, and one that was killed missing."""

    def offered(self, board: int, models: list[str]) -> list[str]:
        """A board's models: neighbours have some in common."""
        return [models[(board + number) % len(models)] for number in range(self.num_offered)]


def models_in(folder: Path, num_models: int, real: Path | None) -> dict[str, Path]:
    """Small ones of every kind of cache, and in place of two of them real ones where that folder has them."""
    found = {}
    for number in range(num_models):
        shape, given = SHAPES[number % len(SHAPES)], (real or folder) / REAL.get(number, "none")
        path = folder / f"m{number}.gguf"
        found[f"m{number}"] = given if given.is_file() else write_model(path, shape, "Q8_0", seed=number)
    return found


def lock_models(folder: Path, models: Mapping[str, Path]) -> dict[str, int]:
    """The bytes of memory that each is planned with."""
    lock_files(folder, models)
    settings = BoardSettings(
        model=tuple(models),
        lock_file=str(folder / "lock"),
        models_dir=str(folder / "models"),
        deterministic=True,
        num_ctx=NUM_CTX,
        num_slots=NUM_SLOTS,
        park_bytes=PARK_BYTES,
    )
    return {name: one.planned_bytes for name, one in Offers(settings).look(1 << 50).items()}


def board_flags(folder: Path, planned: Mapping[str, int], offered: Sequence[str], num_fitting: int) -> tuple[str, ...]:
    """With memory for so many of its models, also the largest."""
    memory_bytes = sum(sorted(planned[one] for one in offered)[-num_fitting:]) + KEPT_BYTES
    files = ("--lock-file", str(folder / "lock"), "--models-dir", str(folder / "models"))
    memory = ("--memory-bytes", str(memory_bytes))
    sizes = ("--num-ctx", str(NUM_CTX), "--num-slots", str(NUM_SLOTS), "--park-bytes", str(PARK_BYTES))
    return (*FLAGS, *PATIENCE, *files, *sizes, *memory, *(f"--model={one}" for one in offered))
