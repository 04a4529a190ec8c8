"""Characters of every script come whole from real models, over a real server and the gateway."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from msgspec import structs

from broker.answer import Answer
from broker.messages import Chunk, Done, Sampling
from producers.local_system import LocalSystem
from tests.real import GEMMA, QWEN
from tests.real.scripts import TEXTS, is_whole, literal
from tests.real.serving import openai_before

ALL = "\n".join(text[:5] for text in TEXTS.values())
MAX_TOKENS = 400
"""More than its bytes."""


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("system", [QWEN, GEMMA], indirect=True)
async def test_what_a_real_model_is_made_to_say_comes_whole_in_every_chunk(system: LocalSystem) -> None:
    # Hot, so that it spells by chance: characters in bytes, too.
    hot = Sampling(MAX_TOKENS, temperature=100.0, grammar=literal(ALL), logprobs=0)
    stop = "\u0301o\u0302"
    other = structs.replace(hot, seed=1, stop=("\u0378", stop))

    async def read(answer: Answer) -> tuple[list[Chunk], Done]:
        return [chunk async for chunk in answer], answer.done

    async with openai_before(system) as client:
        # At once, which computes them together.
        (chunks, done), (_, stopped), *_ = await asyncio.gather(
            read(system.client.ask("m", "Say it.", sampling=hot)),
            read(system.client.ask("m", "Say it.", sampling=other)),
            assert_streamed(client.with_options(timeout=100)),
            assert_spoken(client.with_options(timeout=100)),
        )
    assert_whole(chunks, done)
    assert (stopped.text, stopped.finish_reason) == (ALL[: ALL.index(stop)], "stop")


def assert_whole(chunks: Sequence[Chunk], done: Done) -> None:
    assert (done.text, done.finish_reason) == (ALL, "stop")
    assert all(is_whole(chunk.text) for chunk in chunks)
    assert "".join(chunk.text for chunk in chunks) == ALL
    assert [chunk.text_offset for chunk in chunks] == [
        *itertools.accumulate((len(chunk.text) for chunk in chunks[:-1]), initial=0)
    ]
    pieces = [one.piece for chunk in chunks for one in chunk.logprobs]
    assert b"".join(pieces) == ALL.encode()
    assert len(pieces) == len(done.tokens) == done.usage.completion_tokens
    assert sum(not is_whole(piece.decode(errors="replace")) for piece in pieces) > 20, "it spelled no bytes"


MORE: Any = {"extra_body": {"grammar": literal(ALL)}, "max_tokens": MAX_TOKENS, "temperature": 0}


async def assert_streamed(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(model="m", prompt="Say it:", stream=True, logprobs=0, **MORE)
    text, offset = "", 0
    async for event in stream:
        (choice,) = event.choices
        text += choice.text
        if choice.logprobs is not None:
            told = zip(choice.logprobs.text_offset or (), choice.logprobs.tokens or (), strict=True)
            for offset, token in told:
                assert "\ufffd" in token or ALL[offset : offset + len(token)] == token
    assert text == ALL
    assert offset >= len(ALL) - 8


async def assert_spoken(client: openai.AsyncOpenAI) -> None:
    chat = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Say it."}], logprobs=True, **MORE
    )
    (spoken,) = chat.choices
    assert spoken.message.content == ALL
    assert spoken.logprobs is not None
    assert bytes(byte for one in spoken.logprobs.content or () for byte in one.bytes or ()) == ALL.encode()
