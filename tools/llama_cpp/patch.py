"""Puts our grouped attention into llama.cpp's source: the edits, each of a line that has to be there exactly once.

python tools/llama_cpp/patch.py SOURCE, where SOURCE is llama.cpp's folder (llama-cpp-python's vendor/llama.cpp). Says
what it did; ends with 1 and changes nothing where a line is not as expected: another llama.cpp's want a look.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

OURS = Path(__file__).parent / "grouped_attention.inc"
CPU = Path("ggml/src/ggml-cpu")


@dataclass(frozen=True)
class Edit:
    """A line of a file, and what is put before it or in its place."""

    file: str
    line: str
    new: str
    replaces: bool = False

    def applied(self, text: str) -> str:
        """The file's text after the edit. Raises ValueError where its line is not there once, or the edit is."""
        if self.new in text:
            raise ValueError(f"{self.file} has been edited before")
        lines = text.split("\n")
        found = [index for index, line in enumerate(lines) if line == self.line]
        if len(found) != 1:
            raise ValueError(
                f"{self.file}: a line to edit was found {len(found)} times, not once: {self.line.strip()!r}"
            )
        lines[found[0]] = self.new if self.replaces else f"{self.new}\n{self.line}"
        return "\n".join(lines)


EDITS = (
    # ggml's own paths stay beside ours, for what it does not serve.
    Edit("ops.cpp", "static void ggml_compute_forward_flash_attn_ext_f16(", f'#include "{OURS.name}"\n'),
    Edit(
        "ops.cpp",
        "    // When use_ref is set, force the vec-only reference implementation (no tiling, no KV-chunking)",
        "#ifdef TURNPIKE_GROUPED_ATTENTION\n    if (grouped::compute(params, dst)) {\n        return;\n    }\n#endif\n",
    ),
    # The scratch memory is planned before the graph runs.
    Edit(
        "ggml-cpu.c",
        '#include "ops.h"',
        '#include "ops.h"\nsize_t turnpike_grouped_attention_bytes(const struct ggml_tensor * node, int num_threads);',
        replaces=True,
    ),
    Edit(
        "ggml-cpu.c",
        "                        cur += MAX(prefill, decode);",
        "                        cur += MAX(MAX(prefill, decode), turnpike_grouped_attention_bytes(node, n_tasks));",
        replaces=True,
    ),
    # Told by llama_print_system_info: what a worker says at its start, and a run's facts keep.
    Edit(
        "ggml-cpu.cpp",
        "        if (ggml_cpu_has_sse3()) {",
        '        features.push_back({ "GROUPED_ATTENTION", "1" });',
    ),
)


def patch(source: Path) -> None:
    """All edits, or none. Raises ValueError where the source is not as they expect, OSError where it is not there."""
    texts: dict[Path, str] = {}
    for edit in EDITS:
        path = source / CPU / edit.file
        texts[path] = edit.applied(texts.get(path) or path.read_text())
    for path, text in texts.items():
        path.write_text(text)
    shutil.copy(OURS, source / CPU)


def main() -> None:
    """The command."""
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/llama_cpp/patch.py SOURCE")
    try:
        patch(Path(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(f"turnpike: llama.cpp's source was not patched: {error}")
    print(f"turnpike: {len(EDITS)} edits and {OURS.name} were put into llama.cpp's source")


if __name__ == "__main__":
    main()
