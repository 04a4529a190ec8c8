"""Which texts a step computes, and what each job gets of it."""

from __future__ import annotations

from workers.embedding.packing import EmbedJob, Packing


def job(name: str, *lengths: int, is_batch: bool = False) -> EmbedJob:
    return EmbedJob(name, tuple([0] * length for length in lengths), is_batch)


def packed(packing: Packing, *, is_batch: bool = False) -> list[tuple[str, int]]:
    """The jobs of the next step, and how many texts of each."""
    return [(one.id, len(texts)) for one, texts in packing.step(is_batch=is_batch).parts]


def test_a_step_has_texts_of_several_turns_as_many_as_fit() -> None:
    packing = Packing(max_tokens=10, max_texts=8)
    for one in (job("a", 3, 3), job("b", 3, 3), job("c", 1)):
        packing.add(one)
    assert packed(packing) == [("a", 2), ("b", 1), ("c", 1)]
    assert packed(packing) == [("b", 1)]
    assert not packing.has(is_batch=False)


def test_a_step_has_no_more_texts_than_there_are_sequences() -> None:
    packing = Packing(max_tokens=100, max_texts=2)
    packing.add(job("a", 1, 1, 1))
    assert packed(packing) == [("a", 2)]
    assert packed(packing) == [("a", 1)]


def test_a_text_that_is_longer_than_a_step_has_one_of_its_own() -> None:
    packing = Packing(max_tokens=10, max_texts=8)
    packing.add(job("a", 2, 30, 2))
    packing.add(job("b", 1))
    assert packed(packing) == [("a", 1), ("b", 1)]
    assert packed(packing) == [("a", 1)]
    assert packed(packing) == [("a", 1)]


def test_who_waits_for_a_text_shares_no_step_with_who_does_not() -> None:
    packing = Packing(max_tokens=10, max_texts=8)
    packing.add(job("bulk", 1, is_batch=True))
    packing.add(job("query", 1))
    assert packed(packing) == [("query", 1)]
    assert packed(packing, is_batch=True) == [("bulk", 1)]


def test_what_was_dropped_is_in_no_step_more() -> None:
    packing = Packing(max_tokens=2, max_texts=8)
    first = job("a", 2, 2)
    packing.add(first)
    packing.add(job("b", 2))
    assert packed(packing) == [("a", 1)]
    packing.drop(first)
    packing.drop(first)
    assert packed(packing) == [("b", 1)]


def test_each_job_gets_its_vectors_and_its_share_of_the_time() -> None:
    packing = Packing(max_tokens=8, max_texts=8)
    one, other = job("a", 1, 1), job("b", 2)
    packing.add(one)
    packing.add(other)
    packing.step(is_batch=False).came_to([b"1", b"2", b"3"], 4.0)
    assert (one.vectors, other.vectors) == ([b"1", b"2"], [b"3"])
    assert (one.seconds, other.seconds) == (2.0, 2.0)
    assert one.is_done
    assert other.is_done
