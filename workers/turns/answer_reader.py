"""What of an answer is text, what a thought, and what a call: told apart as it comes, by the model's own syntax."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from broker.messages import CallDelta, ToolCall, Turn
from broker.messages.tools import MAX_CALLS, grown
from broker.offsets import Offsets
from workers.calls.deltas import Arguments, Broken, CallBegun, CallEnded, Delta, Reasoning, Text
from workers.calls.openings import can_hold, held
from workers.calls.parser import Parser
from workers.calls.syntax import Syntax, Tool
from workers.calls.thought_tokens import ThoughtTokens
from workers.engine.detokenizer import Detokenizer
from workers.engine.thoughts import Thinking
from workers.prompts.begun import is_begun
from workers.prompts.besides import budget_of, must_call, offered

_ID_CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 9
"""Nine letters and digits: Mistral's templates want no others."""

log = logging.getLogger(__name__)


def call_id(turn: str, index: int) -> str:
    """Of an answer's call: the same with every worker, so that another one goes on with it."""
    number = int.from_bytes(hashlib.sha256(f"{turn} {index}".encode()).digest()[:8])
    found = ""
    for _ in range(_ID_LENGTH):
        number, digit = divmod(number, len(_ID_CHARACTERS))
        found += _ID_CHARACTERS[digit]
    return found


@dataclass(frozen=True)
class Told:
    """What a piece of an answer adds to it."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.calls)


class AnswerReader:
    """Of one answer: without a parser all of it is text."""

    def __init__(self, turn: str, parser: Parser | None = None) -> None:
        self._turn = turn
        self._thoughts = None if parser is None else ThoughtTokens(parser)
        self._calls: tuple[ToolCall, ...] = ()
        self._whole: set[int] = set()
        self.broken: Counter[str] = Counter()
        """Why calls came as text, and how often."""

    @property
    def num_reasoning_tokens(self) -> int:
        """Of the answer's tokens so far, those that are thoughts; their marks are not counted."""
        return 0 if self._thoughts is None else self._thoughts.num_tokens

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Those that are whole."""
        return tuple(call for index, call in enumerate(self._calls) if index in self._whole)

    def feed(self, text: str, num_tokens: int) -> Told:
        """What the next piece of the answer is."""
        return Told(text) if self._thoughts is None else self._told(self._thoughts.feed(text, num_tokens))

    def finish(self) -> Told:
        """What was held back: nothing follows."""
        return Told() if self._thoughts is None else self._told(self._thoughts.finish())

    def _told(self, deltas: list[Delta]) -> Told:
        text, reasoning = "", ""
        calls: list[CallDelta] = []
        for delta in deltas:
            match delta:
                case Text(text=piece):
                    text += piece
                case Reasoning(text=piece):
                    reasoning += piece
                case CallBegun(index=index, name=name):
                    calls.append(CallDelta(index, call_id(self._turn, index), name))
                case Arguments(index=index, text=piece):
                    calls.append(CallDelta(index, arguments=piece))
                case CallEnded(index=index):
                    self._whole.add(index)
                case Broken(reason=reason, text=piece, name=name):
                    text += piece
                    self.broken[reason] += 1
                    log.warning("call broken turn=%s reason=%s tool=%s", self._turn, reason, name)
        placed = Offsets(calls=self._calls).placed(tuple(calls))
        self._calls = grown(self._calls, placed)
        return Told(text, reasoning, placed)


def joined(told: Sequence[Told]) -> Told:
    """What several pieces add, as one."""
    return Told(
        "".join(one.text for one in told),
        "".join(one.reasoning for one in told),
        tuple(delta for one in told for delta in one.calls),
    )


def _no_text(token: int) -> bytes:
    return b""


@dataclass(frozen=True)
class AnswerReaders:
    """Makes the readers of a model's answers. Without a `syntax`, a model's that has no chat template, all is text."""

    syntax: Syntax | None = None
    shown: Mapping[int, bytes] = field(default_factory=dict)
    """Control tokens that the syntax is written with, and their spelling: all others stay without a text."""
    piece: Callable[[int], bytes] = _no_text
    """A token's text as the vocabulary has it."""
    holds: bool = False
    """Whether a grammar holds calls, where the syntax can be put into one."""

    @property
    def has_thoughts(self) -> bool:
        """Whether the model may think before it answers."""
        return self.syntax is not None and self.syntax.thoughts is not None

    def _syntax(self, turn: Turn) -> Syntax | None:
        """The syntax of the turn's answer, as far as there is anything but text to be found in it; None for nothing."""
        if self.syntax is None or turn.raw or turn.continuations:
            return None
        syntax = self.syntax.behind_text if is_begun(turn) else self.syntax
        return syntax if syntax.thoughts is not None or offered(turn) else None

    def reads(self, turn: Turn) -> bool:
        """Whether there is anything but text to be found in the turn's answer."""
        return self._syntax(turn) is not None

    def held_syntax(self, turn: Turn) -> Syntax | None:
        """The syntax of the turn's calls, where a grammar holds them: without what no grammar has."""
        syntax = self._syntax(turn)
        if not self.holds or syntax is None or not can_hold(syntax) or not offered(turn):
            return None
        return held(syntax, beside_text=turn.sampling.json_schema is not None)

    def read_again(self, reader: AnswerReader, turn: Turn, tokens: Sequence[int]) -> Told:
        """What an earlier worker has sent of the turn's answer, these tokens, by which the reader knows where in it it
        stands. Text that may still become a stop text is held back, as it was then."""
        detokenizer = Detokenizer(turn.sampling.stop)
        told = [reader.feed(detokenizer.add(self._spelled(token)), 1) for token in tokens]
        return joined(told)

    def written(self, tokens: Iterable[int]) -> str | None:
        """What an answer's tokens spell, marks too; None where a character is cut."""
        try:
            return b"".join(map(self._spelled, tokens)).decode()
        except UnicodeDecodeError:
            return None

    def _spelled(self, token: int) -> bytes:
        return self.piece(token) or self.shown.get(token, b"")

    def of(self, turn: Turn, prompt: str, *, is_held: bool = False) -> AnswerReader:
        """Of the turn's answer, which follows that prompt; `is_held`: a grammar does hold its calls."""
        syntax = self._syntax(turn)
        return AnswerReader(turn.id, self._parser(syntax, turn, prompt, is_held) if syntax is not None else None)

    def thinking(self, turn: Turn, prompt: str, *, is_held: bool = False) -> Thinking | None:
        """What the engine has to know of the turn's thoughts; None where it lets the model think as it likes, and
        where the model has no thoughts."""
        syntax = self._syntax(turn)
        thoughts = syntax.thoughts if syntax is not None else None
        sampling, budget = turn.sampling, budget_of(turn.sampling.thinking)
        has_grammar = sampling.grammar is not None or sampling.json_schema is not None
        goes_on = has_grammar or must_call(turn)
        if syntax is None or thoughts is None or (budget is None and not goes_on):
            return None
        # Behind a thought that is a message a call may follow as well: only the second time it has to be the answer.
        first = (thoughts.end,) if offered(turn) else ()
        return Thinking(
            parser=partial(self._parser, syntax, turn, prompt, is_held),
            begin=thoughts.begin,
            closings=(*first, thoughts.end + thoughts.answer),
            answer=thoughts.answer,
            budget=budget,
        )

    def _parser(self, syntax: Syntax, turn: Turn, prompt: str, is_held: bool) -> Parser:
        held_syntax = self.held_syntax(turn) if is_held else None
        return Parser(
            held_syntax or syntax,
            [Tool(tool.name, tool.parameters or {}) for tool in offered(turn)],
            thinking=syntax.thinks_after(prompt),
            max_calls=MAX_CALLS if turn.parallel_tool_calls else 1,
            is_held=held_syntax is not None,
        )


ALL_TEXT = AnswerReaders()
