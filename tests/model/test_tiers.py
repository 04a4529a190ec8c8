"""Of every kind of memory: what has left the context, for RAM, its board, a disk or another worker, is gone on from,
asked again and edited at the price of a checkpoint's distance, and answers as from a cold start."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.messages import CutPoint, Sampling
from tests.model.conftest import Bench
from tests.model.test_engine import prompt
from tests.model.test_reuse import WATCHED, assert_same, cold, filler, model, run, watched
from workers.engine.calibration import calibrate
from workers.engine.checkpoints import BEFORE_END, MIN_DISTANCE, MIN_STEP
from workers.engine.offloading import MAX_CARRIED
from workers.kv.checks import WrongState
from workers.kv.index import Key, KvEntry, packed, split
from workers.llama.context import LlamaModel

Start = Callable[..., Bench]
ANSWER = Sampling(max_tokens=24, ignore_eos=True)
KEY = Key("alice", "c")
__all__ = ["model"]


def two_turns(one: Bench) -> tuple[list[int], list[int], list[int]]:
    """The tokens of a conversation: with its first answer, with its second question, with the second answer."""
    first = run(one, "first", prompt(600), ANSWER, conversation="c")
    asked = [*first, *prompt(60, 1)[1:]]
    return first, asked, run(one, "second", asked, ANSWER, conversation="c")


def given(one: Bench) -> tuple[KvEntry, bytes]:
    """A copy of the conversation's state, as a peer gets it."""
    exported = one.loop.export(KEY)
    one.step()
    found = exported.result(timeout=5)
    assert found is not None
    return found[0], bytes(found[1])


@pytest.mark.parametrize("tier", ["peer", "disk", "board"])
def test_a_conversation_that_was_moved_goes_on_is_asked_again_and_edited(
    bench: Start, model: LlamaModel, tier: str, tmp_path: Path
) -> None:
    has_files = tier != "peer"
    left = {f"{tier}_folder": tmp_path / "left"} if has_files else {}
    one = bench(model, num_slots=2, park_bytes=1 << 30, **left)
    first, asked, answered = two_turns(one)
    entry, state = given(one)
    one.cache.flush(60.0, one.loop.idle_states())
    one.close()
    edited = [*first, *prompt(50, 2)[1:]]
    next_one = [*answered, *prompt(30, 3)[1:]]
    for name, tokens, num_new in (
        ("next", next_one, len(next_one) - len(answered) + 1),
        ("again", asked, BEFORE_END),
        ("edited", edited, len(edited) - len(first) + 1),
    ):
        copied = {f"{tier}_folder": shutil.copytree(tmp_path / "left", tmp_path / name)} if has_files else {}
        other = bench(model, num_slots=2, park_bytes=1 << 30, **copied)
        if tier == "peer":
            other.cache.offload(entry, state, "peer")
        else:
            found = other.cache.find_on_disk(packed(tokens), "alice", 0)
            assert found is not None
            assert other.cache.load(found)
        run(other, name, tokens, conversation="c")
        end = other.finished(name)
        assert end.cached_in == tier
        assert len(tokens) - end.num_cached <= num_new + (0 if name == "next" else MIN_DISTANCE)
        assert_same(watched(other, name), cold(bench, model, tokens))
        # What came with it is here too: the same question, once more.
        run(other, f"{name} again", tokens, conversation="c")
        assert len(tokens) - other.finished(f"{name} again").num_cached <= BEFORE_END + MIN_STEP
        other.close()


def test_a_prompt_that_parked_conversations_share_is_not_computed_for_each(bench: Start, model: LlamaModel) -> None:
    one = bench(model, num_slots=1, num_ctx=2048, park_bytes=1 << 30)
    shared = prompt(500)
    for number in range(4):
        tokens = [*shared, 300 + number, *prompt(60, number)[1:]]
        run(one, f"turn {number}", tokens, conversation=f"c{number}")
        filler(one, number)
        assert_same(watched(one, f"turn {number}"), cold(bench, model, tokens))
        if number >= 2 or (number and one.engine.can_remove_part):
            assert one.finished(f"turn {number}").cached_in == "ram"
            assert one.finished(f"turn {number}").num_cached == len(shared)


def test_the_checkpoints_of_a_state_are_as_long_as_its_layout_says(bench: Start, model: LlamaModel) -> None:
    one = bench(model, num_slots=2, park_bytes=1 << 30)
    two_turns(one)
    entry, state = given(one)
    layout = calibrate(bench(model).engine).layout("f")
    whole, checkpoints = split(state, entry.cuts)
    layout.check_description("f", entry.num_tokens, len(whole))
    layout.check_cuts(entry.cuts, entry.num_tokens)
    assert [one.num_bytes for one in entry.cuts] == [len(one) for one in checkpoints]
    assert len(entry.cuts) <= MAX_CARRIED
    if one.engine.can_remove_part:
        assert not entry.cuts
        with pytest.raises(WrongState):
            layout.check_cuts((CutPoint(100, 100),), entry.num_tokens)
        return
    assert len(entry.cuts) >= 2
    for at, wrong in enumerate(entry.cuts):
        for change in ({"num_bytes": wrong.num_bytes + 1}, {"num_tokens": entry.num_tokens}, {"num_tokens": 0}):
            changed = CutPoint(**{"num_tokens": wrong.num_tokens, "num_bytes": wrong.num_bytes} | change)
            with pytest.raises(WrongState):
                layout.check_cuts((*entry.cuts[:at], changed, *entry.cuts[at + 1 :]), entry.num_tokens)


def test_a_checkpoint_of_other_tokens_than_it_says_is_not_gone_on_from(bench: Start, model: LlamaModel) -> None:
    one = bench(model, num_slots=2, park_bytes=1 << 30)
    _, asked, _ = two_turns(one)
    entry, state = given(one)
    if not entry.cuts:
        return
    at = entry.cuts[-1].num_tokens
    for wrong in (at - 3, at + 3):
        other = bench(model, num_slots=2, park_bytes=1 << 30)
        cuts = (*entry.cuts[:-1], CutPoint(wrong, entry.cuts[-1].num_bytes))
        other.cache.offload(KvEntry(KEY, entry.tokens, entry.num_bytes, 0, cuts), state, "peer")
        tokens = [*asked[: wrong + 1], *prompt(30, 5)[1:]]
        run(other, "next", tokens, WATCHED, conversation="c")
        assert_same(watched(other, "next"), cold(bench, model, tokens))
        other.close()
