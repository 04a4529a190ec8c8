"""What a worker says of itself for the records of whoever measures it: names and values, all of them text."""

from __future__ import annotations

from broker.discovery import FILE_FACTS
from broker.messages.boards import ModelFile
from workers.engine.polling import name as name_of
from workers.engine.threads import FixedThreads, StepThreads
from workers.machine.bandwidth import ReadBandwidth
from workers.settings import WorkerSettings

_SETTINGS = (
    "deterministic",
    "kv_type",
    "overflow",
    "num_slots",
    "num_ubatch",
    "step_budget_seconds",
    "speculation",
    "coalesce_seconds",
)


def setting_facts(config: WorkerSettings) -> dict[str, str]:
    """The settings that decide how quick it is, and what it answers."""
    return {name: str(getattr(config, name)).lower() for name in _SETTINGS}


def file_facts(file: ModelFile) -> dict[str, str]:
    """What the model's file says of it, by the names that discovery has for that."""
    told = {"num_parameters": file.num_parameters, "num_embd": file.num_embd, "modified_at": int(file.modified_at)}
    found = {"architecture": file.architecture} | told
    return {FILE_FACTS[name]: str(value) for name, value in found.items() if value}


def thread_facts(threads: StepThreads, poll: int | None) -> dict[str, str]:
    """How many threads a decode step and a prefill step take, and whether that was measured; and how long they look for
    the next step, `none` where they are made for each."""
    found = {"poll": name_of(poll)}
    for name, one in (("threads", threads.decode), ("threads_batch", threads.prefill)):
        found[name] = str(one.current)
        found[f"{name}_are"] = "fixed" if isinstance(one, FixedThreads) else "measured"
    return found


def memory_facts(bandwidth: ReadBandwidth) -> dict[str, str]:
    """What memory gives to readers at most, and to how many threads; with `active_bytes`, the roofline of a decode."""
    return {
        "read_peak_bytes_per_second": f"{bandwidth.bytes_per_second:.0f}",
        "read_peak_threads": str(bandwidth.num_threads),
    }
