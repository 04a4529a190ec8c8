"""`turnpike eval`: multiple choice over the queue, by the log-probabilities of the answers.

Winogrande by the two methods in use. *partial*, lm-evaluation-harness's (after Trinh and Le 2018): the option stands in
the sentence, and what follows it is scored, by the sum. *llama.cpp*, that of its perplexity tool: the mean over what
follows the option, without the last token, or over the option too where less than four tokens differ.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker.answer import Answer
from broker.client import Client
from broker.connection import Address
from broker.discovery import RAW, SCORE
from broker.errors import TurnFailed
from broker.locks import Lock
from broker.messages import Message, Score
from broker.priorities import BATCH
from broker.process import EXIT_INTERRUPTED
from producers.data.rows import summary
from producers.evaluate.items import EvalError, Item, read_items
from producers.routing.asking import NO_ROUTES, resolve
from producers.routing.policies import Needs
from producers.routing.waiting import choosable, ready, telling, unless
from producers.settings import EvalSettings

STOP_SECONDS = 0.35
"""How long the cancels of what runs may take."""

RAW_SCORES = Needs(can=frozenset({RAW, SCORE}))
MIN_TRAILING_TOKENS = 3
"""llama.cpp's k_min_trailing_ctx."""


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
    # Where nothing stands in front, a model without BOS scores from the second token on, and the first may differ.
    texts = [choice + item.rest for choice in item.choices]
    max_shared = _num_shared(*texts) if not item.context else max(map(len, texts))
    llama_cpp = _llama_cpp(one, two, bases, max_shared)
    return Answered(item.number, item.label, {"partial": harness, "llama.cpp": llama_cpp})


def _num_shared(one: Sequence[object], two: Sequence[object]) -> int:
    """How many items they begin alike with."""
    shared = 0
    while shared < min(len(one), len(two)) and one[shared] == two[shared]:
        shared += 1
    return shared


def _end(score: Score) -> int:
    """How many tokens context and continuation have together."""
    return score.start + len(score.tokens)


def _after(score: Score, base: int) -> float:
    """The sum from the text's token `base` on."""
    return sum(score.logprobs[max(0, base - score.start) :])


def _llama_cpp(one: Score, two: Score, bases: Sequence[int], max_shared: int) -> tuple[float, float]:
    """As winogrande_score in llama.cpp's tools/perplexity has it.

    Where less than four tokens differ, that tool reads the second sentence's first logits from a wrong row (a FIXME of
    its own); this does not.
    """
    start = min(one.start, two.start)
    shared = _num_shared(one.tokens[start - one.start :], two.tokens[start - two.start :])
    common = start + min(shared, max_shared)
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
    failed: Callable[[Item, TurnFailed], None] | None = None,
) -> list[Answered]:
    """Scores the items, batch turns all of them; raises PublishError, and TurnFailed without `failed`.

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
                priority=BATCH,
                raw=True,
            )
            running.add(answer)
            try:
                done_turn = await answer
            except TurnFailed as error:
                if failed is None:
                    raise
                running.discard(answer)
                failed(item, error)
                continue
            running.discard(answer)
            answered = evaluate(item, done_turn.scores)
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
    """As `run`, with what was answered in `out`, from which it goes on after an interruption. Raises EvalError too.

    An item that fails is left out and told; raises TurnFailed where all that were asked do.
    """
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
    before = _read_answers(out, say) if out is not None and out.exists() else []
    known = {answered.number for answered in before}
    left = [item for item in items if item.number not in known]
    say(f"{len(items)} items, {len(items) - len(left)} of them answered before")
    file = out.open("ab", buffering=0) if out is not None else None

    def note(answered: Answered) -> None:
        if file is not None:
            file.write(msgspec.json.encode(answered) + b"\n")

    failures: list[tuple[Item, TurnFailed]] = []
    try:
        answers = await run(
            client,
            model,
            left,
            concurrency=concurrency,
            done=note,
            stop=stop,
            failed=lambda item, error: failures.append((item, error)),
        )
    finally:
        if file is not None:
            file.close()
    if failures:
        item, error = failures[0]
        say(f"items that failed and are left out: {len(failures)}, the first of them {item.number} by {error}")
        if not answers:
            raise error
    wanted = {item.number for item in items}
    return [*(answered for answered in before if answered.number in wanted), *answers]


async def run_and_show(address: Address, options: EvalSettings, stop: asyncio.Event, *, as_json: bool) -> int:
    """An evaluation, with its accuracies on stdout."""
    options.check()
    path = Path(options.path).expanduser()
    left_out: list[EvalError] = []
    items = read_items(path, left_out)[: options.limit]
    out = Path(options.out).expanduser() if options.out is not None else None
    console = Console(stderr=True, markup=False, highlight=False)
    if left_out:
        console.print(summary(left_out))
    async with Client(address) as client:
        waiting = choosable(client, NO_ROUTES, options.model, RAW_SCORES, address.wait, console.print)
        if not await unless(stop, waiting):
            return EXIT_INTERRUPTED
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
        facts = {"model": model, "path": path.name, "num_left_out": len(left_out), "accuracies": found}
        sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    else:
        table = Table("method", "items", "accuracy", "standard error", title=Text(f"{model} on {path.name}"))
        for one in found:
            error = "–" if one.standard_error is None else f"{one.standard_error:.4f}"
            table.add_row(one.method, str(one.count), f"{one.accuracy:.4f}", error)
        Console().print(table)
    return EXIT_INTERRUPTED if stop.is_set() else 0


class _Stored(Struct, frozen=True):
    """An Answered as JSON has it, which has no NaN."""

    number: int
    label: int
    scores: dict[str, tuple[float | None, ...]]

    def answered(self) -> Answered:
        scores = {
            method: tuple(math.nan if one is None else one for one in values) for method, values in self.scores.items()
        }
        return Answered(self.number, self.label, scores)


_BEGINNING = b'{"number":'
"""Of a line of what was answered."""


def _read_answers(path: Path, say: Callable[[str], None]) -> list[Answered]:
    """What was answered before; a last line that a kill cut off is left out, and cut off the file. A line that is
    damaged is left out as well: what it was of is asked again. Raises EvalError for a file that holds no answers."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    rest = content[len(whole) :].removeprefix(codecs.BOM_UTF8)
    found: dict[int, Answered] = {}
    damaged: list[EvalError] = []
    for number, line in enumerate(whole.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        try:
            if line.strip():
                one = msgspec.json.decode(line, type=_Stored).answered()
                found[one.number] = one
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            damaged.append(EvalError(path, number, f"is no record of an evaluation: {error}"))
    if damaged and not found:
        raise damaged[0]
    if rest:
        # Somebody else's file is not cut.
        if not found and not rest.startswith(_BEGINNING) and not _BEGINNING.startswith(rest):
            raise EvalError(path, None, "is no record of an evaluation")
        path.write_bytes(whole)
    if damaged:
        say(summary(damaged))
    return list(found.values())
