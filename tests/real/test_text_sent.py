"""Characters of every script come whole from real models, over a real server and the gateway."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from msgspec import structs

from broker.messages import Chunk, Done, Sampling
from tests.real import GEMMA, QWEN
from tests.real.scripts import TEXTS, is_whole, literal
from tests.real.serving import openai_before, served

ALL = "\n".join(text[:5] for text in TEXTS.values())
SETTINGS = ((QWEN, "0"), (GEMMA, "0.5"))
"""How long chunks gather: 0 sends each token."""


@pytest.mark.parametrize(("name", "seconds"), SETTINGS)
async def test_what_a_real_model_is_made_to_say_comes_whole_in_every_chunk(
    tmp_path: Path, name: str, seconds: str
) -> None:
    # Hot, so that it spells by chance: characters in bytes, too.
    hot = Sampling(2000, temperature=100.0, grammar=literal(ALL), logprobs=0)
    async with served(name, tmp_path, "--coalesce-seconds", seconds) as found, openai_before(found) as client:
        answer = found.client.ask("m", "Say it.", sampling=hot)
        chunks = [chunk async for chunk in answer]
        done = answer.done
        stop = "\u0301o\u0302"
        stopped = await found.client.ask("m", "Say it.", sampling=structs.replace(hot, seed=1, stop=("\u0378", stop)))
        await assert_told_by_the_gateway(client.with_options(timeout=100))
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


async def assert_told_by_the_gateway(client: openai.AsyncOpenAI) -> None:
    more: Any = {"extra_body": {"grammar": literal(ALL)}, "max_tokens": 2000, "temperature": 0}
    stream = await client.completions.create(model="m", prompt="Say it:", stream=True, logprobs=0, **more)
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
    chat = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Say it."}], logprobs=True, **more
    )
    (spoken,) = chat.choices
    assert spoken.message.content == ALL
    assert spoken.logprobs is not None
    assert bytes(byte for one in spoken.logprobs.content or () for byte in one.bytes or ()) == ALL.encode()
