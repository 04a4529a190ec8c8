"""`turnpike eval`: multiple choice over the queue, by the log-probabilities of the answers.

Winogrande by the two methods in use. *partial*, lm-evaluation-harness's (after Trinh and Le 2018): the option stands in
the sentence, and what follows it is scored, by the sum. *llama.cpp*, that of its perplexity tool: the mean over what
follows the option, without the last token, or over the option too where less than four tokens differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from broker.client import Answer, Client
from broker.connection import Address
from broker.discovery import RAW, SCORE
from broker.errors import TurnpikeError
from broker.locks import Lock
from broker.messages import Message, Score
from broker.process import EXIT_INTERRUPTED
from producers.ask import resolve
from producers.routing import Needs
from producers.settings import EvalSettings
from producers.waiting import ready, telling, unless

STOP_SECONDS = 0.4
"""How long the cancels of what runs may take."""

RAW_SCORES = Needs(can=frozenset({RAW, SCORE}))
MIN_TRAILING_TOKENS = 3
"""llama.cpp's k_min_trailing_ctx."""


class EvalError(TurnpikeError):
    """An evaluation's file that cannot be read; says which line."""

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        self.path, self.line, self.reason = path, line, reason
        super().__init__(f"{path}{f':{line}' if line is not None else ''}: {reason}")


@dataclass(frozen=True)
class Item:
    """A question: `context`, the candidates that may follow it, and which is right. Winogrande's have a `rest`."""

    number: int
    context: str
    choices: tuple[str, ...]
    label: int
    rest: str | None = None

    @property
    def continuations(self) -> tuple[str, ...]:
        """What is scored behind the context, each text once."""
        if self.rest is None:
            return self.choices
        texts: dict[str, None] = {}
        for choice in self.choices:
            texts |= dict.fromkeys((choice, choice + self.rest, self.harness_text(choice)))
        return tuple(texts)

    def harness_text(self, choice: str) -> str:
        """lm-evaluation-harness puts one space between the option and what follows, whatever the sentence has."""
        assert self.rest is not None
        return f"{choice} {self.rest.strip()}"


class Answered(Struct, frozen=True):
    """An item's outcome: by each method, the scores of the choices and the one chosen."""

    number: int
    label: int
    scores: dict[str, tuple[float, ...]]

    def chosen(self, method: str) -> int:
        """The best score's; of equal ones the first, but by llama.cpp's tool, which takes the second."""
        scores = self.scores[method]
        if method == "llama.cpp":
            return 0 if scores[0] > scores[1] else 1
        return scores.index(max(scores))


class Accuracy(Struct, frozen=True):
    """Of one method: how many items, the share that was right, and its standard error √(p(1 − p) ÷ (n − 1))."""

    method: str
    count: int
    accuracy: float
    standard_error: float | None


# --- Files -----------------------------------------------------------------------------------------------------------


def read_items(path: Path) -> list[Item]:
    """Winogrande as JSON lines or the CSV of llama.cpp's tool, or `context`, `choices`, `label`. Raises EvalError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(path, None, str(getattr(error, "strerror", None) or error)) from None
    rows: Iterator[tuple[int, Any]] = _csv(text) if path.suffix == ".csv" else _json(path, text)
    found = []
    for number, row in rows:
        try:
            found.append(_item(number, row))
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise EvalError(path, number, f"is no item: {type(error).__name__} {error}") from None
    if not found:
        raise EvalError(path, None, "holds no items")
    return found


def _json(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise EvalError(path, number, f"is not JSON: {error}") from None


def _csv(text: str) -> Iterator[tuple[int, Any]]:
    """`index,sentence,option1,option2,answer`, with or without a head line."""
    for number, row in enumerate(csv.reader(text.splitlines()), 1):
        if row and row[-1] not in ("answer",):
            yield number, dict(zip(("index", "sentence", "option1", "option2", "answer"), row, strict=True))


def _item(number: int, row: dict[str, Any]) -> Item:
    if "sentence" in row:
        before, blank, rest = row["sentence"].partition("_")
        if not blank:
            raise ValueError("the sentence has no _")
        label = int(row["answer"]) - 1
        choices: tuple[str, ...] = (row["option1"], row["option2"])
    else:
        before, rest, label = row["context"], None, int(row["label"])
        choices = tuple(map(str, row["choices"]))
    if not 0 <= label < len(choices) or len(choices) < 2:
        raise ValueError("its label names none of its choices")
    return Item(number, before, choices, label, rest)


# --- Methods ---------------------------------------------------------------------------------------------------------


def evaluate(item: Item, scores: Sequence[Score]) -> Answered:
    """What each method makes of the scores of the item's continuations."""
    by_text = dict(zip(item.continuations, scores, strict=True))
    if item.rest is None:
        sums = tuple(by_text[choice].logprob for choice in item.choices)
        # As lm-evaluation-harness's acc_norm: by the choice's length in characters.
        norm = tuple(value / max(1, len(choice)) for value, choice in zip(sums, item.choices, strict=True))
        return Answered(item.number, item.label, {"sum": sums, "normalised": norm})
    harness = tuple(_after(by_text[item.harness_text(choice)], _end(by_text[choice])) for choice in item.choices)
    one, two = (by_text[choice + item.rest] for choice in item.choices)
    bases = [_end(by_text[choice]) for choice in item.choices]
    return Answered(item.number, item.label, {"partial": harness, "llama.cpp": _llama_cpp(one, two, bases)})


def _end(score: Score) -> int:
    """How many tokens context and continuation have together."""
    return score.start + len(score.tokens)


def _after(score: Score, base: int) -> float:
    """The sum from the text's token `base` on."""
    return sum(score.logprobs[max(0, base - score.start) :])


def _llama_cpp(one: Score, two: Score, bases: Sequence[int]) -> tuple[float, float]:
    """As winogrande_score in llama.cpp's tools/perplexity has it.

    Where less than four tokens differ, that tool reads the second sentence's first logits from a wrong row (a FIXME of
    its own); this does not.
    """
    start = min(one.start, two.start)
    first, second = one.tokens[start - one.start :], two.tokens[start - two.start :]
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    common = start + shared
    ends = (_end(one), _end(two))
    if not all(end - common > MIN_TRAILING_TOKENS for end in ends):
        bases = (common, common)
    found = []
    for score, base, end in zip((one, two), bases, ends, strict=True):
        last = 1 if end - base > 1 else 0
        chosen = score.logprobs[base - score.start : len(score.logprobs) - last]
        found.append(sum(chosen) / len(chosen) if chosen else math.nan)
    return found[0], found[1]


def accuracies(answers: Sequence[Answered]) -> list[Accuracy]:
    """One for each method."""
    found = []
    for method in answers[0].scores if answers else ():
        count = len(answers)
        share = sum(one.chosen(method) == one.label for one in answers) / count
        error = math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else None
        found.append(Accuracy(method, count, share, error))
    return found


# --- The command -----------------------------------------------------------------------------------------------------


async def run(
    client: Client,
    model: str,
    items: Sequence[Item],
    *,
    concurrency: int = 4,
    done: Callable[[Answered], None] = lambda answered: None,
    stop: asyncio.Event | None = None,
) -> list[Answered]:
    """Scores the items, batch turns all of them; raises TurnFailed, PublishError.

    `stop` cancels what runs and comes back at once, with what was answered by then.
    """
    waiting = iter(items)
    found: list[Answered] = []
    running: set[Answer] = set()

    async def one_after_another() -> None:
        for item in waiting:
            answer = client.ask(
                model,
                [Message("user", item.context)],
                kind="score",
                continuations=item.continuations,
                priority="batch",
                raw=True,
            )
            running.add(answer)
            answered = evaluate(item, (await answer).scores)
            running.discard(answer)
            found.append(answered)
            done(answered)

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(items))):
                group.create_task(one_after_another())

    if not await unless(stop or asyncio.Event(), all_of_them()):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*(answer.cancel() for answer in running), return_exceptions=True)
    return sorted(found, key=lambda answered: answered.number)


async def run_on(
    client: Client,
    model: str,
    items: Sequence[Item],
    out: Path | None,
    stop: asyncio.Event,
    concurrency: int = 4,
    say: Callable[[str], None] = lambda text: None,
) -> list[Answered]:
    """As `run`, with what was answered in `out`, from which it goes on after an interruption. Raises EvalError too."""
    with Lock.of(out, "the record") if out is not None else contextlib.nullcontext():
        return await _run_on(client, model, items, out, stop, concurrency, say)


async def _run_on(
    client: Client,
    model: str,
    items: Sequence[Item],
    out: Path | None,
    stop: asyncio.Event,
    concurrency: int,
    say: Callable[[str], None],
) -> list[Answered]:
    before = _read_answers(out) if out is not None and out.exists() else []
    known = {answered.number for answered in before}
    left = [item for item in items if item.number not in known]
    say(f"{len(items)} items, {len(items) - len(left)} of them answered before")
    file = out.open("ab", buffering=0) if out is not None else None

    def note(answered: Answered) -> None:
        if file is not None:
            file.write(msgspec.json.encode(answered) + b"\n")

    try:
        answers = await run(client, model, left, concurrency=concurrency, done=note, stop=stop)
    finally:
        if file is not None:
            file.close()
    wanted = {item.number for item in items}
    return [*(answered for answered in before if answered.number in wanted), *answers]


async def run_and_show(address: Address, options: EvalSettings, stop: asyncio.Event, *, as_json: bool) -> int:
    """An evaluation, with its accuracies on stdout."""
    options.check()
    path = Path(options.path).expanduser()
    items = read_items(path)[: options.limit]
    out = Path(options.out).expanduser() if options.out is not None else None
    console = Console(stderr=True)
    async with Client(address) as client:
        model = await resolve(client, options.model, needs=RAW_SCORES)
        if not await unless(stop, ready(client, model, address.wait, console.print)):
            return EXIT_INTERRUPTED
        async with telling(client, [model], console.print):
            answers = await run_on(client, model, items, out, stop, options.concurrency, console.print)
    if stop.is_set():
        goes_on = "" if out is None else "; run again, it goes on there"
        console.print(f"interrupted: {len(answers)} of {len(items)} items answered{goes_on}")
    found = accuracies(answers)
    if as_json:
        sys.stdout.write(msgspec.json.encode({"model": model, "path": path.name, "accuracies": found}).decode() + "\n")
    else:
        table = Table("method", "items", "accuracy", "standard error", title=f"{model} on {path.name}")
        for one in found:
            error = "–" if one.standard_error is None else f"{one.standard_error:.4f}"
            table.add_row(one.method, str(one.count), f"{one.accuracy:.4f}", error)
        Console().print(table)
    return EXIT_INTERRUPTED if stop.is_set() else 0


def _read_answers(path: Path) -> list[Answered]:
    """What was answered before; a last line that a kill cut off is left out, and cut off the file."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    try:
        return [msgspec.json.decode(line, type=Answered) for line in whole.splitlines()]
    except msgspec.DecodeError as error:
        raise EvalError(path, None, f"is no record of an evaluation: {error}") from None
