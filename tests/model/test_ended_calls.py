"""Behind a held call a model that begins like another one, and then wants something else, has ended."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from broker.messages import Sampling
from tests.model.test_held_calls import held_of
from tests.unit.calls import Said
from tests.unit.test_held_calls import TOOLS
from workers.calls import SYNTAXES, Parser
from workers.calls.openings import held
from workers.engine.protocol import PENDING
from workers.grammars.checker import GrammarChecker
from workers.grammars.held_calls import HeldCalls
from workers.llama.adjustments import Logits
from workers.llama.context import LlamaModel
from workers.llama.sampler import LlamaSampler
from workers.llama.vocabulary import LlamaVocabulary

NORTH = '{"name": "note", "arguments": {"of": "north"}}'
NOW = '{"name": "clock.now", "arguments": {}}'
MARKED = "<tool_call>\n{}\n</tool_call>".format
TAGGED = "<tool_call>\n<function=note>\n<parameter=of>\nnorth\n</parameter>\n</function>\n</tool_call>"
ENDED = [
    ("hermes", NORTH, '\n{"celsius": 31.0}'),
    ("hermes", NORTH, '\n{"name": "of no tool", "arguments": {}}'),
    ("hermes", NORTH, "\n"),
    ("hermes", MARKED(NORTH), '\n<tool_call>\n{"celsius": 31.0}\n</tool_call>'),
    ("hermes", f"```json\n{NORTH}\n```", '\n```json\n{"celsius": 31.0}\n```'),
    ("hermes", f"{MARKED(NORTH)}\n{MARKED(NOW)}", "\n<tool_call>\nIt is north."),
    ("qwen3-coder", TAGGED, "\n<tool_call>\n<function=of_no_tool>\n"),
]
"""A syntax, calls, and what else the model wants to say."""


def sampled(
    vocabulary: LlamaVocabulary, calls: HeldCalls, wanted: str, *, num_resumed: int = 0
) -> tuple[list[int], bool]:
    """The tokens that are chosen where the model wants to say that, and whether it has ended by itself."""
    script = [*vocabulary.tokenize(wanted, template_spans=[], add_bos=False), min(vocabulary.end_tokens)]
    position = num_resumed

    def logits(row: int) -> Logits:
        found = np.zeros(vocabulary.num_tokens, np.float32)
        found[script[position] if position < len(script) else script[0]] = 100.0
        return found

    follower = calls.follow(vocabulary.piece)
    follower.replay(script[:num_resumed])
    tokens = script[:num_resumed]
    sampler = LlamaSampler(vocabulary, logits, Sampling(), [], follower)
    until = time.monotonic() + 60
    try:
        while len(tokens) < len(script) + 40 and time.monotonic() < until:
            token = sampler.sample(0, position)
            while token == PENDING:
                token = sampler.poll()
            if token < 0 or vocabulary.is_end(token):
                return tokens, True
            tokens.append(token)
            position += 1
        return tokens, False
    finally:
        sampler.close()


def read(name: str, text: str) -> Said:
    parser = Parser(held(SYNTAXES[name]), TOOLS, is_held=True)
    return Said([*parser.feed(text), *parser.finish()])


@pytest.mark.parametrize(("name", "calls", "more"), ENDED)
async def test_a_model_that_begins_like_a_further_call_and_makes_none_has_ended(
    tiny: LlamaModel, grammars: GrammarChecker, name: str, calls: str, more: str
) -> None:
    vocabulary, free = tiny.vocabulary, replace(await held_of(name, grammars), is_forced=False)
    tokens, has_ended = sampled(vocabulary, free, calls + more)
    text = b"".join(map(vocabulary.piece, tokens)).decode()
    assert has_ended, text
    assert (calls + more).startswith(text)
    assert text.startswith(calls)
    found = read(name, text)
    assert found == read(name, calls), "what stands behind is nothing that anybody meant"
    for num_resumed in range(len(tokens) - 3, len(tokens) + 1):
        assert sampled(vocabulary, free, calls + more, num_resumed=num_resumed) == (tokens, True)


async def test_a_further_call_that_is_wanted_is_made(tiny: LlamaModel, grammars: GrammarChecker) -> None:
    free = replace(await held_of("hermes", grammars), is_forced=False)
    for wanted in (f"{NORTH}\n{NOW}", f"Look:\n{MARKED(NORTH)}\n{MARKED(NOW)}"):
        tokens, has_ended = sampled(tiny.vocabulary, free, wanted)
        assert (b"".join(map(tiny.vocabulary.piece, tokens)).decode(), has_ended) == (wanted, True)


async def test_a_first_call_that_has_begun_is_held_to_a_tool(tiny: LlamaModel, grammars: GrammarChecker) -> None:
    free = replace(await held_of("hermes", grammars), is_forced=False)
    tokens, _ = sampled(tiny.vocabulary, free, '<tool_call>\n{"celsius": 31.0}\n</tool_call>')
    assert b'<tool_call>\n{"name": "' in b"".join(map(tiny.vocabulary.piece, tokens))
