"""Whether a sequence's state is such as llama.cpp writes: how many cells it tells of, and their positions.

llama.cpp checks that the layers are its own and no byte is missing. It takes any count and any position, though: two
cells of a recurrent layer abort the process, and a position that no sequence can have stays in its books for ever. A
state of the right length and checksum may have both, as whoever sends it makes the checksum.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from workers.engine.protocol import State

_HEADER_BYTES = 8
"""A magic number and the slot that it was of, which llama.cpp checks and passes over."""
_EXT_BYTES = 12
"""What a cell has beside its position where positions have several dimensions."""
_MAX_LAYERS = 4096


class _Unsound(Exception):
    pass


@dataclass(frozen=True)
class StateForm:
    """Of which parts a model's states are, in this order; a checkpoint has not the first, where there are others."""

    num_ctx: int
    has_full: bool
    """Layers that keep every token: where it has any, or a window's."""
    has_window: bool
    has_recurrent: bool
    num_ext_bytes: int
    """Of each cell in the first two."""

    @classmethod
    def of(cls, model: Any, num_ctx: int) -> StateForm:
        """Of a loaded llama.cpp model's, in a context of so many tokens."""
        is_recurrent = bool(lib.llama_model_is_recurrent(model))
        has_dimensions = lib.llama_model_rope_type(model) in (lib.LLAMA_ROPE_TYPE_MROPE, lib.LLAMA_ROPE_TYPE_IMROPE)
        return cls(
            num_ctx,
            has_full=not is_recurrent,
            has_window=not is_recurrent and bool(lib.llama_model_n_swa(model)),
            has_recurrent=is_recurrent or bool(lib.llama_model_is_hybrid(model)),
            num_ext_bytes=_EXT_BYTES if has_dimensions else 0,
        )

    def num_tokens(self, state: State, *, is_checkpoint: bool = False) -> int | None:
        """Of how many tokens a state, or a checkpoint, says that it is; None where it is none that llama.cpp could
        have written. Reads its counts and positions, and nothing of what the layers hold."""
        parts = [*(["window"] if self.has_window else []), *(["recurrent"] if self.has_recurrent else [])]
        if self.has_full and not (parts and is_checkpoint):
            parts.insert(0, "full")
        try:
            found: set[int] = set()
            at = _HEADER_BYTES
            for part in parts:
                if part == "recurrent":
                    found.add(self._of_recurrent(state, at))
                else:
                    num_cells, num_tokens = self._of_cells(state, at, is_full=part == "full")
                    found.add(num_tokens)
                    at = at if part == parts[-1] else self._end_of_cells(state, at, num_cells)
        except (struct.error, ValueError, _Unsound):
            return None
        return found.pop() if len(found) == 1 else None

    def _of_recurrent(self, state: State, at: int) -> int:
        num_cells, position, num_sequences = struct.unpack_from("<IiI", state, at)
        if (num_cells, num_sequences) != (1, 0) or not 0 <= position < self.num_ctx:
            raise _Unsound
        return int(position) + 1

    def _of_cells(self, state: State, at: int, *, is_full: bool) -> tuple[int, int]:
        """How many cells there are, and how many tokens the sequence has whose last ones they are of."""
        num_streams, num_cells = struct.unpack_from("<II", state, at)
        if num_streams != 1 or not 0 < num_cells <= self.num_ctx:
            raise _Unsound
        cell = np.dtype([("at", "<i4"), ("num_sequences", "<u4"), ("ext", f"V{self.num_ext_bytes}"), ("slot", "<i4")])
        cells = np.frombuffer(state, cell, num_cells, at + 8)
        # In the order of cells, which need not be that of positions.
        positions = np.sort(cells["at"])
        first, last = int(positions[0]), int(positions[-1])
        is_in_range = first >= 0 and last < self.num_ctx and (first == 0 or not is_full)
        is_without_holes = last - first + 1 == num_cells and bool((np.diff(positions) == 1).all())
        if not is_in_range or not is_without_holes or (cells["num_sequences"] != 1).any():
            raise _Unsound
        return num_cells, last + 1

    def _end_of_cells(self, state: State, at: int, num_cells: int) -> int:
        """Where what cells hold ends. What is not as this context's layers have it llama.cpp finds by itself, before it
        reads what comes then."""
        at += 8 + num_cells * (12 + self.num_ext_bytes)
        is_transposed, num_layers = struct.unpack_from("<II", state, at)
        if num_layers > _MAX_LAYERS:
            raise _Unsound
        at += 8
        for index in range(2 * num_layers):  # all keys, then all values
            if is_transposed and index >= num_layers:
                element_bytes, num_elements = struct.unpack_from("<II", state, at + 4)
                row_bytes = element_bytes * num_elements
            else:
                (row_bytes,) = struct.unpack_from("<Q", state, at + 4)
            at += 12 + num_cells * row_bytes
            if at > len(state):
                raise _Unsound
        return at
