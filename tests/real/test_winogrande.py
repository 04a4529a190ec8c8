"""`turnpike eval` scores as llama.cpp does with real models: to the last digits as llama.cpp in the same batches, and
within rounding as its perplexity tool, item by item."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from llama_cpp import Llama

from producers.evaluate.items import Item, read_items
from producers.evaluate.run import CHOICE, run
from tests.real import GEMMA, QWEN, real_model
from tests.real.serving import served
from workers.llama.sampler import logprob_of

SENTENCES = """\
The mast on the hill was replaced by the new tower because _ had rusted through in the salt wind.|the mast|the tower
Anna handed the radio to Beata so that _ could call the station before the storm came in.|Anna|Beata
The old battery outlived the solar panel, although _ was meant for emergencies only.|the battery|the panel
Mr. Okafor asked the engineer to climb down, since _ could see lightning from the hut.|Mr. Okafor|the engineer
The red cable was shorter than the blue cable, and so _ did not reach the switch.|the red cable|the blue cable
Zoë thanked Łukasz for the repaired antenna, as _ had waited for it for more than three weeks.|Zoë|Łukasz
The fan stopped and the board grew hot, until _ was switched off by the watchman at noon.|the fan|the board
Priya beat Marta at chess in the break, for _ had studied the opening all week long.|Priya|Marta
"""
THEIRS = {
    QWEN: [
        (-4.923893, -5.257552),
        (-3.868314, -3.660683),
        (-4.518365, -4.931403),
        (-6.077129, -5.764279),
        (-3.197673, -3.447866),
        (-2.484744, -2.721412),
        (-3.888858, -4.443068),
        (-6.474298, -6.325537),
    ],
    GEMMA: [
        (-4.360656, -4.552980),
        (-3.581471, -3.563489),
        (-4.723445, -4.739427),
        (-4.821674, -4.636176),
        (-3.161456, -3.148371),
        (-2.570032, -2.761540),
        (-3.969950, -4.165101),
        (-5.404582, -5.548513),
    ],
}
"""By llama-perplexity of the pinned llama.cpp, once, for these and six other sentences in a file as `write` writes it:
llama-perplexity -m FILE --winogrande -f ITEMS -t 1 -fa off -c 4096 -b 4096"""
WITHIN = 0.09
"""Of a score, in nats a token: it puts sentences into one batch, and quantised weights round by the batch and by the
CPU. Its own scores were 0.007 apart with -c 512, and llama.cpp's of 800 tokens 0.125 between batches of 64 and of 512.
On an AMD EPYC without AVX-512, llama.cpp's own low-level API is up to 0.077 from these numbers with a sentence a batch
and up to 0.062 with all in one: only the definition of a score is compared with them, its digits with `by_llama_cpp`'s.
"""
NUM_SCORED = 4
"""Of each model in the suite; all take a minute."""
CHUNK = 64
"""Tokens that a deterministic worker computes at once."""


def write(path: Path) -> Path:
    """In the form that llama.cpp's tool reads: no quotes around the options, an empty line behind the last."""
    rows = [line.split("|") for line in SENTENCES.splitlines()]
    lines = [f'{number},"{text}",{one},{two},1\n' for number, (text, one, two) in enumerate(rows, 1)]
    path.write_text("".join(lines) + "\n")
    return path


def by_llama_cpp(path: Path, items: Sequence[Item]) -> list[tuple[float, ...]]:
    """The same mean, by llama-cpp-python's own class, a sentence a batch: over what follows the option, without the
    last token."""
    model = Llama(
        str(path),
        n_ctx=512,
        n_batch=CHUNK,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        flash_attn=False,
        verbose=False,
    )
    found = []
    for item in items:
        assert item.rest is not None
        means = []
        for choice in item.choices:
            begin = len(model.tokenize((item.context + choice).encode()))
            tokens = model.tokenize((item.context + choice + item.rest).encode())
            model.reset()  # type: ignore[no-untyped-call]
            model.eval(tokens)
            rows = model.scores[: len(tokens)]
            chosen = [logprob_of(rows[at - 1], tokens[at], 0).logprob for at in range(begin, len(tokens) - 1)]
            means.append(sum(chosen) / len(chosen))
        found.append(tuple(means))
    model.close()
    return found


@pytest.mark.parametrize("name", [QWEN, GEMMA])
async def test_a_real_models_scores_are_llama_cpps(tmp_path: Path, name: str) -> None:
    items = read_items(write(tmp_path / "items.csv"))[:NUM_SCORED]
    async with served(name, tmp_path, "--deterministic") as found:
        answers = await run(found.client, "m", items, CHOICE)
    alone = await asyncio.to_thread(by_llama_cpp, real_model(name), items)
    assert len(answers) == len(alone) == NUM_SCORED
    for answer, same, theirs in zip(answers, alone, THEIRS[name], strict=False):
        assert answer.scores["llama.cpp"] == pytest.approx(same, abs=1e-6), answer.number
        assert answer.scores["llama.cpp"] == pytest.approx(theirs, abs=WITHIN), answer.number
        is_clear = abs(theirs[0] - theirs[1]) > 2 * WITHIN
        assert not is_clear or answer.chosen("llama.cpp") == (0 if theirs[0] > theirs[1] else 1)
