"""What a grammar holds of a turn's answer: its calls, from where one begins, or from the first token on."""

from __future__ import annotations

import logging
from typing import Protocol

from broker.errors import TurnRejected
from broker.messages import Turn
from broker.messages.tools import NamedTool
from workers.calls.openings import forms_behind
from workers.calls.syntax import Tool
from workers.grammars.call_rules import CallRules, CallsWanted
from workers.grammars.held_calls import HeldCalls
from workers.prompts.besides import budget_of, must_call, offered
from workers.turns.answer_reader import AnswerReaders

log = logging.getLogger(__name__)


class CallGrammars(Protocol):
    """Makes the grammar of a turn's calls. `GrammarChecker` does."""

    async def calls(self, wanted: CallsWanted, client: str = "") -> CallRules:
        """The checked grammar; raises TurnRejected where there can be none."""
        ...


class Holding:
    """Holds the calls of a model's answers, where its syntax can be put into a grammar."""

    def __init__(self, grammars: CallGrammars, readers: AnswerReaders) -> None:
        """`readers` know the model's syntax, and read its answers."""
        self._grammars = grammars
        self._readers = readers

    async def of(self, turn: Turn, prompt: str, client: str) -> HeldCalls | None:
        """What is held of the answer to that prompt; None for nothing. Raises TurnRejected where a call is demanded
        that no grammar can be made of; one that is left to the model is only asked for then."""
        syntax = self._readers.held_syntax(turn)
        if syntax is None:
            return None
        is_demanded = must_call(turn)
        schema = None if is_demanded else turn.sampling.json_schema
        chosen = turn.tool_choice.name if isinstance(turn.tool_choice, NamedTool) else ""
        tools = tuple(Tool(tool.name, tool.parameters or {}) for tool in offered(turn))
        thoughts = syntax.thoughts if budget_of(turn.sampling.thinking) != 0 else None
        wanted = CallsWanted(
            tools=tuple(tool for tool in tools if chosen in ("", tool.name)),
            behind=forms_behind(syntax),
            marks={spelling.decode(): token for token, spelling in self._readers.shown.items()},
            is_one=not turn.parallel_tool_calls,
            thought=thoughts.begin if thoughts is not None else "",
            behind_thought=syntax.behind_thought,
            text_schema=schema,
        )
        try:
            rules = await self._grammars.calls(wanted, client)
        except TurnRejected as error:
            if is_demanded:
                raise
            log.warning("calls are not held turn=%s reason=%s", turn.id, error.detail)
            return None
        return HeldCalls(
            rules,
            syntax,
            tools,
            self._readers.shown,
            is_forced=is_demanded or schema is not None,
            thinking=syntax.thinks_after(prompt),
        )
