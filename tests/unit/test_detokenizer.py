from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.detokenizer import Detokenizer


def feed(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], str | None]:
    detokenizer = Detokenizer(stop)
    texts = []
    for piece in pieces:
        texts.append(detokenizer.add(piece))
        if detokenizer.stopped:
            return texts, detokenizer.stop
    return [*texts, detokenizer.finish()], detokenizer.stop


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(st.text(), st.lists(st.integers(0, 999)))
def test_text_is_whole_however_its_bytes_are_cut(text: str, cuts: list[int]) -> None:
    texts, _ = feed(split(text.encode(), cuts))
    assert "".join(texts) == text
    assert all("\ufffd" not in piece for piece in texts) or "\ufffd" in text


@given(
    st.text("abc"),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 99)),
)
def test_a_stop_string_ends_the_text_before_its_first_place(text: str, stop: list[str], cuts: list[int]) -> None:
    pieces = split(text.encode(), cuts)
    texts, stopped = feed(pieces, tuple(stop))
    assert (stopped is not None) == any(string in text for string in stop)
    assert stopped is None or text.startswith("".join(texts) + stopped)
    assert not any(string in "".join(texts) for string in stop)
    assert text.startswith("".join(texts))
    if stopped is None:
        assert "".join(texts) == text


@given(st.binary(), st.lists(st.integers(0, 999)))
def test_bytes_that_are_no_text_become_replacement_characters(data: bytes, cuts: list[int]) -> None:
    texts, _ = feed(split(data, cuts))
    assert "".join(texts) == data.decode("utf-8", "replace")


def test_a_stop_string_across_token_borders_is_never_sent_in_part() -> None:
    texts, stopped = feed([b"Hello ", b"</", b"st", b"op> more"], ("</stop>",))
    assert stopped == "</stop>"
    assert texts == ["Hello ", "", "", ""]


def test_what_looked_like_a_stop_string_is_sent_when_it_is_none() -> None:
    assert feed([b"a</", b"s", b"b"], ("</stop>",))[0] == ["a", "", "</sb", ""]
