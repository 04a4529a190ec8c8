"""Calls of tools at a terminal: shown as they would be written, run once somebody says so, and what came of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

from broker.messages import Message, ToolCall
from producers.terminal.keyboard import Typist
from producers.terminal.printing import Printer

MAX_SHOWN = 300
"""Characters of a result."""
NOT_ALLOWED = "error: the user did not allow this call"


class Permission:
    """Whoever sits at the keyboard is asked about each call; where nobody does, none is run unless all are allowed."""

    def __init__(self, keyboard: Typist, is_allowed: bool) -> None:
        self._keyboard, self._is_allowed = keyboard, is_allowed
        self.is_left = False
        """Whether the input ended at a question."""

    async def refusal(self, call: ToolCall, printer: Printer) -> str | None:
        """Shows the call, and asks; None where it may be run, else what is told to the model."""
        printer.end_line()
        printer.note(f"calls {written(call)}")
        if self._is_allowed:
            return None
        if not self._keyboard.is_a_terminal:
            printer.note("not run: nobody is here to be asked (--yes runs calls without a question)")
            return NOT_ALLOWED
        for line in self._keyboard.drop_typed_ahead():
            # Whoever typed it had not seen the call.
            printer.note(f"typed before the question, and no answer to it: {line}")
        typed = None
        try:
            typed = await self._keyboard.question("run it? [y/N] ")
            self.is_left = typed is None
        finally:
            if typed is None:  # what is said next begins a line
                sys.stderr.write("\n")
        return None if (typed or "").strip().lower() in ("y", "yes") else NOT_ALLOWED


def written(call: ToolCall) -> str:
    """`switch_lamp(room="attic", on=true)`; the arguments as they stand where they are no JSON object."""
    arguments = call.parsed
    if arguments is None:
        pairs = [repr(call.arguments)]
    else:
        pairs = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items()]
    return f"{call.name}({', '.join(pairs)})"


def results(messages: Sequence[Message]) -> Iterator[str]:
    """What the tools of an answer returned, a line each: `switch_lamp: on`."""
    names = {call.id: call.name for one in messages for call in one.tool_calls}
    for one in messages:
        if one.role == "tool":
            text = " ".join(one.content.split())
            yield f"{names.get(one.tool_call_id or '', '?')}: {text[:MAX_SHOWN]}{'…' if len(text) > MAX_SHOWN else ''}"
