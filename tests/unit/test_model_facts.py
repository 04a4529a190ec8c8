"""`turnpike models show`: what is said of a model by its header alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest

from broker.discovery import Load, WorkerInfo
from broker.messages.boards import NO_FILE, ModelFile
from tests.support import TURNPIKE
from workers.model_facts import FILE_TYPES, described, facts_of
from workers.models import DEMO
from workers.reporting.facts import file_facts

GIB = 1024**3
CALLING = """{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{% for m in messages %}{{ m.content }}
{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<think></think>
{%- endfor %}"""


def mixture(path: Path, *, template: str | None = None) -> Path:
    """A mixture of 8 experts, 2 at a time, with a window in 3 of 4 layers."""
    writer = gguf.GGUFWriter(str(path), "cohere2moe")
    writer.add_name("Mixed")
    writer.add_license("Apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_block_count(4)
    writer.add_context_length(4096)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_sliding_window(512)
    writer.add_expert_count(8)
    writer.add_expert_used_count(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("command-r")
    writer.add_token_list(["a", "b", "c"])
    if template is not None:
        writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.zeros((3, 64), dtype=np.float32))
    writer.add_tensor("output.weight", np.zeros((3, 64), dtype=np.float32))
    writer.add_tensor("blk.0.ffn_up_exps.weight", np.zeros((8, 128, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_a_header_tells_is_told(tmp_path: Path) -> None:
    found = facts_of(mixture(tmp_path / "m.gguf", template="{% if tools %}{% endif %}<think>"), GIB)
    assert (found.name, found.architecture, found.licence) == ("Mixed", "cohere2moe", "Apache-2.0")
    assert (found.quantization, found.vocabulary, found.vocabulary_tokens) == ("Q4_K_M", "gpt2 command-r", 3)
    assert (found.parameters, found.active_parameters) == (2 * 192 + 65536, 2 * 192 + 65536 // 4)
    assert found.active_bytes == 4 * (192 + 65536 // 4)
    assert (found.memory, found.window, found.layers, found.context) == ("sliding-window", 512, 4, 4096)
    assert (found.kv_bytes_per_token, found.window_bytes_per_token) == (128, 384)
    assert (found.has_template, found.has_tools, found.has_thinking) == (True, True, True)
    assert found.largest_context == 4096
    plain = facts_of(mixture(tmp_path / "p.gguf"), 1)
    assert (plain.has_template, plain.has_tools, plain.has_thinking, plain.largest_context) == (False, False, False, 0)


def test_a_worker_tells_of_its_file_what_a_board_does(tmp_path: Path) -> None:
    path = mixture(tmp_path / "m.gguf")
    file = described([path], "5" * 64)
    assert file == ModelFile("cohere2moe", "Q4_K_M", 2 * 192 + 65536, 64, "5" * 64, path.stat().st_mtime)

    def told(facts: dict[str, str], quantization: str = "Q4_K_M") -> ModelFile:
        return WorkerInfo("w", "m", "M", quantization, 512, "pi", Load(1, 0, 0, 0.0), facts=facts).file

    facts = file_facts(file) | {"file_sha256": "5" * 64, "other": "x"}
    assert told(facts) == msgspec.structs.replace(file, modified_at=int(file.modified_at))
    assert told({}, "Q8_0") == ModelFile(quantization="Q8_0"), "of an earlier release"
    assert told(facts | {"parameters": "many"}) == NO_FILE
    assert file_facts(NO_FILE) == {}


def test_the_names_of_quantisations_are_those_of_the_format() -> None:
    known = {int(one): one.name.removeprefix("MOSTLY_").removeprefix("ALL_") for one in gguf.LlamaFileType}
    assert {number: known[number].removesuffix("_MOE") for number in FILE_TYPES} == FILE_TYPES


def show(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TURNPIKE, "models", "show", *arguments], capture_output=True, text=True, timeout=60)


def test_the_command_shows_a_file_and_the_shipped_model_for_people_and_programs(tmp_path: Path) -> None:
    said = show(str(mixture(tmp_path / "m.gguf", template=CALLING)))
    assert said.returncode == 0, said.stderr
    assert "attention: sliding-window" in said.stdout
    assert re.search(r"tokens \(weights \d+, KV cache \d+, computing \d+, process \d+\);", said.stdout)
    assert re.search(r"^tools: +as they stand; calls are read as hermes, by the template's text \(", said.stdout, re.M)
    assert re.search(r"^thinking: +yes, <think> … </think>$", said.stdout, re.M)
    found: dict[str, Any] = json.loads(show("demo", "--json").stdout)
    assert sum(found["planned"].values()) == found["planned_bytes"]
    assert (found["architecture"], found["file_bytes"]) == ("llama", DEMO.path.stat().st_size)
    assert found["tools"]["syntax"] == "hermes"
    assert found["tools"]["chosen"] == "as the model is told, its template having no tools"


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "is empty"), (b"GGUF", "cut off in its header"), (None, "there is no such file")]
)
def test_what_cannot_be_shown_is_one_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "m.gguf"
    if content is not None:
        path.write_bytes(content)
    found = show(str(path))
    assert (found.returncode, len(found.stderr.splitlines())) == (1, 1)
    assert sentence in found.stderr


def test_headers_are_read_without_llama_cpp(tmp_path: Path) -> None:
    script = "import sys; sys.modules['llama_cpp'] = None; from workers.model_facts import facts_of;\n"
    script += f"from pathlib import Path; print(facts_of(Path({str(DEMO.path)!r}), 1).layers)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert said.stdout == "5\n", said.stderr
