"""`turnpike eval` scores sentences as llama.cpp's perplexity tool does, item by item, with real models; also where a
sentence is longer than the windows of Gemma's layers (512 tokens)."""

from __future__ import annotations

from pathlib import Path

import pytest

from producers.evaluate.items import read_items
from producers.evaluate.run import CHOICE, run
from tests.real import GEMMA, QWEN
from tests.real.serving import served

SENTENCES = """\
The mast on the hill was replaced by the new tower because _ had rusted through in the salt wind.|the mast|the tower
Anna handed the radio to Beata so that _ could call the station before the storm came in.|Anna|Beata
The old battery outlived the solar panel, although _ was meant for emergencies only.|the battery|the panel
Mr. Okafor asked the engineer to climb down, since _ could see lightning from the hut.|Mr. Okafor|the engineer
The red cable was shorter than the blue cable, and so _ did not reach the switch.|the red cable|the blue cable
Zoë thanked Łukasz for the repaired antenna, as _ had waited for it for more than three weeks.|Zoë|Łukasz
The fan stopped and the board grew hot, until _ was switched off by the watchman at noon.|the fan|the board
Priya beat Marta at chess in the break, for _ had studied the opening all week long.|Priya|Marta
The clock ran ahead of the server until _ was set by the signal from Frankfurt, 77.5 kHz.|the clock|the server
_ was so heavy that the crane could not lift it over the fence without help.|The transformer|The ladder
The queue was longer than the worker could serve, and therefore _ was given a second board.|the queue|the worker
The network was faster than the disk, so the state came over _ in the end, every time.|the network|the disk
"""
BEFORE = " ".join(f"Node {n} reported {n * 37 % 90} degrees at {n % 24} o'clock." for n in range(60))
"""Some 800 tokens."""
LONG = (2, 5)
"""The sentences, counted from nought, that stand once more behind all that: for Gemma, which has windows."""
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
        (-4.740199, -5.089630),
        (-3.488723, -3.172442),
        (-4.568749, -4.593662),
        (-3.948091, -3.981823),
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
        (-4.512916, -4.818225),
        (-2.998071, -2.717239),
        (-5.343858, -4.007244),
        (-3.478427, -3.427510),
        (-4.648927, -4.573439),
        (-2.605080, -2.755546),
    ],
}
"""By llama-perplexity of the pinned llama.cpp, once, for what `write` writes:
llama-perplexity -m FILE --winogrande -f ITEMS -t 1 -fa off -c 4096 -b 4096"""
WITHIN = 0.02
"""Of a score, in nats a token: other batches round otherwise. That tool's own scores of these sentences are up to 0.007
apart with -c 512 and -c 4096."""


def write(path: Path) -> Path:
    """In the form that llama.cpp's tool reads: no quotes around the options, an empty line behind the last."""
    rows = [line.split("|") for line in SENTENCES.splitlines()]
    rows += [[f"{BEFORE} {rows[index][0]}", *rows[index][1:]] for index in LONG]
    lines = [f'{number},"{text}",{one},{two},1\n' for number, (text, one, two) in enumerate(rows, 1)]
    path.write_text("".join(lines) + "\n")
    return path


@pytest.mark.parametrize("name", [QWEN, GEMMA])
async def test_a_real_models_scores_are_those_of_llama_perplexity(tmp_path: Path, name: str) -> None:
    items = read_items(write(tmp_path / "items.csv"))[: len(THEIRS[name])]
    async with served(name, tmp_path) as found:
        answers = await run(found.client, "m", items, CHOICE)
    assert len(answers) == len(THEIRS[name])
    for answer, theirs in zip(answers, THEIRS[name], strict=True):
        assert answer.scores["llama.cpp"] == pytest.approx(theirs, abs=WITHIN), answer.number
        is_clear = abs(theirs[0] - theirs[1]) > 2 * WITHIN
        assert not is_clear or answer.chosen("llama.cpp") == (0 if theirs[0] > theirs[1] else 1)
