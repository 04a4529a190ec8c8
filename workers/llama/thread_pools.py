"""ggml's threads for a context: kept from step to step, and how long they look for the next step before they sleep.

By itself llama.cpp makes a step's threads anew, and ends them with it. A pool keeps them. Between two steps each of its
threads looks for work up to 131,072 times its polling level, which keeps a core busy, and then sleeps until it is
woken; at a level of 0 it sleeps at once. Within a step they always spin. Of a build with OpenMP none of it holds: there
the threads are OpenMP's, and wait as its own variables say.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as lib

_MAX_THREADS = 512
"""GGML_MAX_N_THREADS."""
_CPU = 0
"""GGML_BACKEND_DEVICE_TYPE_CPU."""


class _Parameters(ctypes.Structure):
    """ggml_threadpool_params."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * _MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


# llama-cpp-python 0.3 has none of these.
_POINTER = ctypes.c_void_p
_device = ctypes.CFUNCTYPE(_POINTER, ctypes.c_int)(("ggml_backend_dev_by_type", lib._lib))
_registry = ctypes.CFUNCTYPE(_POINTER, _POINTER)(("ggml_backend_dev_backend_reg", lib._lib))
_procedure = ctypes.CFUNCTYPE(_POINTER, _POINTER, ctypes.c_char_p)(("ggml_backend_reg_get_proc_address", lib._lib))
_default = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Parameters), ctypes.c_int)(("ggml_threadpool_params_init", lib._lib))
_attach = ctypes.CFUNCTYPE(None, _POINTER, _POINTER, _POINTER)(("llama_attach_threadpool", lib._lib))
_detach = ctypes.CFUNCTYPE(None, _POINTER)(("llama_detach_threadpool", lib._lib))
_NEW = ctypes.CFUNCTYPE(_POINTER, ctypes.POINTER(_Parameters))
_FREE = ctypes.CFUNCTYPE(None, _POINTER)


class PooledThreads:
    """What computes a context's steps: so many threads, that wait so.

    A pool is made when it is first wanted, sleeps while another one computes, and ends with the context. It is never
    larger than the steps that it computes: threads of a pool that have no part in a step poll like the others.
    """

    def __init__(self, context: Any, num_threads: int, pools_of: PooledThreads | None = None) -> None:
        """With `pools_of` it computes with another context's pools: the two never compute at once, and threads of pools
        of its own would look for work while the other one does. That one has to end after it."""
        self._context = context
        self._has_own_pools = pools_of is None
        # A build with a library for each generation of CPUs has no other way to the one that it loaded.
        cpu = _registry(_device(_CPU))
        self._new_pool = _NEW(_procedure(cpu, b"ggml_threadpool_new"))
        self._free_pool = _FREE(_procedure(cpu, b"ggml_threadpool_free"))
        self._pools: dict[tuple[int, int], int] = pools_of._pools if pools_of is not None else {}
        self._poll: int | None = None
        self.num_threads = num_threads

    @property
    def num_threads(self) -> int:
        """Those that compute; may be set between two steps."""
        return int(lib.llama_n_threads(self._context))

    @num_threads.setter
    def num_threads(self, num_threads: int) -> None:
        """Of all steps from the next one on, whether llama.cpp takes them for batches or not."""
        lib.llama_set_n_threads(self._context, num_threads, num_threads)
        self._use(num_threads, self._poll)

    @property
    def poll(self) -> int | None:
        """How long they look for the next step before they sleep, 0 to 100; None makes them anew for each step. May be
        set between two steps."""
        return self._poll

    @poll.setter
    def poll(self, poll: int | None) -> None:
        """Of all steps from the next one on."""
        self._poll = poll
        self._use(self.num_threads, poll)

    def _use(self, num_threads: int, poll: int | None) -> None:
        if poll is None:
            _detach(self._context)
            return
        pool = self._pools.get((num_threads, poll))
        if pool is None:
            pool = self._pools[num_threads, poll] = self._made(num_threads, poll)
        _attach(self._context, pool, pool)

    def _made(self, num_threads: int, poll: int) -> int:
        parameters = _Parameters()
        _default(parameters, num_threads)
        parameters.poll = poll
        pool = self._new_pool(parameters)
        assert pool is not None, "ggml_threadpool_new returns a pool, or aborts"
        return int(pool)

    def _end_threads(self) -> None:
        """Of the context, which must be gone."""
        if self._has_own_pools:
            for pool in self._pools.values():
                self._free_pool(pool)
            self._pools.clear()
