"""What the producers' long runs are started with; `turnpike COMMAND --help` explains."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import msgspec

from broker.declaring import Argument, Setting, convert, flag
from broker.errors import SettingsError, TurnpikeError
from broker.messages import Sampling
from broker.messages.turns import Thinking
from broker.priorities import DEFAULT_PRIORITY, PRIORITIES
from broker.settings import CommonSettings, Count, InfluxSettings, Level, ModelSettings, Node, Port

NONE_GIVEN = Sampling()

SHIPPED_REQUESTS = "shipped"
"""For --tools: the requests that Turnpike ships."""

NumConversations = Annotated[Count, Setting("how many conversations")]
MAX_TOKENS = Setting("tokens of an answer at most")
MaxTokens = Annotated[int, MAX_TOKENS]
IgnoreEos = Annotated[bool, Setting("go on to --max-tokens, whatever the model says")]
Seed = Annotated[int, Setting("of everything that is drawn")]
Stop = Annotated[tuple[str, ...] | None, Setting("end before this text; can be given several times")]
ThinkingSetting = Annotated[
    Thinking | None,
    Setting(
        "whether the model thinks before it answers, where its template has a switch for that, or for how many "
        "tokens at most (default: as the template does)",
        metavar="on|off|TOKENS",
    ),
]
Concurrency = Annotated[int, Setting("conversations, or items, at once")]
Out = Annotated[str | None, Setting("write a record of every turn or item here, as JSON lines", path="file")]
SloTtft = Annotated[float | None, Setting("a good turn's first token is there by then", metavar="SECONDS")]
SloTpot = Annotated[float | None, Setting("and each further token takes no longer", metavar="SECONDS")]
PRIORITY = Setting(f"{', '.join(PRIORITIES)}, or by weights: {PRIORITIES[0]}=4,{PRIORITIES[-1]}=1")
GatewayPort = Annotated[Port, Setting("the gateway's port; 0 takes a free one")]


RoutesFile = Annotated[
    str | None, Setting("a TOML file of policies for models (default: auto, by expected wait)", path="file")
]


class TalkSettings(ModelSettings, frozen=True, kw_only=True):
    """Whoever asks a model at a terminal, which may be one whose file is here."""

    routes: RoutesFile = None
    plain: Annotated[bool, Setting("write answers as they are, without their Markdown rendered")] = False


class AskSettings(TalkSettings, frozen=True, kw_only=True):
    """`turnpike ask` and `turnpike chat`: as `Sampling`, whose own values stand where nothing is given."""

    GROUP: ClassVar[str] = "sampling"

    max_tokens: MaxTokens = NONE_GIVEN.max_tokens
    temperature: Annotated[float, Setting("0 takes the likeliest token each time")] = NONE_GIVEN.temperature
    top_k: Annotated[int | None, Setting("draw from the K likeliest tokens only")] = None
    top_p: Annotated[float | None, Setting("draw from the likeliest tokens that make up this share only")] = None
    min_p: Annotated[float | None, Setting("draw from tokens at least this share as likely as the likeliest")] = None
    repeat_penalty: Annotated[
        float | None, Setting("how much less likely the last 64 tokens are made; 1 leaves them")
    ] = None
    seed: Annotated[int | None, Setting("of what is drawn (default: another one each turn, which is shown)")] = None
    thinking: ThinkingSetting = None
    ignore_eos: IgnoreEos = False
    stop: Stop = None

    def check(self) -> None:
        """Raises SettingsError with every problem."""
        self.sampling()

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


class GatewaySettings(CommonSettings, frozen=True, kw_only=True):
    """`turnpike gateway`."""

    routes: RoutesFile = None
    log_level: Level = "INFO"
    gateway_host: Annotated[str, Setting("the interface to listen at; several with commas between")] = "127.0.0.1"
    gateway_port: GatewayPort = 8080
    ollama_port: Annotated[
        int | None,
        Setting("the port to listen at besides, as Ollama: its clients know 11434 (default: none; 0: none)"),
    ] = None
    keys: Annotated[
        str | None,
        Setting("a TOML file of clients and the SHA-256 of their keys (default: none is wanted)", path="file"),
    ] = None
    allow_anyone: Annotated[bool, Setting("without keys, at any address")] = False
    origins: Annotated[
        tuple[str, ...],
        Setting(
            "browser pages of this origin may ask, * of all; can be given again (default: with keys all, else this "
            "machine's)",
            metavar="http://HOST:PORT",
        ),
    ] = ()
    hosts: Annotated[
        tuple[str, ...],
        Setting(
            "without keys it may be asked for by this name, too, .NAME all below it, * any; can be given again "
            "(default: addresses and this machine's names)",
            metavar="NAME",
        ),
    ] = ()
    leave_out_tools: Annotated[
        bool, Setting("answer requests that offer tools without them: for models that are too small for any")
    ] = False
    strict: Annotated[
        bool,
        Setting("refuse fields that are unknown or ask for what is not done, which are ignored and named without"),
    ] = False
    thinking: ThinkingSetting = None
    without_page: Annotated[bool, Setting("serve no page at /")] = False
    without_slots: Annotated[
        bool, Setting("tell nobody at /slots how many turns are in work, as llama-server's --no-slots")
    ] = False
    node: Node = None
    new_key: Annotated[bool, Setting("print a new key, and do no more")] = False


class ArrivalSettings(ModelSettings, frozen=True, kw_only=True):
    """When turns of `turnpike load` are sent, and what of them counts."""

    GROUP: ClassVar[str] = "arrivals"

    arrivals: Annotated[
        str,
        Setting(
            "closed, constant:RATE, poisson:RATE, gamma:RATE:BURSTINESS, ramp:FROM:TO:SECONDS, step:RATExSECONDS,…, "
            "trace:FILE; rates are turns per second"
        ),
    ] = "closed"
    concurrency: Concurrency = 4
    think: Annotated[str, Setting("between an answer and the next message: 0, fixed:SECONDS, exponential:SECONDS")] = (
        "0"
    )
    duration_seconds: Annotated[float | None, Setting("send for so long")] = None
    num_turns: Annotated[int | None, Setting("send so many, on a schedule")] = None
    warm_up_seconds: Annotated[float, Setting("what is sent before does not count")] = 0.0
    cool_down_seconds: Annotated[float, Setting("what is sent after does not count")] = 0.0
    sweep: Annotated[
        str | None,
        Setting("double the rate until goodput falls, each for so long, then bisect", metavar="RATE:SECONDS"),
    ] = None
    slo_ttft_seconds: SloTtft = None
    slo_tpot_seconds: SloTpot = None
    priority: Annotated[str, PRIORITY] = DEFAULT_PRIORITY
    cancel_share: Annotated[float, Setting("so many turns are cancelled (0 to 1)")] = 0.0
    cancel_after_seconds: Annotated[
        float, Setting("after so long, which is the mean of an exponential distribution")
    ] = 1.0
    deadline_share: Annotated[float, Setting("so many turns have a deadline (0 to 1)")] = 0.0
    deadline_seconds: Annotated[float, Setting("so long after they are sent")] = 30.0
    part: Annotated[int, Setting("which part of a run of several processes this is, from 0")] = 0
    num_parts: Annotated[int, Setting("how many there are; they share --run and --seed")] = 1


class ConversationSettings(ArrivalSettings, frozen=True, kw_only=True):
    """What `turnpike load` sends."""

    GROUP: ClassVar[str] = "conversations"

    dataset: Annotated[
        str | None,
        Setting(
            "OpenAssistant trees or messages, ShareGPT, OpenAI's messages with tools; plain, gzip, parquet; hub:NAME "
            "(see turnpike models); tools: shipped conversations with tools; editing: 30 shipped tasks whose answers "
            "repeat their prompts; or synthetic:prompt=200/50,answer=100/20,turns=5,count=50 (default: the shipped "
            "conversations)"
        ),
    ] = None
    num_conversations: NumConversations = 50
    min_turns: Annotated[int, Setting("only conversations of so many turns")] = 5
    turns: Annotated[Literal["messages", "prompter"], Setting("what --min-turns counts")] = "messages"
    max_user_turns: Annotated[int | None, Setting("cut conversations after so many user messages")] = None
    language: Annotated[str, Setting("the language of OpenAssistant threads")] = "en"
    history: Annotated[Literal["generated", "dataset"], Setting("whose answers the next turn's history holds")] = (
        "generated"
    )
    max_tokens: MaxTokens = NONE_GIVEN.max_tokens
    ignore_eos: IgnoreEos = False
    stop: Stop = None
    raw: Annotated[
        bool, Setting("send a conversation's texts, with empty lines between, as a prompt without the chat template")
    ] = False
    seed: Seed = 0


class LoadSettings(ConversationSettings, frozen=True, kw_only=True):
    """`turnpike load`."""

    model: Annotated[str, Setting("a model's name, auto, or several by weights: llama=3,phi=1")]
    run: Annotated[str | None, Setting("the run's name in telemetry and its record (default: made from the time)")] = (
        None
    )
    out: Out = None

    def sampling(self) -> Sampling:
        """How each turn is answered. Raises ValueError for stop texts that the wire does not take."""
        (kind,) = (field.type for field in msgspec.structs.fields(Sampling) if field.name == "stop")
        stop = convert(self.stop or (), kind)
        return Sampling(max_tokens=self.max_tokens, ignore_eos=self.ignore_eos, stop=stop)

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
        problems += self._check_texts()
        if problems:
            raise SettingsError(problems)

    def _check_texts(self) -> list[str]:
        from producers.load import arrivals  # not at the start of every command

        problems = []
        for name, check in (
            ("arrivals", lambda: arrivals.parse(self.arrivals)),
            ("think", lambda: arrivals.Think.parse(self.think)),
            ("model", lambda: self.weights(self.model)),
            ("sweep", self.sweep_plan),
            ("stop", self.sampling),
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

    path: Annotated[
        str | None,
        Argument(
            "Winogrande as JSON lines or llama.cpp's CSV, or JSON lines of context, choices, label",
            metavar="FILE",
            path="file",
            is_positional=True,
        ),
    ] = None
    tools: Annotated[
        str | None,
        Argument(
            "instead: is the right tool called, rightly, and none where none is wanted? JSON lines of requests and "
            f"calls, or `{SHIPPED_REQUESTS}`, forty of our own",
            metavar="FILE",
            path="file",
        ),
    ] = None
    model: Annotated[str, Setting("a model's name, or auto")]
    limit: Annotated[int | None, Setting("only so many items")] = None
    concurrency: Concurrency = 4
    out: Out = None

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
        if (self.path is None) == (self.tools is None):
            problems.append("FILE and --tools: which questions? one of the two is wanted")
        if problems:
            raise SettingsError(problems)


class DemoSettings(InfluxSettings, frozen=True, kw_only=True):
    """`turnpike demo`. Without an `influx_url` its telemetry goes into a file beside the broker's data."""

    num_conversations: NumConversations = 4
    max_tokens: Annotated[Count, MAX_TOKENS] = 48
    model_file: Annotated[str | None, Setting("a GGUF file (default: the model that Turnpike ships)", path="file")] = (
        None
    )
    gateway: Annotated[bool, Setting("with the OpenAI API and the page in front of it, until ^C")] = False
    gateway_port: GatewayPort = 8080
    boards: Annotated[
        bool, Setting("instead: a board with room for one of two models, a server of its own, and each swap")
    ] = False

    def check(self) -> None:
        """Raises SettingsError: a board's demo is by itself."""
        if self.boards and self.gateway:
            raise SettingsError(["--boards: has a server of its own, and no --gateway"])


class ReportSettings(InfluxSettings, frozen=True, kw_only=True):
    """`turnpike report`: what a good turn is, and where what the nodes did meanwhile can be read."""

    slo_ttft_seconds: SloTtft = None
    slo_tpot_seconds: SloTpot = None
