"""Control tokens are found in any text, the longest first, and soon."""

from __future__ import annotations

import random
import re
import time

from workers.llama.spellings import longest_of

GEMMA = [f"<unused{number}>" for number in range(6242)] + ["<start_of_turn>", "<end_of_turn>", "<bos>", "[multimodal]"]


def test_the_longest_spelling_is_found_at_each_place() -> None:
    chance = random.Random(7)
    for _ in range(200):
        words = ["".join(chance.choices("a<|.*", k=chance.randint(1, 5))) for _ in range(chance.randint(1, 12))]
        text = "".join(chance.choices("a<|.*", k=60))
        plain = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))
        assert [one.span() for one in longest_of(words).finditer(text)] == [one.span() for one in plain.finditer(text)]


def test_without_spellings_nothing_is_found() -> None:
    assert longest_of([]).search("a<b") is None


def test_a_text_that_begins_like_thousands_of_spellings_is_read_in_no_time() -> None:
    pattern, text = longest_of(GEMMA), "<" * 300_000 + "<unused17>"
    began_at = time.process_time()
    assert [one.group() for one in pattern.finditer(text)] == ["<unused17>"]
    assert time.process_time() - began_at < 2
