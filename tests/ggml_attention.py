"""One attention of ggml's on a CPU, by itself, and what the formula says of it: for tests and measurements."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Looks = NDArray[np.bool_]
"""[streams, tokens, cells]: which cells each token looks at."""
F32, F16, Q8_0 = 0, 1, 8
"""ggml's numbers of types."""
MEMORY = 256 << 20


class _Init(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Ggml:
    """The functions of ggml that a graph of one attention needs."""

    def __init__(self, folder: Path = Path(lib.__file__).parent / "lib") -> None:
        """`folder` has the libraries: llama-cpp-python's, or another build's."""
        self.base = ctypes.CDLL(str(folder / "libggml-base.so.0"))
        self.cpu = ctypes.CDLL(str(folder / "libggml-cpu.so.0"))
        pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        for name, result, arguments in (
            ("ggml_init", pointer, [_Init]),
            ("ggml_free", None, [pointer]),
            ("ggml_new_tensor_4d", pointer, [pointer, ctypes.c_int, size, size, size, size]),
            ("ggml_get_data", pointer, [pointer]),
            ("ggml_flash_attn_ext", pointer, [pointer] * 5 + [number] * 3),
            ("ggml_flash_attn_ext_add_sinks", None, [pointer, pointer]),
            ("ggml_new_graph", pointer, [pointer]),
            ("ggml_build_forward_expand", None, [pointer, pointer]),
        ):
            function = getattr(self.base, name)
            function.restype, function.argtypes = result, arguments
        self.compute = self.cpu.ggml_graph_compute_with_ctx
        self.compute.restype, self.compute.argtypes = ctypes.c_int, [pointer, pointer, ctypes.c_int]

    def attention(self, case: Case, threads: int) -> Floats:
        """[streams, tokens, heads, values]."""
        context = self.base.ggml_init(_Init(MEMORY, None, False))
        try:
            node = self._nodes(context, case, 1)[0]
            self._run(context, [node], threads)
            streams, heads, tokens, _ = case.q.shape
            shape = (streams, tokens, heads, case.v.shape[-1])
            data = ctypes.cast(self.base.ggml_get_data(node), ctypes.POINTER(ctypes.c_float))
            return np.ctypeslib.as_array(data, shape).copy()
        finally:
            self.base.ggml_free(context)

    def seconds(self, case: Case, num: int) -> float:
        """CPU seconds of one such attention by one thread: the mean of `num`, of which one more goes before."""
        context = self.base.ggml_init(_Init(MEMORY, None, False))
        try:
            nodes = self._nodes(context, case, num)
            self._run(context, nodes[:1], 1)
            before = time.process_time()
            self._run(context, nodes, 1)
            return (time.process_time() - before) / num
        finally:
            self.base.ggml_free(context)

    def _nodes(self, context: Any, case: Case, num: int) -> list[Any]:
        keys, values = (self._tensor(context, array, case.kind) for array in (case.k, case.v))
        mask = self._tensor(context, np.where(case.looks, 0, -np.inf).astype(np.float32)[:, None], F16)
        query = self._tensor(context, case.q, F32)
        arguments = (context, query, keys, values, mask, case.scale, 0.0, case.softcap)
        nodes = [self.base.ggml_flash_attn_ext(*arguments) for _ in range(num)]
        if case.sinks is not None:
            sinks = self._tensor(context, case.sinks[None, None, None], F32)
            for node in nodes:
                self.base.ggml_flash_attn_ext_add_sinks(node, sinks)
        return nodes

    def _run(self, context: Any, nodes: list[Any], threads: int) -> None:
        graph = self.base.ggml_new_graph(context)
        for node in nodes:
            self.base.ggml_build_forward_expand(graph, node)
        assert self.compute(context, graph, threads) == 0

    def _tensor(self, context: Any, values: Floats, kind: int) -> Any:
        tensor = self.base.ggml_new_tensor_4d(context, kind, *reversed(values.shape))
        at = self.base.ggml_get_data(tensor)
        kept = quantised(values) if kind == Q8_0 else values.astype(np.float16 if kind == F16 else np.float32)
        ctypes.memmove(at, kept.tobytes(), kept.nbytes)
        return tensor


class Case:
    """Random queries, keys and values. q: [streams, heads, tokens, size]; k, v: [streams, KV heads, cells, size]."""

    def __init__(
        self,
        looks: Looks,
        *,
        heads: int,
        kv_heads: int,
        size: int,
        kind: int = F16,
        softcap: float = 0.0,
        sinks: bool = False,
    ) -> None:
        random = np.random.default_rng(7)
        streams, tokens, cells = looks.shape
        self.looks, self.kind, self.softcap = looks, kind, softcap
        self.q = random.standard_normal((streams, heads, tokens, size), dtype=np.float32)
        self.k = random.standard_normal((streams, kv_heads, cells, size), dtype=np.float32)
        self.v = random.standard_normal((streams, kv_heads, cells, size), dtype=np.float32)
        self.scale = 1.5 / size**0.5
        self.sinks = random.standard_normal(heads, dtype=np.float32) if sinks else None

    def expected(self) -> Floats:
        """softmax(Q Kᵀ · scale) V over the cells that are looked at, in double precision; 0 where there is none."""
        group = self.q.shape[1] // self.k.shape[1]
        k, v = (self._as_kept(array).repeat(group, axis=1) for array in (self.k, self.v))
        scores = self.q.astype(np.float64) @ k.swapaxes(-1, -2) * self.scale
        if self.softcap:
            scores = self.softcap * np.tanh(scores / self.softcap)
        scores = np.where(self.looks[:, None], scores, -np.inf)
        highest = scores.max(-1, keepdims=True, initial=-50.0)
        weights = np.exp(scores - highest)
        total = weights.sum(-1, keepdims=True)
        if self.sinks is not None:
            total = total + np.exp(self.sinks[None, :, None, None] - highest)
        out = weights @ v / np.where(total == 0, 1, total)
        return np.asarray(out.swapaxes(1, 2), np.float32)

    def _as_kept(self, values: Floats) -> NDArray[np.float64]:
        if self.kind != Q8_0:
            return values.astype(np.float16 if self.kind == F16 else np.float32).astype(np.float64)
        blocks = quantised(values).view(np.dtype([("step", "<f2"), ("steps", "i1", 32)]))
        kept: NDArray[np.float64] = blocks["steps"] * blocks["step"].astype(np.float64)[..., None]
        return kept.reshape(values.shape)


def quantised(values: Floats) -> NDArray[np.uint8]:
    """As q8_0 has them: of each 32 the step as a half, and how many steps each value is."""
    blocks = values.reshape(-1, 32)
    steps = np.zeros(len(blocks), np.dtype([("step", "<f2"), ("steps", "i1", 32)]))
    steps["step"] = np.abs(blocks).max(1) / 127
    steps["steps"] = np.round(blocks / steps["step"].astype(np.float32)[:, None]).clip(-127, 127)
    return steps.view(np.uint8)


def causal(tokens: int, cells: int) -> Looks:
    """One conversation: the last tokens of so many cells."""
    return (np.arange(cells)[None] <= np.arange(cells - tokens, cells)[:, None])[None]


def of_streams(tokens: int, cells: int, num: int) -> Looks:
    """Conversations that have decoded together: each looks at every so many cells, and all at a shared beginning."""
    owner = np.arange(tokens) % num
    looks: Looks = (np.arange(cells)[None] % num == owner[:, None]) | (np.arange(cells)[None] < cells // 8)
    return looks[None]


def window(tokens: int, cells: int) -> Looks:
    """One conversation that looks 100 cells back."""
    last = np.arange(cells - tokens, cells)[:, None]
    looks: Looks = (np.arange(cells)[None] <= last) & (np.arange(cells)[None] > last - 100)
    return looks[None]


def scattered(tokens: int, cells: int) -> Looks:
    """Anything, and a token that looks at nothing."""
    looks = np.random.default_rng(3).random((1, tokens, cells)) < 0.3
    looks[0, tokens // 2] = False
    return looks
