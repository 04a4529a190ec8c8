"""Which part of an answer a grammar of calls holds: known token by token, without the grammar itself. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workers.calls.openings import THINKING, Opening, Watch
from workers.calls.syntax import Syntax, Tool
from workers.grammars.call_rules import CallRules, spelled
from workers.grammars.schemas.rules import literal


@dataclass(frozen=True)
class HeldCalls:
    """What is held of one answer."""

    rules: CallRules
    syntax: Syntax
    """As workers.calls.openings.held gives it."""
    tools: tuple[Tool, ...]
    """All that are offered."""
    shown: Mapping[int, bytes]
    """Control tokens that have a text in the answer."""
    is_forced: bool = False
    """The grammar holds from the first token on, or behind the thought."""
    thinking: bool = False
    """The prompt has begun a thought."""

    def follow(self, piece: Callable[[int], bytes]) -> CallFollower:
        """Follows an answer from its first token; `piece` is a token's text in the vocabulary."""
        return CallFollower(self, piece)


class CallFollower:
    """Where in the answer it stands, and what holds there."""

    def __init__(self, calls: HeldCalls, piece: Callable[[int], bytes]) -> None:
        """Of an answer without tokens."""
        self._calls = calls
        self._piece = piece
        self._watch = Watch(calls.syntax, calls.tools, thinking=calls.thinking, is_forced=calls.is_forced)
        self._strict = codecs.getincrementaldecoder("utf-8")("strict")
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._unfinished: list[int] = []
        """Tokens since the last that ended with a whole character."""
        self._unfinished_text = ""
        self.gbnf: str | None = None
        """The grammar that holds; None where none does."""
        self.tokens: list[int] = []
        """That it has taken, or is to take first."""
        self._may_think = False
        self._before = ""
        """What the grammar took before any call named its tool."""
        self._has_called = False
        """A call's name is read, and its arguments follow or did."""
        self._since: str | None = None
        """What is written since all calls were whole; None before."""
        if (first := self._watch.opened_first) is not None:
            self._open(first, '""', [])

    @property
    def is_forced(self) -> bool:
        """Whether the grammar is of the whole answer, not of a call alone that the model may make."""
        return self._calls.is_forced

    @property
    def may_think(self) -> bool:
        """Whether a thought may begin within the grammar, which then ends."""
        return self.gbnf is not None and self._may_think

    def would_open(self, token: int) -> bool:
        """Reads a token that is about to be chosen, while no grammar holds; whether one holds from within it on. Then
        it is not in `tokens`: whether it may be chosen is the grammar's to say."""
        assert self.gbnf is None
        before, text_before = [*self._unfinished], self._unfinished_text
        text = self._text(token)
        found = self._watch.feed(text)
        if found is None:
            return False
        self._open(found, *self._begun(token, text, found.place, before, text_before))
        return True

    def take(self, token: int) -> bool:
        """A token that the grammar took; whether it goes on to hold. It does not where a thought has begun."""
        assert self.gbnf is not None
        self.tokens.append(token)
        if not self.may_think:
            return True
        self._watch.feed(self._text(token))
        if not self._watch.is_thinking:
            return True
        self.gbnf, self.tokens = None, []
        return False

    def note(self, token: int, *, is_whole: bool) -> None:
        """A token that the grammar took, and whether the answer may end behind it."""
        if self._since is None and not self._has_called:
            self._before += self._own_text(token)
            self._has_called = self._names_a_tool(self._before)
        if is_whole and self._has_called:
            self._since = ""
        elif self._since is not None:
            self._since += self._own_text(token)

    @property
    def may_end(self) -> bool:
        """Whether calls are whole and no further one has named its tool: what begins like one may yet be none."""
        return self._since is not None and not self._names_a_tool(self._since)

    def _names_a_tool(self, text: str) -> bool:
        return any(tool.name in text for tool in self._calls.tools)

    def _own_text(self, token: int) -> str:
        return (self._piece(token) or self._calls.shown.get(token, b"")).decode("utf-8", "replace")

    def replay(self, tokens: list[int]) -> None:
        """Tokens of an earlier worker."""
        for token in tokens:
            if self.gbnf is not None:
                self.take(token)
            elif self.would_open(token):
                self.tokens.append(token)

    def _text(self, token: int) -> str:
        piece = self._piece(token) or self._calls.shown.get(token, b"")
        text = self._decoder.decode(piece)
        if self._decoder.getstate()[0]:
            self._unfinished.append(token)
            self._unfinished_text += text
        else:
            self._unfinished, self._unfinished_text = [], ""
        return text

    def _begun(self, token: int, text: str, place: int, before: list[int], text_before: str) -> tuple[str, list[int]]:
        """What is written already of what the grammar takes, and the tokens before this one that wrote it."""
        if not self._piece(token):
            return spelled(text[:place], {text: token}), []
        own = self._own(token)
        if own is not None:
            return literal(own[: max(0, place - (len(text) - len(own)))]) if place else '""', []
        return literal(text_before + text[:place]), before

    def _own(self, token: int) -> str | None:
        """A token's whole characters, where it begins with one."""
        try:
            return self._strict.decode(self._piece(token))
        except UnicodeDecodeError:
            return None
        finally:
            self._strict.reset()

    def _open(self, opening: Opening, begun: str, tokens: list[int]) -> None:
        self.gbnf = self._calls.rules.begun_with(opening.behind, opening.tool, begun)
        self.tokens = [*tokens]
        self._may_think = opening.behind == THINKING
        self._before, self._has_called, self._since = "", opening.tool is not None, None
