"""Which texts the next step computes: from several turns, whoever waits for one first, as many as fit. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from workers.embedding.protocol import Tokens


@dataclass(eq=False)
class EmbedJob:
    """A turn as the engine sees it."""

    id: str
    texts: tuple[Tokens, ...]
    is_batch: bool = False
    """Nobody waits for it: it is computed by what the machine has left over."""
    vectors: list[bytes] = field(default_factory=list)
    """Of its first texts."""
    num_begun: int = 0
    """Of its texts, those that are in a step or behind it."""
    seconds: float = 0.0
    """Its share of the steps' time."""

    @property
    def num_tokens(self) -> int:
        """Of all its texts."""
        return sum(map(len, self.texts))

    @property
    def is_done(self) -> bool:
        """Whether each text has its vector."""
        return len(self.vectors) == len(self.texts)

    def take(self, num_texts: int) -> None:
        """So many more are in a step."""
        self.num_begun += num_texts

    def computed(self, vectors: list[bytes], seconds: float) -> None:
        """A step came to these vectors of its next texts; of its time so much was theirs."""
        self.vectors += vectors
        self.seconds += seconds


@dataclass(frozen=True)
class Step:
    """What is computed at once: of each job its next texts."""

    parts: tuple[tuple[EmbedJob, tuple[Tokens, ...]], ...]
    is_batch: bool

    @property
    def texts(self) -> list[Tokens]:
        """All of them, job by job."""
        return [tokens for _, texts in self.parts for tokens in texts]

    @property
    def num_tokens(self) -> int:
        """Of all texts."""
        return sum(map(len, self.texts))

    def came_to(self, vectors: list[bytes], seconds: float) -> None:
        """Gives each job its vectors, and of the step's time a share by its tokens."""
        at, each = 0, seconds / max(1, self.num_tokens)
        for job, texts in self.parts:
            job.computed(vectors[at : at + len(texts)], each * sum(map(len, texts)))
            at += len(texts)


class Packing:
    """The jobs that wait. A job's texts are computed in their order, so that a step may end within a turn."""

    def __init__(self, max_tokens: int, max_texts: int) -> None:
        """Of one step; a text that is longer than that has one of its own."""
        self._max_tokens = max_tokens
        self._max_texts = max_texts
        self._waiting: dict[bool, deque[EmbedJob]] = {False: deque(), True: deque()}

    def __iter__(self) -> Iterator[EmbedJob]:
        """All jobs of which some text waits."""
        return iter([*self._waiting[False], *self._waiting[True]])

    def add(self, job: EmbedJob) -> None:
        """Behind those of its kind."""
        self._waiting[job.is_batch].append(job)

    def drop(self, job: EmbedJob) -> None:
        """What of it waits is not computed; one that does not wait is no error."""
        if job in self._waiting[job.is_batch]:
            self._waiting[job.is_batch].remove(job)

    def has(self, *, is_batch: bool) -> bool:
        """Whether a job of that kind waits."""
        return bool(self._waiting[is_batch])

    def step(self, *, is_batch: bool, max_tokens: int | None = None) -> Step:
        """The next one, of jobs of one kind: the first job's next texts, and of those behind it what still fits."""
        room, num_left = min(self._max_tokens, max_tokens or self._max_tokens), self._max_texts
        parts: list[tuple[EmbedJob, tuple[Tokens, ...]]] = []
        for job in list(self._waiting[is_batch]):
            taken: list[Tokens] = []
            for tokens in job.texts[job.num_begun :]:
                if num_left == 0 or (len(tokens) > room and (parts or taken)):
                    break
                taken.append(tokens)
                room, num_left = room - len(tokens), num_left - 1
            if taken:
                job.take(len(taken))
                parts.append((job, tuple(taken)))
            if job.num_begun == len(job.texts):
                self._waiting[is_batch].remove(job)
            if num_left == 0 or room <= 0:
                break
        return Step(tuple(parts), is_batch)
