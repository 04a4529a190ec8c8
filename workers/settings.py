"""What a worker is started with; `turnpike worker --help` explains."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Literal

from broker import subjects
from broker.declaring import Argument, Setting, flag
from broker.errors import InvalidName, SettingsError
from broker.settings import HealthPort, Level, ModelSettings, Node

MAX_SLOTS = 256
"""llama.cpp's LLAMA_MAX_SEQ."""
MAX_POLL = 100


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def resident(file_bytes: int, resident_bytes: int | None) -> int:
    """What the memory plan counts of a model's weights."""
    return file_bytes if resident_bytes is None else min(file_bytes, resident_bytes)


ModelFile = Annotated[
    str | None,
    Setting("the GGUF file (default: the locked one of --model, else the model that Turnpike ships)", path="file"),
]
WorkerName = Annotated[str | None, Setting("its name (default: the node's and the process id)")]
BoardFd = Annotated[int | None, Argument("the descriptor at which the board that started it listens")]


class ComputeSettings(ModelSettings, frozen=True, kw_only=True):
    """How models are computed: of a worker, and of each worker of a board."""

    log_level: Level = "INFO"
    allow_other_file: Annotated[
        bool,
        Setting("serve though other workers have another file under this name: while it is changed, worker by worker"),
    ] = False
    node: Node = None
    num_ctx: Annotated[int, Setting("KV cells, shared by all slots")] = 8192
    num_slots: Annotated[int, Setting("turns at once")] = 8
    threads: Annotated[
        int | None,
        # Measured at the start, and from step to step; in the deterministic mode one less than the cores.
        Setting(
            "threads of llama.cpp, for decode and for prompts (default: measured for each of the two, and fewer while "
            "neighbours are busy)"
        ),
    ] = None
    threads_batch: Annotated[
        int | None, Setting("those for prompts, where they are to be others (default: as --threads, or measured)")
    ] = None
    poll: Annotated[
        int | None,
        Setting(
            "how long llama.cpp's threads look for the next step before they sleep, which keeps cores busy: 0 (not at "
            "all) to 100 (default: as it is measured to be best, where the threads are; else they are made for each "
            "step)"
        ),
    ] = None
    resident_bytes: Annotated[
        int | None,
        Setting(
            "of RAM for weights; the rest is read from the disk as it is needed, which wants an SSD (default: all)"
        ),
    ] = None
    num_ubatch: Annotated[int, Setting("tokens that llama.cpp computes at once")] = 256
    step_budget_seconds: Annotated[float, Setting("what a step may take")] = 0.25
    coalesce_seconds: Annotated[float, Setting("chunks gather for so long; 0 sends each token")] = 0.05
    speculation: Annotated[
        Literal["auto", "off"],
        Setting(
            "auto: decode steps compute guesses at the tokens that follow, too, where what a conversation repeats and "
            "what steps take say that it pays; never in the deterministic mode"
        ),
    ] = "auto"
    draft_model: Annotated[
        str | None,
        Setting(
            "a GGUF file of a small model of the same vocabulary: it proposes tokens for decode steps to compute, "
            "where that pays; never in the deterministic mode (default: none)",
            path="file",
        ),
    ] = None
    deterministic: Annotated[bool, Setting("one turn at a time, repeatable to the bit")] = False
    share_prefixes: Annotated[bool, Setting("share KV prefixes across clients too, not only within one")] = False
    park_bytes: Annotated[
        int | None,
        Setting(
            "of RAM for conversations at rest; 0 keeps none, nor over a swap of models (default: a quarter of what is "
            "free)"
        ),
    ] = None
    # Off by default: an SD card wears.
    disk_bytes: Annotated[
        int, Setting("of disk for conversations that RAM has no room for, also over restarts; 0 writes none")
    ] = 0
    kv_dir: Annotated[
        str | None, Setting("where their files lie (default: kv in the data directory)", path="folder")
    ] = None
    board_dir: Annotated[
        str | None,
        Setting(
            "its board's folder of conversations, in memory: what is there is found, and what is left at the end is "
            "kept there while another model is loaded (default: none)",
            path="folder",
        ),
    ] = None
    # Half of gigabit Ethernet.
    fetch_bytes_per_second: Annotated[
        int, Setting("of conversations' states given to other workers; 0 gives and fetches none")
    ] = 50_000_000
    park_seconds: Annotated[float, Setting("how long a worker that stops may write what it has in memory to files")] = (
        60.0
    )
    overflow: Annotated[
        Literal["error", "drop"],
        Setting("of a conversation longer than the context: refused, or its oldest turns left out"),
    ] = "error"
    chat_template: Annotated[
        str | None,
        Setting(
            "a template by llama.cpp's name (chatml, gemma, …: docs/models.md) or a file of Jinja (default: the "
            "model file's own; for one without, the catalogue's, ChatML where it has the tokens, or a plain form)",
            metavar="NAME|FILE",
        ),
    ] = None
    template_date: Annotated[
        str | None,
        Setting(
            "what templates that ask for the date are told: none, today (so that at midnight their prompts are "
            "computed anew), or this day (default: today; with --deterministic none)",
            metavar="none|today|YYYY-MM-DD",
        ),
    ] = None
    tool_syntax: Annotated[
        str | None,
        Setting(
            "how the model writes tool calls: hermes, mistral, llama3, … (default: as its template does)",
            metavar="NAME",
        ),
    ] = None
    free_calls: Annotated[
        bool,
        Setting(
            "leave tool calls to the model: without it a grammar holds them to offered names and their schemas, and "
            "has one made where tool_choice demands it"
        ),
    ] = False
    raw_as_text: Annotated[
        bool,
        Setting(
            "control tokens in a raw prompt (ask --raw, /v1/completions) are text too, as they always are in chats and "
            "scores"
        ),
    ] = False
    kv_type: Annotated[Literal["f16", "q8_0"], Setting("the KV cache's precision")] = "f16"
    health_port: HealthPort = None

    @property
    def guesses(self) -> bool:
        """Whether decode steps may compute guesses at what follows."""
        return self.speculation == "auto" and not self.deterministic

    @property
    def draft_file(self) -> Path | None:
        """The draft model's, where guesses may be made."""
        return Path(self.draft_model).expanduser() if self.draft_model is not None and self.guesses else None

    def named(self) -> list[tuple[str, str]]:
        """What has to be a token of a subject: each setting's name, with what it says."""
        return [] if self.node is None else [("node", self.node)]

    def check(self) -> None:
        """Raises SettingsError with every problem."""
        if found := self.problems():
            raise SettingsError(found)

    def problems(self) -> list[str]:
        """All that is wrong with them, which no single field's type tells."""
        problems = [
            f"--{name.replace('_', '-')}: must be at least {least}"
            for name, value, least in (
                ("num_ctx", self.num_ctx, 256),
                ("num_slots", self.num_slots, 1),
                ("num_ubatch", self.num_ubatch, 16),
                ("threads", self.threads if self.threads is not None else 1, 1),
                ("threads_batch", self.threads_batch if self.threads_batch is not None else 1, 1),
                ("park_bytes", self.park_bytes or 0, 0),
                ("disk_bytes", self.disk_bytes, 0),
                ("fetch_bytes_per_second", self.fetch_bytes_per_second, 0),
            )
            if value < least
        ]
        if self.threads is not None or self.threads_batch is not None:
            from workers.machine.cores import num_cores  # not at the start of every command

            for which, threads in (("--threads", self.threads), ("--threads-batch", self.threads_batch)):
                if threads is not None and threads > (most := num_cores()):
                    # They would wait for each other at every step.
                    problems.append(f"{which}: must be at most {most}, the cores that this process may use")
        for name, value in self.named():
            try:
                subjects.token(value, name.removesuffix("_name"))
            except InvalidName as error:
                problems.append(f"{flag(name)}: {error}")
        if self.chat_template is not None:
            from workers.prompts.chat_template import asked_for  # nor this

            try:
                asked_for(self.chat_template)
            except SettingsError as error:
                problems += error.problems
        if self.tool_syntax is not None:
            from workers.calls import SYNTAXES  # nor this

            if self.tool_syntax not in SYNTAXES:
                names = ", ".join(sorted(SYNTAXES))
                problems.append(f"--tool-syntax: must be one of {names}, not {self.tool_syntax!r}")
        if self.template_date not in (None, "none", "today") and not _is_date(self.template_date):
            problems.append("--template-date: must be none, today or a date as 2026-11-26")
        if self.poll is not None and not 0 <= self.poll <= MAX_POLL:
            problems.append(f"--poll: must be from 0 to {MAX_POLL}")
        if self.step_budget_seconds <= 0:
            problems.append("--step-budget-seconds: must be above 0")
        if self.num_slots > MAX_SLOTS:
            problems.append(f"--num-slots: must be at most {MAX_SLOTS}")
        if self.kv_type != "f16" and self.deterministic:
            problems.append("--kv-type: the deterministic mode has no flash attention, which q8_0 wants")
        if self.coalesce_seconds < 0:
            problems.append("--coalesce-seconds: must not be negative")
        return problems


class WorkerSettings(ComputeSettings, frozen=True, kw_only=True):
    """One model's worker."""

    model_file: ModelFile = None
    model: Annotated[str | None, Setting("the model's name in subjects (default: from the file's name)")] = None
    worker_name: WorkerName = None
    board_fd: BoardFd = None

    def named(self) -> list[tuple[str, str]]:
        """The worker's and its model's, too."""
        own = (("model", self.model), ("worker_name", self.worker_name), ("node", self.node))
        return [(name, value) for name, value in own if value is not None]
