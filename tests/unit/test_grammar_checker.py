"""Grammars are tried, and then matched token by token, in processes that may die of them. No llama.cpp: the
vocabulary is the bytes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import TurnRejected
from broker.messages import Sampling
from tests.follow import TABLE
from tests.support import ROOT, freeze
from workers.grammars.checker import GrammarChecker
from workers.grammars.frames import LIST, TAKE, TRY, framed, length_of, token_of, with_token
from workers.grammars.matcher import Matcher
from workers.grammars.remote_matcher import MatcherProcess, RemoteMatcher

SLOW = "root ::= s\ns ::= " + " | ".join(f"r{n}" for n in range(200)) + "\n"
SLOW += "".join(f'r{n} ::= [a-z ] s | ""\n' for n in range(200))
"""Compiles at once, and soon takes many seconds of computing for a token."""


@pytest.fixture
def process() -> Iterator[MatcherProcess]:
    process = MatcherProcess([sys.executable, "-m", "tests.byte_matcher"])
    yield process
    process.close()


@pytest.fixture
def hasty() -> Iterator[MatcherProcess]:
    """Its matchers may take so little time that no other limit is met before, however fast the machine is."""
    process = MatcherProcess([sys.executable, "-m", "tests.byte_matcher", "0.06"])
    yield process
    process.close()


@pytest.fixture
def grammars(process: MatcherProcess) -> GrammarChecker:
    return GrammarChecker(process)


def answer(matcher: RemoteMatcher) -> bytes:
    """Its answer, however long it takes."""
    until = time.monotonic() + 30
    while (found := matcher.poll()) is None:
        assert time.monotonic() < until
    return found


def take_many(matcher: RemoteMatcher, letter: str) -> None:
    for _ in range(200):
        answer(matcher)
        matcher.ask(with_token(TAKE, ord(letter)))


def bytes_in(mask: bytes) -> str:
    return "".join(chr(8 * at + bit) for at, byte in enumerate(mask) for bit in range(8) if byte >> bit & 1)


# --- Trying ---


async def test_a_turn_without_a_grammar_starts_no_process(grammars: GrammarChecker, process: MatcherProcess) -> None:
    assert await grammars.gbnf(Sampling()) is None
    assert process.process is None


async def test_a_json_schema_becomes_a_grammar_and_a_good_grammar_stays_as_it_is(grammars: GrammarChecker) -> None:
    gbnf = await grammars.gbnf(Sampling(json_schema={"type": "integer"}))
    assert gbnf is not None
    assert "root ::=" in gbnf
    assert await grammars.gbnf(Sampling(grammar='root ::= "a"')) == 'root ::= "a"'


@pytest.mark.parametrize(
    "grammar",
    ["no root here", 'root ::= "a', "root ::= missing", "root ::= root", "root ::= " + "(" * 100 + '"a"' + ")" * 100],
)
async def test_an_invalid_grammar_is_an_error(grammars: GrammarChecker, grammar: str) -> None:
    with pytest.raises(TurnRejected, match=r"sampling\.grammar") as caught:
        await grammars.gbnf(Sampling(grammar=grammar))
    assert caught.value.code == "invalid_grammar"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/nowhere"},
        {"type": "array", "items": {"enum": ["x" * 70_000]}},
        json.loads('{"items":' * 40 + "{}" + "}" * 40),
    ],
)
async def test_a_bad_schema_is_an_error(grammars: GrammarChecker, schema: dict[str, object]) -> None:
    with pytest.raises(TurnRejected, match=r"sampling\.json_schema") as caught:
        await grammars.gbnf(Sampling(json_schema=schema))
    assert caught.value.code == "invalid_grammar"


async def test_an_ambiguous_grammar_is_no_danger(grammars: GrammarChecker) -> None:
    rules = "".join(f"r{n} ::= r{n + 1} r{n + 1} | r{n + 1}\n" for n in range(24))
    gbnf = f'root ::= r0\n{rules}r24 ::= "a"?\n'
    assert await grammars.gbnf(Sampling(grammar=gbnf)) == gbnf


async def test_a_child_that_is_late_costs_its_turn_and_no_other(process: MatcherProcess) -> None:
    process.start()
    assert process.process is not None
    impatient = GrammarChecker(process, late_seconds=0.2)
    freeze(process.process.pid)
    with pytest.raises(TurnRejected, match=r"sampling\.grammar: not done after 0\.2 s"):
        await impatient.gbnf(Sampling(grammar='root ::= "a"'))
    process.process.send_signal(signal.SIGCONT)
    assert await GrammarChecker(process).gbnf(Sampling(grammar='root ::= "b"')) == 'root ::= "b"'


async def test_a_process_that_died_is_started_again(grammars: GrammarChecker, process: MatcherProcess) -> None:
    await grammars.gbnf(Sampling(grammar='root ::= "a"'))
    died = process.process
    assert died is not None
    died.kill()
    died.wait()
    assert await grammars.gbnf(Sampling(grammar='root ::= "b"')) == 'root ::= "b"'
    assert process.process is not None
    assert process.process.pid != died.pid


async def test_a_process_that_cannot_start_means_later_and_not_never() -> None:
    grammars = GrammarChecker(MatcherProcess(["/bin/false"]))
    with pytest.raises(TurnRejected, match="does not start") as caught:
        await grammars.gbnf(Sampling(grammar='root ::= "a"'))
    assert caught.value.code == "overloaded"
    assert caught.value.retryable


async def test_where_memory_is_short_the_kernel_takes_the_process_first(process: MatcherProcess) -> None:
    await asyncio.to_thread(process.start)
    assert process.process is not None
    assert Path(f"/proc/{process.process.pid}/oom_score_adj").read_text() == "1000\n"


def test_it_is_so_before_the_vocabulary_is_read() -> None:
    code = """
import sys
import workers.llama.matcher_process as process

def read(*_: object, **__: object) -> object:
    print(open("/proc/self/oom_score_adj").read().strip())
    raise SystemExit

process.LlamaModel = read
sys.argv = ["", "model.gguf", "0"]
process.main()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout == "1000\n"


# --- Matching ---


def test_a_token_that_may_come_next_is_taken_and_for_another_all_that_may_are_told(process: MatcherProcess) -> None:
    matcher = RemoteMatcher(process, 'root ::= "a" [bc] "d"?', "sampling.grammar")
    assert answer(matcher) == b""  # it is compiled
    assert not matcher.is_accepting
    matcher.ask(with_token(TRY, ord("x")))
    assert bytes_in(answer(matcher)) == "a"
    matcher.ask(with_token(TAKE, ord("a")))
    assert answer(matcher) == b""
    matcher.ask(LIST)
    assert bytes_in(answer(matcher)) == "bc"
    matcher.ask(with_token(TRY, ord("c")))
    assert answer(matcher) == b""
    assert matcher.is_accepting
    assert not matcher.is_done
    matcher.ask(with_token(TRY, ord("d")))
    assert answer(matcher) == b""
    assert matcher.is_done
    matcher.close()


def test_a_grammar_that_does_not_compile_is_told_by_the_clients_field(process: MatcherProcess) -> None:
    matcher = RemoteMatcher(process, "root ::= missing", "sampling.json_schema")
    with pytest.raises(TurnRejected, match=r"sampling\.json_schema: ") as caught:
        answer(matcher)
    assert caught.value.code == "invalid_grammar"
    matcher.close()


def test_a_matcher_that_computes_for_ever_is_ended_and_the_next_one_answers(hasty: MatcherProcess) -> None:
    slow = RemoteMatcher(hasty, SLOW, "sampling.grammar")
    assert answer(slow) == b""
    slow.ask(with_token(TRY, ord("a")))
    other = RemoteMatcher(hasty, 'root ::= "a"', "sampling.grammar")
    assert answer(other) == b""
    other.close()
    with pytest.raises(TurnRejected, match="following it takes more time or memory"):
        take_many(slow, "a")
    assert slow.longest_wait < 2, "it was waited for until it had its answer"
    slow.close()


def test_a_matcher_whose_process_is_gone_is_refused_for_now(process: MatcherProcess) -> None:
    process.start()
    assert process.process is not None
    os.kill(process.process.pid, signal.SIGKILL)
    process.process.wait()
    with pytest.raises(TurnRejected, match="just now") as caught:
        RemoteMatcher(process, 'root ::= "a"', "sampling.grammar")
    assert caught.value.retryable


def test_a_frame_says_its_length_and_a_question_its_token() -> None:
    frame = framed(with_token(TRY, 262_143))
    assert length_of(frame[:4]) == len(frame) - 4
    assert token_of(frame[4:]) == 262_143
    with pytest.raises(ValueError, match="a frame of 4,294,967,295 bytes"):
        length_of(b"\xff" * 4)


# --- Guesses ---


def told_of(matcher: RemoteMatcher, guess: bytes) -> int:
    """How many of the guess it allows, once it has said so."""
    while matcher._awaited:
        matcher.num_allowed(guess)
    return matcher.num_allowed(guess)


def test_how_much_of_a_guess_is_allowed_comes_behind_the_answer(process: MatcherProcess) -> None:
    matcher = RemoteMatcher(process, 'root ::= "a" [bc]+ "d" "e"?', "sampling.grammar")
    assert answer(matcher) == b""
    matcher.ask(with_token(TRY, ord("a")), b"bcbx")
    assert answer(matcher) == b""
    assert told_of(matcher, b"bcbx") == 3
    assert matcher.num_allowed(b"bcb") == 3
    assert matcher.num_allowed(b"bcbxxx") == 3
    assert matcher.num_allowed(b"bbbbbb") == 6, "nothing is known of it"
    matcher.ask(with_token(TRY, ord("x")), b"bc")
    assert bytes_in(answer(matcher)) == "bc"
    assert not matcher._awaited, "it follows a token that was not taken"
    assert matcher.num_allowed(b"bcbx") == 3, "the text stands where it stood"
    matcher.ask(with_token(TAKE, ord("c")), b"dez")
    assert answer(matcher) == b""
    assert matcher.num_allowed(b"bcbx") in (3, 4)
    assert told_of(matcher, b"dez") == 2
    assert matcher.num_allowed(b"bcbx") == 4
    matcher.foretell(b"bd")
    matcher.foretell(b"be")
    assert told_of(matcher, b"bd") == 2
    assert matcher.num_allowed(b"be") == 1
    for token in b"de":
        matcher.ask(with_token(TRY, token), b"a")
        assert answer(matcher) == b""
        assert told_of(matcher, b"a") == 0
    assert matcher.is_done
    matcher.close()


def test_who_is_asked_before_guesses_are_told_of_answers_in_order(process: MatcherProcess) -> None:
    matcher = RemoteMatcher(process, 'root ::= "ab"*', "sampling.grammar")
    assert answer(matcher) == b""
    for _ in range(200):
        for token, guess in zip(b"ab", (b"bab", b"aaa"), strict=True):
            matcher.foretell(bytes([token]))
            matcher.ask(with_token(TRY, token), guess)
            assert answer(matcher) == b""
    assert told_of(matcher, b"aaa") == 1
    matcher.close()


def test_a_guess_that_cannot_be_followed_leaves_the_text_as_it_was() -> None:
    # Behind an x each letter may be of hundreds of rules, behind a y of none of them.
    many = "".join(f'r{n} ::= [a-z ] s | ""\n' for n in range(200))
    gbnf = 'root ::= "a" ("x" s | "y" [a-z]*)\ns ::= ' + " | ".join(f"r{n}" for n in range(200)) + "\n" + many
    matcher = Matcher(TABLE, gbnf)
    assert matcher.take(ord("a"))
    assert matcher.num_allowed(b"yab!") == 3
    matcher.num_allowed(b"xabcdefgh")
    assert matcher.num_allowed(b"yab!") == 0, "it is asked about no more guesses"
    assert all(matcher.take(byte) for byte in b"yabc")
    assert not matcher.take(ord("!"))
