"""What the producers' long runs are started with; `turnpike COMMAND --help` explains."""

from __future__ import annotations

from broker.errors import SettingsError
from broker.settings import CommonSettings


class LoadSettings(CommonSettings, frozen=True, kw_only=True):
    """`turnpike load`."""

    model: str
    num_conversations: int = 50
    concurrency: int = 4
    max_tokens: int = 500
    min_turns: int = 5
    turns: str = "messages"
    """What min_turns counts: messages or prompter turns."""
    max_user_turns: int | None = None
    dataset: str | None = None
    """A file of OpenAssistant trees or messages; default: the conversations that Turnpike ships."""
    language: str = "en"
    seed: int = 0
    ignore_eos: bool = False
    history: str = "generated"
    """What goes into the next turn's history: the generated answers, or the data set's."""
    run: str | None = None
    """The run's name in telemetry; default: made from the time."""

    def check(self) -> None:
        """Raises SettingsError with every problem."""
        problems = [
            f"--{name.replace('_', '-')}: must be at least 1"
            for name in ("num_conversations", "concurrency", "max_tokens", "min_turns")
            if getattr(self, name) < 1
        ]
        if self.turns not in ("messages", "prompter"):
            problems.append(f"--turns: {self.turns!r} is neither messages nor prompter")
        if self.history not in ("generated", "dataset"):
            problems.append(f"--history: {self.history!r} is neither generated nor dataset")
        if problems:
            raise SettingsError(problems)


class DemoSettings(CommonSettings, frozen=True, kw_only=True):
    """`turnpike demo`."""

    influx_url: str | None = None
    """Where its telemetry goes; default: INFLUX_URL, else a file beside the broker's data."""
    num_conversations: int = 4
    max_tokens: int = 48
    model_file: str | None = None
