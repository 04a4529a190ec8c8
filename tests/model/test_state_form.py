"""States of the right length whose counts and positions no sequence has: none reaches llama.cpp, which would abort the
process, or keep them in its books for ever. Each is tried in a process of its own."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model.test_engine import prompt
from workers.engine.calibration import calibrate
from workers.engine.protocol import Span
from workers.llama.context import ContextOptions, LlamaEngine, LlamaModel
from workers.llama.random_model import write_model

KINDS = ("tiny", "tiny-swa", "tiny-hybrid", "tiny-recurrent", "tiny-delta", "tiny-mamba2")
LAST = 2**31 - 1
NUM_TOKENS = 40


def engine_of(path: str) -> LlamaEngine:
    return LlamaEngine(LlamaModel(Path(path)), ContextOptions(num_ctx=512, num_slots=3))


def compute(engine: LlamaEngine, slot: int, num_tokens: int) -> None:
    engine.decode([Span(slot, 0, tuple(prompt(num_tokens)), num_tokens - 1)])


def changed(state: bytes, *words: tuple[int, int]) -> bytes:
    found = bytearray(state)
    for at, value in words:
        struct.pack_into("<i", found, at, value)
    return bytes(found)


def hostile(engine: LlamaEngine) -> dict[str, tuple[bytes, bool]]:
    """Changed states of NUM_TOKENS tokens, and whether each is a checkpoint."""
    compute(engine, 0, NUM_TOKENS)
    state = bytes(engine.save(0))
    found = {}
    recurrent = struct.pack("<IiI", 1, NUM_TOKENS - 1, 0)
    cells = struct.pack("<IIiI", 1, NUM_TOKENS, 0, 1)
    for name, one, is_checkpoint in (("state", state, False), ("checkpoint", bytes(engine.checkpoint(0)), True)):
        if (at := one.rfind(recurrent)) >= 0:
            found[f"{name}: two cells of a recurrent layer"] = changed(one, (at, 2), (at + 16, 0)), is_checkpoint
            found[f"{name}: a recurrent layer's position below 0"] = changed(one, (at + 4, -1)), is_checkpoint
            found[f"{name}: a recurrent layer's last position"] = changed(one, (at + 4, LAST)), is_checkpoint
        at = -1
        while (at := one.find(cells, at + 1)) >= 0:
            for what, value in (("below 0", -1), ("last of all", LAST), ("twice", 1)):
                found[f"{name}: a position {what} at {at}"] = changed(one, (at + 8, value)), is_checkpoint
            found[f"{name}: fewer cells at {at}"] = changed(one, (at + 4, NUM_TOKENS - 1)), is_checkpoint
    engine.truncate(0, 0)
    return found


def restores_none_and_serves_on(path: str) -> None:
    """Of the process: each is refused, and the slot as good as before."""
    engine = engine_of(path)
    for name, (state, is_checkpoint) in hostile(engine).items():
        for _ in range(3):
            if is_checkpoint:
                compute(engine, 1, NUM_TOKENS + 3)
                assert not engine.rewind(1, NUM_TOKENS, state), name
            else:
                assert not engine.restore(1, state), name
            compute(engine, 1, 20)
            assert engine.is_whole(1, 20), name
            assert engine.truncate(1, 0), name


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_sequence_has_is_refused(model_dir: Path, kind: str) -> None:
    path = write_model(model_dir / f"{kind}.gguf", kind, "Q8_0")
    code = f"from tests.model.test_state_form import *; restores_none_and_serves_on({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("flash_attention", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_state_that_llama_cpp_writes_is_sound(model_dir: Path, kind: str, flash_attention: bool) -> None:
    model = LlamaModel(write_model(model_dir / f"{kind}.gguf", kind, "Q8_0"))
    engine = LlamaEngine(model, ContextOptions(num_ctx=1024, num_slots=3, flash_attention=flash_attention))
    for length in (1, 2, 63, 64, 65, 200):
        compute(engine, 0, length)
        compute(engine, 1, 150)
        for at in range(150, 153):  # so that the two lie between each other
            engine.decode([Span(0, length + at - 150, (5,), 0), Span(1, at, (6,), at)])
        for slot, num_tokens in ((0, length + 3), (1, 153)):
            state, checkpoint = engine.save(slot), engine.checkpoint(slot)
            assert engine._form.num_tokens(state) == num_tokens
            assert engine._form.num_tokens(checkpoint, is_checkpoint=True) == num_tokens
            assert engine.restore(2, state)
            assert engine.is_whole(2, num_tokens)
            engine.truncate(2, 0)
            engine.truncate(slot, 0)
    calibrate(engine)
    engine.close()
    model.close()
