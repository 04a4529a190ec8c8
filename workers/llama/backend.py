"""llama.cpp's library itself, of which a process has one: its start, its log, and what it was built with."""

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

_BUFFER = re.compile(r"\s(\S+)\s+(model|compute|KV|output)\s+buffer size =\s+([\d.]+) MiB")

log = logging.getLogger(__name__)


class _Messages:
    """What llama.cpp logs: kept for errors and buffer sizes, not printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.buffers: dict[str, float] = {}
        """Bytes by "device kind", such as "CPU_REPACK model"."""
        self._callback = lib.llama_log_callback(self._take)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _: Any) -> None:
        line = text.decode("utf-8", "replace").rstrip()
        if found := _BUFFER.search(line):
            key = f"{found[1]} {found[2]}"
            self.buffers[key] = self.buffers.get(key, 0) + float(found[3]) * 1024 * 1024
        if level >= 3 and line:  # warnings and errors
            self.lines = [*self.lines[-20:], line]
            log.debug("llama.cpp %s", line)


_messages: _Messages | None = None


def messages() -> _Messages:
    """llama.cpp has one log a process; it is taken over once."""
    global _messages
    if _messages is None:
        _messages = _Messages()
        _load_cpu_backend()
        lib.llama_backend_init()
    return _messages


def _load_cpu_backend() -> None:
    """Of a build with a library for each generation of CPUs (GGML_CPU_ALL_VARIANTS), loads the best that runs here.

    By itself llama.cpp looks beside the executable, which is Python.
    """
    folder = Path(lib.__file__).parent / "lib"
    if any(folder.glob("libggml-cpu-*.so")):
        lib._lib.ggml_backend_load_all_from_path(str(folder).encode())


def progress(heard: Callable[[float], None]) -> Any:
    """A callback for a model's load: `heard` is told how much is loaded, 0 to 1."""

    def hear(share: float, _: Any) -> bool:
        heard(share)
        return True  # go on

    return lib.llama_progress_callback(hear)


def system_info() -> str:
    """llama.cpp's own words on the CPU features that it was built with."""
    return str(lib.llama_print_system_info().decode())


def has_grouped_attention() -> bool:
    """Whether this build has our attention, where tokens cost alike however few there are (docs/upstream.md)."""
    return "GROUPED_ATTENTION = 1" in system_info()


def has_openmp() -> bool:
    """Whether this build computes with OpenMP's threads instead of ggml's own."""
    return "OPENMP = 1" in system_info()


def missing_features(cpu_flags: set[str], info: str) -> list[str]:
    """CPU features that this machine has and llama.cpp was built without, of those that make a difference."""
    wanted = {
        "asimddp": "DOTPROD",
        "asimdhp": "FP16_VA",
        "avx2": "AVX2",
        "avx512f": "AVX512",
        "f16c": "F16C",
        "fma": "FMA",
    }
    return [name for flag, name in wanted.items() if flag in cpu_flags and f"{name} = 1" not in info]
