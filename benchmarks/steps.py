"""What steps do ours and llama-server take for the same eight conversations at once, and what does each kind cost?

Ours are a worker's lines at DEBUG, llama-server's are read from what it says with `-lv 5`. Each step is one call of
llama_decode, from its beginning until the tokens that it gave are chosen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import CORES, ROOT, Weights
from benchmarks.loads import NUM_CTX, Measured, chatting, measure, texts, through_gateway, tuned, tuned_flags
from benchmarks.server_logs import Step, of_llama_server, of_worker
from tests.support import eventually

OURS, THEIRS, PATCHED = "ours", "llama-server", "patched"
"""The last is llama-server with our worker's attention."""
NUM_CONVERSATIONS, NUM_TURNS, NUM_TOKENS = 8, 3, 64
SIZES = (1, 2, 3, 4, 8, 16, 32, 48, 64, 96, 128, 256, 512)
"""Steps of more tokens than the one before and at most so many are counted together."""


@dataclass(frozen=True)
class Kind:
    """Steps that are counted together."""

    what: str
    size: int
    """The most tokens that it has."""
    num_sequences: int

    @classmethod
    def of(cls, step: Step) -> Kind:
        """The step's."""
        what = "mixed" if step.prefill and step.decode else "prefill" if step.prefill else "decode"
        if any(span.num_tokens > 1 for span in step.decode):
            what += ", guessed"
        size = next((size for size in SIZES if step.num_tokens <= size), step.num_tokens)
        return cls(what, size, step.num_sequences)

    @property
    def tokens(self) -> str:
        """The tokens of such a step, in words."""
        fewer = [size for size in SIZES if size < self.size]
        least = (fewer[-1] if fewer else 0) + 1
        return str(self.size) if least == self.size else f"{least}–{self.size}"


@dataclass
class Log:
    """A file that a server writes, of which what it said of a first request is left out."""

    path: Path
    read: Callable[[Iterable[str]], list[Step]]
    last_of_step: str
    """In the last line that it has of a step that chose a token …"""
    at_rest: str
    """… and in the one that it writes behind that, when the answer is over."""
    start: int = 0

    def is_at_rest(self) -> bool:
        """Whether it has all of the answer that was given last."""
        said = self.path.read_text(errors="replace")
        return 0 <= said.rfind(self.last_of_step) < said.rfind(self.at_rest)

    def steps(self) -> list[Step]:
        """Those since `start`."""
        with self.path.open(errors="replace") as file:
            file.seek(self.start)
            return self.read(file)


@asynccontextmanager
async def from_now_on(log: Log) -> AsyncIterator[None]:
    """What was said before is left out: a server may write of an answer after it was given."""
    await eventually(log.is_at_rest)
    log.start = log.path.stat().st_size
    yield


def by_kind(steps: Sequence[Step]) -> dict[Kind, list[Step]]:
    found: dict[Kind, list[Step]] = defaultdict(list)
    for step in steps:
        found[Kind.of(step)].append(step)
    return found


def figures(steps: Sequence[Step]) -> tuple[str, ...]:
    """How many, seconds in all, ms each, ms a token, and the tokens in the cache before, of all its sequences."""
    if not steps:
        return ("", "", "", "", "")
    num, seconds = len(steps), sum(step.seconds for step in steps)
    num_tokens, num_before = sum(step.num_tokens for step in steps), sum(step.num_before for step in steps)
    each, a_token = 1000 * seconds / num, 1000 * seconds / num_tokens
    return str(num), f"{seconds:.2f}", f"{each:.0f}", f"{a_token:.1f}", f"{num_before / num:.0f}"


def cost(steps: Sequence[Step]) -> str:
    """Seconds = a + b × tokens + c × pairs of a token and one before it, by least squares."""
    if len(steps) < 4:
        return "too few steps"
    table = np.array([[1.0, step.num_tokens, step.num_pairs] for step in steps])
    (fixed, token, pair), *_ = np.linalg.lstsq(table, np.array([step.seconds for step in steps]), rcond=None)
    return f"{1000 * fixed:.1f} ms + {1000 * token:.2f} ms a token + {1e6 * pair:.2f} µs a token and token before it"


def compare(names: Sequence[str], found: Sequence[tuple[Measured, list[Step]]], title: str) -> None:
    """The table on the terminal, and what each server's wall time was made of."""
    table = Table(title=title)
    for name in ("kind", "tokens", "sequences"):
        table.add_column(name)
    for name in names:
        for column in ("steps", "s", "ms each", "ms a token", "before"):
            table.add_column(f"{name}: {column}" if column == "steps" else column, justify="right")
    kinds = [by_kind(steps) for _, steps in found]
    for kind in sorted(set().union(*kinds), key=lambda kind: (kind.what, kind.size, kind.num_sequences)):
        row = (kind.what, kind.tokens, str(kind.num_sequences))
        table.add_row(*row, *(cell for one in kinds for cell in figures(one.get(kind, []))))
    for what in sorted({kind.what for one in kinds for kind in one}):
        table.add_section()
        all_of = [[step for kind, each in one.items() if kind.what == what for step in each] for one in kinds]
        table.add_row(f"all {what}", "", "", *(cell for steps in all_of for cell in figures(steps)), style="bold")
    Console(width=190).print(table)
    for name, (measured, steps) in zip(names, found, strict=True):
        seconds = sum(step.seconds for step in steps)
        num_prompt = sum(span.num_tokens for step in steps for span in step.prefill)
        print(
            f"{name}: {measured}\n"
            f"  {len(steps)} steps took {seconds:.1f} s, between them were {measured.wall - seconds:.1f} s; "
            f"prompt tokens in the log {num_prompt}, told {measured.num_computed}\n"
            f"  decode: {cost([step for step in steps if not step.prefill])}\n"
            f"  prefill: {cost([step for step in steps if step.prefill])}",
            flush=True,
        )


def keep(path: Path, steps: Sequence[Step]) -> None:
    """As JSON lines, for other questions."""
    with path.open("w") as file:
        for step in steps:
            spans = {
                name: [[span.start, span.num_tokens] for span in getattr(step, name)] for name in ("prefill", "decode")
            }
            file.write(json.dumps({"seconds": round(step.seconds, 6), **spans}) + "\n")


async def measure_with(weights: Weights, options: argparse.Namespace) -> None:
    load, flags = texts(NUM_CONVERSATIONS, weights.file), await tuned_flags()
    worker = (of_worker, " step seconds=", " ← turn=")
    llama_server = (of_llama_server, "slot decode token", "all slots are idle")
    logs = {
        name: Log(ROOT / ".cache" / f"steps-{name}.log", *(worker if name == OURS else llama_server))
        for name in (OURS, THEIRS, PATCHED)
    }
    ours = ("--threads", CORES, "--num-ctx", NUM_CTX, *options.worker_flags)
    theirs = partial(tuned, "-c", NUM_CTX, *flags, model_file=weights.file)
    servers = {
        OURS: through_gateway(*ours, model_file=weights.file, log=logs[OURS].path),
        THEIRS: theirs(log=logs[THEIRS].path),
        PATCHED: theirs(log=logs[PATCHED].path, patched=True),
    }
    found = []
    for name in options.of:
        print(f"{name} …", flush=True)
        measured = await measure(
            servers[name],
            load,
            num_turns=options.turns,
            num_tokens=options.tokens,
            own_answers=True,
            beside=partial(from_now_on, logs[name]),
        )
        found.append((name, measured, logs[name].steps()))
        keep(ROOT / ".cache" / f"steps-{name}.jsonl", found[-1][2])
    title = weights.of(
        f"steps of {NUM_CONVERSATIONS} at once × {options.turns} turns × {options.tokens} tokens, own answers"
    )
    compare([name for name, _, _ in found], [(measured, steps) for _, measured, steps in found], title)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("--model-file", type=Path, help="else the first real model's, or the random shape's")
    parser.add_argument("--turns", type=int, default=NUM_TURNS)
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS, help="of each answer")
    parser.add_argument("--of", nargs="+", default=[OURS, THEIRS], choices=[OURS, THEIRS, PATCHED])
    parser.add_argument("worker_flags", nargs="*", help="behind --: for `turnpike worker`")
    options = parser.parse_args()
    weights = Weights(options.model_file, options.model_file.stem) if options.model_file else chatting()[-1]
    asyncio.run(measure_with(weights, options))


if __name__ == "__main__":
    main()
