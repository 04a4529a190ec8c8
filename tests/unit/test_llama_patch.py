"""The edits of llama.cpp's source: all or none, and a clear word where the source is another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tools" / "llama_cpp"
SOURCES = {
    "ops.cpp": [
        "static void ggml_compute_forward_flash_attn_ext_f16(",
        "    // When use_ref is set, force the vec-only reference implementation (no tiling, no KV-chunking)",
    ],
    "ggml-cpu.c": ['#include "ops.h"', "                        cur += MAX(prefill, decode);"],
    "ggml-cpu.cpp": ["        if (ggml_cpu_has_sse3()) {"],
}


def source(folder: Path, sources: dict[str, list[str]]) -> Path:
    """What the edits look at of a llama.cpp, in a folder."""
    cpu = folder / "ggml" / "src" / "ggml-cpu"
    cpu.mkdir(parents=True)
    for name, lines in sources.items():
        (cpu / name).write_text("\n".join(["// before", *lines, "// after", ""]))
    return cpu


def patched(folder: Path) -> subprocess.CompletedProcess[str]:
    """What the script says."""
    command = [sys.executable, str(FOLDER / "patch.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_edit_is_made_and_nothing_else(tmp_path: Path) -> None:
    cpu = source(tmp_path, SOURCES)
    before = {name: (cpu / name).read_text() for name in SOURCES}
    assert patched(tmp_path).returncode == 0
    for name, text in before.items():
        kept = [line for line in text.split("\n") if line and "MAX(prefill, decode);" not in line]
        after = (cpu / name).read_text().split("\n")
        assert [line for line in after if line in kept] == kept, name
        assert len(after) > len(kept) + 1
    assert (cpu / "grouped_attention.inc").read_bytes() == (FOLDER / "grouped_attention.inc").read_bytes()


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("times", [0, 2])
def test_another_llama_cpp_is_refused_and_left_as_it_is(tmp_path: Path, name: str, times: int) -> None:
    cpu = source(tmp_path, SOURCES | {name: SOURCES[name][:-1] + SOURCES[name][-1:] * times})
    before = {path: path.read_text() for path in cpu.iterdir()}
    found = patched(tmp_path)
    assert found.returncode == 1
    assert found.stderr.splitlines() == [
        f"turnpike: llama.cpp's source was not patched: {name}: a line to edit was found {times} times, not once: "
        f"{SOURCES[name][-1].strip()!r}"
    ]
    assert {path: path.read_text() for path in cpu.iterdir()} == before


def test_a_source_is_edited_once(tmp_path: Path) -> None:
    source(tmp_path, SOURCES)
    patched(tmp_path)
    found = patched(tmp_path)
    assert found.returncode == 1
    assert "has been edited before" in found.stderr


def test_a_folder_that_is_no_llama_cpp_is_one_sentence(tmp_path: Path) -> None:
    found = patched(tmp_path)
    assert found.returncode == 1
    assert len(found.stderr.splitlines()) == 1
