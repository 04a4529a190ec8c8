"""`turnpike embed` as somebody runs it: a file of vectors that NumPy reads, gone on with where it was killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.embedding_fakes import FakeEmbedder, embedding_worker
from tests.terminal import INTERRUPTED, Bench

TEXTS = [f"text number {index}" for index in range(100)]


@asynccontextmanager
async def embedding(bench: Bench, embedder: FakeEmbedder, *words: str) -> AsyncIterator[tuple[int, str]]:
    """The command's exit code and what it said."""
    async with (
        embedding_worker(bench.server, embedder),
        bench.command("embed", *words, "--model", "m") as command,
    ):
        yield await command.ends(), command.said


async def run(bench: Bench, embedder: FakeEmbedder, *words: str) -> tuple[int, str]:
    async with embedding(bench, embedder, *words) as found:
        return found


def wanted(texts: list[str]) -> np.ndarray:
    return np.stack([FakeEmbedder().vector(text) for text in texts])


async def test_a_text_a_line_becomes_a_row_each_of_a_file_that_numpy_reads(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("\n".join([*TEXTS[:50], "", *TEXTS[50:]]) + "\n")
    code, said = await run(bench, FakeEmbedder(), "texts", "--out", "vectors.npy")
    assert code == 0, said
    found = np.load(tmp_path / "vectors.npy")
    assert found.dtype == np.float32
    assert np.allclose(found, wanted(TEXTS), atol=1e-6)
    assert "100 texts, 300 tokens" in said
    assert "1 blank lines left out" in said
    assert not (tmp_path / "vectors.npy.part").exists()


async def test_what_was_left_by_a_kill_is_gone_on_with_and_never_with_other_texts(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("\n".join(TEXTS))
    (tmp_path / "others").write_text("\n".join(reversed(TEXTS)))
    embedder = FakeEmbedder(max_batch_tokens=3)
    part = tmp_path / "vectors.npy.part"
    async with (
        embedding_worker(bench.server, embedder),
        bench.command("embed", "texts", "--model", "m", "--out", "vectors.npy") as command,
    ):
        async with asyncio.timeout(60):
            while not part.exists() or part.stat().st_size < 128 + 32 * 16:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        embedder.gate.clear()
        command.process.kill()
        await command.ends()
    with part.open("ab") as file:
        file.write(b"half")  # of a row that was cut
    code, said = await run(bench, FakeEmbedder(), "others", "--out", "vectors.npy")
    assert code == 1
    assert "begun with other texts or another model" in said
    again = FakeEmbedder()
    code, said = await run(bench, again, "texts", "--out", "vectors.npy")
    assert code == 0, said
    assert "going on behind" in said
    assert sum(map(len, again.steps)) < len(TEXTS)
    assert np.allclose(np.load(tmp_path / "vectors.npy"), wanted(TEXTS), atol=1e-6)


async def test_rows_of_json_give_rows_of_json_and_a_bad_one_is_named(bench: Bench, tmp_path: Path) -> None:
    rows = [json.dumps({"text": text, "n": 1}) for text in TEXTS[:3]]
    (tmp_path / "rows").write_text("\n".join(rows))
    code, said = await run(bench, FakeEmbedder(), "rows", "--field", "text", "--json", "--dimensions", "2")
    assert code == 0, said
    told = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [row["index"] for row in told] == [0, 1, 2]
    cut = wanted(TEXTS[:3])[:, :2]
    assert np.allclose([row["embedding"] for row in told], cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)
    (tmp_path / "rows").write_text("\n".join([*rows, json.dumps({"n": 1})]))
    code, said = await run(bench, FakeEmbedder(), "rows", "--field", "text", "--json")
    assert code == 1
    assert "line 4: has no text in its field 'text'" in said


async def test_a_text_that_is_too_long_ends_it_with_the_number_of_its_tokens(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("a b c d e f g h i\n")
    code, said = await run(bench, FakeEmbedder(), "texts", "--out", "vectors.npy")
    assert code == 1
    assert "9 tokens, and the context holds 8" in said
    code, said = await run(bench, FakeEmbedder(), "texts", "--out", "vectors.npy", "--truncate")
    assert code == 0, said


async def test_control_c_ends_it_at_once(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("\n".join(TEXTS))
    embedder = FakeEmbedder()
    embedder.gate.clear()
    async with (
        embedding_worker(bench.server, embedder),
        bench.command("embed", "texts", "--model", "m", "--out", "vectors.npy") as command,
    ):
        assert await asyncio.to_thread(embedder.begun.wait, 30)
        assert await command.interrupted() == INTERRUPTED


@pytest.mark.parametrize("words", [(), ("--out", "v.npy", "--json")])
async def test_where_the_vectors_go_has_to_be_said_once(bench: Bench, words: tuple[str, ...]) -> None:
    async with bench.command("embed", "texts", "--model", "m", *words) as command:
        assert await command.ends() == 2
    assert "where do the vectors go?" in command.said
