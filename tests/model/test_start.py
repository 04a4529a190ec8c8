"""How a worker starts: with files that are no models, models in parts, small contexts; what it says of itself then."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import gguf
import numpy as np
import pytest

from broker.accounts import WORKER, write_credentials
from broker.messages import Message, Sampling
from broker.server import EmbeddedServer
from producers.local_system import LocalSystem, local_system
from tests.real import GEMMA, real_model
from tests.split_file import finish, split
from tests.support import ROOT, TURNPIKE
from workers.engine.calibration import calibrate, measure_threads
from workers.llama.context import ContextOptions, LlamaEngine, LlamaModel
from workers.llama.random_model import write_model
from workers.llama.shapes import Shape
from workers.model_file import ModelFileError
from workers.models import DEMO


def write_adapter(path: Path) -> Path:
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type("adapter")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 64), dtype=np.float32))
    return finish(writer, path)


def write_vocabulary(path: Path) -> Path:
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_token_list(["<unk>", "a"])
    return finish(writer, path)


def write_cut(path: Path) -> Path:
    path.write_bytes(DEMO.path.read_bytes()[:5000])
    return path


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_adapter, "is a LoRA adapter"),
        (write_vocabulary, "is a vocabulary without a model"),
        (write_cut, "was cut off in its header"),
    ],
)
def test_a_file_that_cannot_answer_is_one_line_and_exit_code_1(
    tmp_path: Path, write: Callable[[Path], Path], reason: str
) -> None:
    path = write(tmp_path / "m.gguf")
    command = [*TURNPIKE, "worker", "--model-file", str(path), "--url", "nats://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"turnpike: model file {path}: ")
    assert reason in line


def test_a_model_cut_off_in_its_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(DEMO.path.read_bytes()[:-100_000])
    with pytest.raises(ModelFileError, match="corrupted or incomplete"):
        LlamaModel(path)


def test_what_llama_cpp_aborts_at_is_one_line_and_exit_code_1() -> None:
    code = (
        "import llama_cpp.llama_cpp as lib\n"
        "from workers.llama.aborts import explain_aborts\n"
        "explain_aborts('model file x.gguf')\n"
        "lib._lib.ggml_abort(b'a.cpp', 7, b'GGML_ASSERT(%s) failed', b'one == two')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("turnpike: model file x.gguf: llama.cpp gave up: ")
    assert "GGML_ASSERT(one == two) failed" in line


def test_a_model_in_parts_is_told_and_counted_with_all_of_them(tmp_path: Path) -> None:
    whole, halves = LlamaModel(DEMO.path), split(DEMO.path, tmp_path, 2)
    first, second = (LlamaModel(path) for path in halves)
    assert second.path == first.path == halves[0]
    assert first.file_bytes == second.file_bytes == sum(path.stat().st_size for path in halves)
    fingerprint = first.fingerprint
    assert fingerprint == second.fingerprint != whole.fingerprint
    for model in (whole, first, second):
        model.close()
    content = bytearray(halves[1].read_bytes())
    content[-1] ^= 1
    halves[1].write_bytes(content)
    other = LlamaModel(halves[0])
    assert other.fingerprint != fingerprint
    other.close()


@pytest.mark.parametrize("quantization", ["Q8_0", "F16"])
def test_the_quantization_of_a_small_model_is_its_name_and_nothing_else(tmp_path: Path, quantization: str) -> None:
    shape = Shape("small", 64, 18, 2, 1, 64, 512, 512, sliding_window=64)  # as many layers as Gemma 3 270M has
    model = LlamaModel(write_model(tmp_path / "small.gguf", shape, quantization))
    assert model.quantization == quantization
    model.close()


def test_the_quantization_of_a_real_small_model() -> None:
    model = LlamaModel(real_model(GEMMA))
    assert model.quantization == "Q4_K - Medium"
    model.close()


def test_rates_are_measured_in_a_context_that_is_full_before_the_time_is_over(tiny: LlamaModel) -> None:
    engine = LlamaEngine(tiny, ContextOptions(num_ctx=256, num_slots=2))
    ticks = iter(range(1_000_000))
    seconds = measure_threads(engine, [1], lambda: 0.0005 * next(ticks))  # some 400 steps in the time of a trial
    assert seconds[1] > 0
    assert calibrate(engine, lambda: 0.0005 * next(ticks)).state_bytes_per_token > 0
    engine.close()


@asynccontextmanager
async def started(folder: Path, *flags: str, model_file: Path = DEMO.path) -> AsyncIterator[LocalSystem]:
    """A broker and a worker as a user starts it, with a data directory of its own."""
    more = ["--data-dir", str(folder / "data"), *flags]
    async with local_system(ROOT / "turnpike", folder, model="m", model_file=model_file, flags=more) as found:
        yield found


async def test_a_worker_with_the_smallest_context_starts_and_answers(tmp_path: Path) -> None:
    flags = ("--num-ctx", "256", "--draft-model", str(DEMO.path), "--speculation", "off")
    async with started(tmp_path, *flags) as found:
        done = await found.client.ask("m", [Message("user", "Hello")], sampling=Sampling(max_tokens=4))
        log = (tmp_path / "worker.log").read_text()
    assert done.usage.completion_tokens > 0
    assert "Traceback" not in log
    assert "draft model left out" in log
    assert re.search(r"threads=\d a decode step by threads 1:\S+ms.* \(measured now", log)
    assert re.search(r"threads_batch=\d a prompt's token by threads 1:\S+ms.* \(measured now", log)
    assert re.search(r"poll=(none|0|50) ", log)
    assert re.search(r"memory reads \d+\.\dGB/s threads=\d \(GB/s by threads 1:\d", log)
    assert re.search(r"memory planned=\d+MiB \(weights=4MiB kv=\d+MiB .*, parked conversations up to \d+MiB more", log)


async def test_a_worker_given_a_later_part_plans_and_serves_the_whole_model(tmp_path: Path) -> None:
    planned = []
    for number, path in enumerate((DEMO.path, split(DEMO.path, tmp_path, 2)[1])):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        async with started(folder, "--threads", "1", "--num-ctx", "512", model_file=path) as found:
            done = await found.client.ask("m", [Message("user", "Hello")], sampling=Sampling(max_tokens=4))
            log = (folder / "worker.log").read_text()
        assert done.usage.completion_tokens > 0
        planned += re.findall(r"planned=(\d+)MiB", log)
    assert planned[0] == planned[1]


async def test_a_worker_with_a_draft_model_plans_measures_and_tells_it(tmp_path: Path) -> None:
    async with started(tmp_path, "--threads", "1", "--num-ctx", "512", "--draft-model", str(DEMO.path)) as found:
        done = await found.client.ask("m", [Message("user", "Hello")], sampling=Sampling(max_tokens=4))
        log = (tmp_path / "worker.log").read_text()
    assert done.usage.completion_tokens > 0
    assert re.search(r"memory planned=\d+MiB \(weights=4MiB .* draft=\d+MiB\), kept free", log)
    assert re.search(r"draft model=demo\.gguf a token=\d+\.\dms a prompt's token=\d+\.\d\dms, llama\.cpp has CPU", log)


def test_a_draft_model_that_is_no_model_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    path = tmp_path / "draft.gguf"
    command = [*TURNPIKE, "worker", "--draft-model", str(path), "--url", "nats://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"turnpike: model file {path}: ")


async def test_a_draft_model_of_another_vocabulary_is_one_line_and_exit_code_1(
    nats_server: EmbeddedServer, tiny_path: Path, tmp_path: Path
) -> None:
    credentials = tmp_path / "worker.credentials"
    write_credentials(credentials, nats_server.address(WORKER))
    command = [*TURNPIKE, "worker", "--draft-model", str(tiny_path), "--credentials", str(credentials)]
    command += ["--threads", "1", "--log-level", "ERROR"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line == (
        f"turnpike: model file {tiny_path}: cannot draft for demo.gguf:"
        " it has another vocabulary: 1,024 tokens, not 1,536"
    )


async def test_what_does_not_fit_is_refused_before_llama_cpp_has_it(
    nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    credentials, path = tmp_path / "worker.credentials", tmp_path / "m.gguf"
    write_credentials(credentials, nats_server.address(WORKER))
    # Which llama.cpp would refuse: it is not asked.
    path.write_bytes(DEMO.path.read_bytes().replace(b"output_norm.weight", b"output_nord.weight"))
    command = [*TURNPIKE, "worker", "--model-file", str(path), "--credentials", str(credentials)]
    command += ["--log-level", "ERROR", "--num-ctx", "1000000000"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("turnpike: a context of 1000000000 tokens does not fit: it takes ")
