"""Where llama.cpp aborts the whole process: one line and exit code 1, instead of a dump and SIGABRT."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

import llama_cpp.llama_cpp as lib

EXIT_CODE = 1
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_kept: list[Any] = []
"""ctypes' callbacks live as long as somebody holds them."""


def explain_aborts(what: str) -> None:
    """From now on a failed assertion of llama.cpp's ends the process with a line that begins with `what`."""

    def give_up(message: bytes) -> None:
        reason = " ".join(message.decode("utf-8", "replace").split())
        sys.stdout.flush()
        sys.stderr.write(f"turnpike: {what}: llama.cpp gave up: {reason}\n")
        sys.stderr.flush()
        os._exit(EXIT_CODE)

    _kept[:] = [_CALLBACK(give_up)]
    setter = lib._lib.ggml_set_abort_callback
    setter.argtypes, setter.restype = [_CALLBACK], ctypes.c_void_p
    setter(_kept[0])
