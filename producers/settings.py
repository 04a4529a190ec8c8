"""What the producers' long runs are started with; `turnpike COMMAND --help` explains."""

from __future__ import annotations

import math

import msgspec

from broker.errors import SettingsError, TurnpikeError
from broker.messages import Sampling
from broker.priorities import DEFAULT_PRIORITY, PRIORITIES
from broker.settings import CommonSettings, Count, ModelSettings, Port, convert, flag
from producers.load import arrivals


class RoutedSettings(CommonSettings, frozen=True, kw_only=True):
    """Whoever chooses a model by policies."""

    routes: str | None = None
    """A TOML file of policies for models; without one there is `auto`."""


class AskSettings(RoutedSettings, frozen=True, kw_only=True):
    """`turnpike ask` and `turnpike chat`: as `Sampling`, whose own values stand where nothing is given."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    stop: tuple[str, ...] | None = None

    def sampling(self) -> Sampling:
        """Checked as the wire checks it; raises SettingsError with every problem."""
        problems, fields = [], {}
        for field in msgspec.structs.fields(Sampling):
            if (value := getattr(self, field.name, None)) is not None:
                try:
                    fields[field.name] = convert(value, field.type)
                except ValueError as error:
                    problems.append(f"{flag(field.name)}: {error}")
        if problems:
            raise SettingsError(problems)
        return Sampling(**fields)


class GatewaySettings(RoutedSettings, frozen=True, kw_only=True):
    """`turnpike gateway`."""

    gateway_host: str = "127.0.0.1"
    gateway_port: Port = 8080
    keys: str | None = None
    """A TOML file of clients and the SHA-256 of their keys; without one everybody is the local client."""
    allow_anyone: bool = False
    """Without keys also at an address that others reach."""
    leave_out_tools: bool = False
    """Takes requests that offer tools, which the model does not hear of; answers say so in a header."""
    node: str | None = None
    """Default: the host's name."""
    new_key: bool = False
    """Prints a new key and what to put into the file of keys, and does no more."""


class LoadSettings(ModelSettings, frozen=True, kw_only=True):
    """`turnpike load`."""

    model: str
    """One, or several by weights: `llama=3,phi=1`."""
    num_conversations: int = 50
    concurrency: int = 4
    arrivals: str = "closed"
    """`producers.load.arrivals.parse` says which there are."""
    think: str = "0"
    duration_seconds: float | None = None
    num_turns: int | None = None
    """Of an open loop."""
    warm_up_seconds: float = 0.0
    cool_down_seconds: float = 0.0
    sweep: str | None = None
    """FROM:SECONDS, rates doubled from FROM on until goodput falls, each for SECONDS, then bisected."""
    slo_ttft_seconds: float | None = None
    slo_tpot_seconds: float | None = None
    priority: str = DEFAULT_PRIORITY
    cancel_share: float = 0.0
    cancel_after_seconds: float = 1.0
    """The mean of an exponential distribution."""
    deadline_share: float = 0.0
    deadline_seconds: float = 30.0
    part: int = 0
    num_parts: int = 1
    max_tokens: int = 500
    min_turns: int = 5
    turns: str = "messages"
    """What min_turns counts: messages or prompter turns."""
    max_user_turns: int | None = None
    dataset: str | None = None
    """A file, `synthetic:…`, or `hub:NAME` for a locked and pulled one; default: those that Turnpike ships."""
    language: str = "en"
    seed: int = 0
    ignore_eos: bool = False
    history: str = "generated"
    """What goes into the next turn's history: the generated answers, or the data set's."""
    run: str | None = None
    """The run's name in telemetry and in its record; default: made from the time."""
    out: str | None = None

    @staticmethod
    def weights(text: str) -> list[tuple[str, float]]:
        """`a=3,b=1` or just `a`. Raises ValueError."""
        found = []
        for item in text.split(","):
            name, _, weight = item.partition("=")
            value = float(weight) if weight else 1.0
            if not name or not 0 < value < math.inf:
                raise ValueError(f"{item!r} is not NAME or NAME=WEIGHT")
            found.append((name, value))
        return found

    def sweep_plan(self) -> tuple[float, float] | None:
        """The first rate and the seconds of a level. Raises ValueError."""
        if self.sweep is None:
            return None
        first, _, seconds = self.sweep.partition(":")
        plan = float(first), float(seconds or "nothing")
        if not all(0 < one < math.inf for one in plan):
            raise ValueError("must be above 0")
        return plan

    def check(self) -> None:
        """Raises SettingsError with every problem."""
        problems = [
            f"--{name.replace('_', '-')}: must be at least 1"
            for name in ("num_conversations", "concurrency", "max_tokens", "min_turns", "num_parts")
            if getattr(self, name) < 1
        ]
        problems += [
            f"--{name.replace('_', '-')}: must be from 0 to 1"
            for name in ("cancel_share", "deadline_share")
            if not 0 <= getattr(self, name) <= 1
        ]
        problems += [
            f"--{name.replace('_', '-')}: must be above 0"
            for name in (
                "cancel_after_seconds",
                "duration_seconds",
                "num_turns",
                "slo_ttft_seconds",
                "slo_tpot_seconds",
            )
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf
        ]
        if not 0 <= self.part < max(1, self.num_parts):
            problems.append(f"--part: must be from 0 to {self.num_parts - 1}")
        if self.turns not in ("messages", "prompter"):
            problems.append(f"--turns: {self.turns!r} is neither messages nor prompter")
        if self.history not in ("generated", "dataset"):
            problems.append(f"--history: {self.history!r} is neither generated nor dataset")
        problems += self._check_texts()
        if problems:
            raise SettingsError(problems)

    def _check_texts(self) -> list[str]:
        problems = []
        for name, check in (
            ("arrivals", lambda: arrivals.parse(self.arrivals)),
            ("think", lambda: arrivals.Think.parse(self.think)),
            ("model", lambda: self.weights(self.model)),
            ("sweep", self.sweep_plan),
        ):
            try:
                check()
            except TurnpikeError as error:
                problems.append(str(error))
            except ValueError as error:
                problems.append(f"--{name}: {error}")
        try:
            unknown = {name for name, _ in self.weights(self.priority)} - set(PRIORITIES)
            if unknown:
                problems.append(f"--priority: {', '.join(sorted(unknown))} is neither {' nor '.join(PRIORITIES)}")
        except ValueError as error:
            problems.append(f"--priority: {error}")
        if self.sweep is not None and self.slo_ttft_seconds is None and self.slo_tpot_seconds is None:
            problems.append("--sweep: what is good? say --slo-ttft-seconds or --slo-tpot-seconds")
        is_endless = self.arrivals.partition(":")[0] in ("constant", "poisson", "gamma") and self.sweep is None
        if is_endless and self.duration_seconds is None and self.num_turns is None:
            problems.append("--arrivals: it would never end: say --duration-seconds or --num-turns")
        return problems


class EvalSettings(CommonSettings, frozen=True, kw_only=True):
    """`turnpike eval`."""

    model: str
    path: str
    limit: int | None = None
    concurrency: int = 4
    out: str | None = None

    def check(self) -> None:
        """Raises SettingsError with every problem."""
        problems = [
            f"--{name}: must be at least 1"
            for name, value in (
                ("limit", self.limit if self.limit is not None else 1),
                ("concurrency", self.concurrency),
            )
            if value < 1
        ]
        if problems:
            raise SettingsError(problems)


class DemoSettings(CommonSettings, frozen=True, kw_only=True):
    """`turnpike demo`."""

    influx_url: str | None = None
    """Where its telemetry goes; default: INFLUX_URL, else a file beside the broker's data."""
    num_conversations: Count = 4
    max_tokens: Count = 48
    model_file: str | None = None
    gateway: bool = False
    """With the OpenAI API and the page in front of it, until ^C."""
    gateway_port: Port = 8080
