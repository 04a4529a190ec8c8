"""One conversation: what was said, with which model, and how its answers are made. It knows of no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.messages import Message, Sampling, new_id


@dataclass
class Conversation:
    """A history that ends with an answer, or has none yet."""

    model: str
    sampling: Sampling = Sampling()
    system: str | None = None
    """What the model is told before all else."""
    said: tuple[Message, ...] = ()
    """Without the system's message."""
    id: str = field(default_factory=new_id)
    """On the wire: workers know by it what they have computed."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """All of it, as a turn has it."""
        return (*([Message("system", self.system)] if self.system else []), *self.said)

    @property
    def num_questions(self) -> int:
        """How often the user has said something."""
        return sum(one.role == "user" for one in self.said)

    def asking(self, text: str) -> tuple[Message, ...]:
        """The messages of the turn that asks this."""
        return (*self.messages, Message("user", text))

    def keep(self, messages: Sequence[Message]) -> None:
        """What was said once the turn is over, the system's message among it."""
        self.said = tuple(messages[1:] if self.system else messages)

    def tell(self, system: str | None) -> None:
        """What the model is told before all else, from now on."""
        self.system = system

    def change_to(self, model: str) -> None:
        """Another model goes on with it."""
        self.model = model

    def begin_anew(self, said: Sequence[Message] = ()) -> None:
        """Another conversation, with the same model and system message."""
        self.said, self.id = tuple(said), new_id()
