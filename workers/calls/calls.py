"""What the readers of calls say, and what an answer's deltas are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.calls.deltas import Arguments, Broken, CallBegun, CallEnded, Delta, Reason, Reasoning, Text
from workers.calls.reader import Reader


class BrokenCall(Exception):
    """What is being read is no call. `reason` is None where nobody could have taken it for one."""

    def __init__(self, reason: Reason | None) -> None:
        """See Reason."""
        super().__init__(reason)
        self.reason = reason


class Call:
    """One that has begun. Of a tool that was not offered nothing is told until its end: then it comes as text."""

    def __init__(self, answer: Answer, name: str, index: int | None, schema: Mapping[str, Any]) -> None:
        """`index` is None for an unknown tool."""
        self.name = name
        self.index = index
        self.schema = schema
        self._answer = answer

    def arguments(self, text: str) -> None:
        """More of the arguments' JSON."""
        if self.index is not None and text:
            self._answer.arguments(self.index, text)

    def end(self, call_id: str | None = None) -> None:
        """The arguments are whole, and what has to stand behind them was read."""
        if self.index is None:
            self._answer.broken("unknown_tool")
        else:
            self._answer.ended(self.index, call_id)


class Answer:
    """The deltas of one answer, in order; white space around thoughts and calls is none of them."""

    def __init__(
        self, reader: Reader, tools: Mapping[str, Mapping[str, Any]], max_calls: int, *, is_held: bool = False
    ) -> None:
        """`tools` are names and schemas of arguments. What `reader` recorded of a broken call comes as text."""
        self._reader = reader
        self._tools = tools
        self._max_calls = max_calls
        self._deltas: list[Delta] = []
        self._open: type[Text] | type[Reasoning] | int = Text
        """What the last parts are of: a call by its index."""
        self._parts: list[str] = []
        self._space: list[str] = []
        self._begins = False
        self._has_text = False
        self._is_text = False
        self._is_call = False
        self._call: Call | None = None
        self.num_calls = 0
        """That have begun."""
        self._num_broken = 0
        """Of those."""
        self.is_thinking = False
        self.is_sure = True
        self.is_held = is_held
        """A grammar holds arguments, which have to follow their tool's name then."""

    @property
    def has_tools(self) -> bool:
        """Whether any was offered."""
        return bool(self._tools)

    @property
    def has_text(self) -> bool:
        """Whether any came that is not white space."""
        return self._has_text

    @property
    def is_call(self) -> bool:
        """Whether a call, of whatever tool, has begun since `section`."""
        return self._is_call

    @property
    def names(self) -> frozenset[str]:
        """The offered tools'."""
        return frozenset(self._tools)

    def taken(self) -> list[Delta]:
        """The deltas since the last time."""
        self._close()
        deltas, self._deltas = self._deltas, []
        return deltas

    def _close(self) -> None:
        text, self._parts = "".join(self._parts), []
        if text:
            self._deltas.append(Arguments(self._open, text) if isinstance(self._open, int) else self._open(text))

    def _continue(self, kind: type[Text] | type[Reasoning] | int, text: str) -> None:
        if kind != self._open:
            self._close()
            self._open = kind
        self._parts.append(text)

    def _emit(self, delta: CallBegun | CallEnded | Broken) -> None:
        self._close()
        self._deltas.append(delta)

    def arguments(self, index: int, text: str) -> None:
        """A part of that call's arguments."""
        self._continue(index, text)

    def text(self, text: str) -> None:
        """A part of the answer."""
        if self._begins:
            text = text.lstrip()
            self._begins = not text
        if self.has_tools:
            self._spaced(Text, text)
        elif text:
            self._has_text = self._has_text or not text.isspace()
            self._continue(Text, text)

    def thought(self, text: str) -> None:
        """A part of the reasoning."""
        if self._begins:
            text = text.lstrip()
            self._begins = not text
        self._spaced(Reasoning, text)

    def _spaced(self, kind: type[Text] | type[Reasoning], text: str) -> None:
        """White space waits for what it is in front of."""
        kept = text.rstrip()
        if kept:
            self._has_text = self._has_text or kind is Text
            self._continue(kind, "".join((*self._space, kept)))
            self._space = []
        self._space.append(text[len(kept) :])

    def turn(self, *, thinking: bool) -> None:
        """A thought begins or ends here: white space around it is dropped."""
        self.is_thinking = thinking
        self._space = []
        self._begins = True

    def begin(self, name: str, call_id: str | None = None) -> Call:
        """A call of that name. Raises BrokenCall where there are enough of them."""
        self._is_call = True
        schema = self._tools.get(name)
        if schema is None:
            self._call = Call(self, name, None, {})
            return self._call
        if self.num_calls - self._num_broken >= self._max_calls:
            raise BrokenCall("too_many")
        self._space = []
        self._call = Call(self, name, self.num_calls, schema)
        self.num_calls += 1
        self._emit(CallBegun(self.num_calls - 1, name, call_id))
        return self._call

    def ended(self, index: int, call_id: str | None) -> None:
        """That call is whole."""
        self._call = None
        self._is_text = False
        self._begins = not self._has_text
        self._reader.record("")
        self._emit(CallEnded(index, call_id))

    def broken(self, reason: Reason | None) -> None:
        """What was recorded is no call. Without a reason it is text like any other."""
        call, self._call = self._call, None
        self._is_text = True
        text = self._reader.recorded()
        self._reader.record("")
        if reason is None:
            self.text(text)
            return
        self._num_broken += call is not None and call.index is not None
        self._continue(Text, "".join(self._space))
        self._space, self._begins, self._has_text = [], False, True
        self._emit(Broken(reason, text, call.index if call else None, call.name if call else None))

    def section(self, mark: str, *, is_sure: bool = True) -> None:
        """Calls begin, with this mark; `is_sure`: nothing else begins so."""
        self.is_sure = is_sure
        self._is_text = False
        self._is_call = False
        self._reader.record(mark)

    def section_ended(self) -> None:
        """Behind a broken call the rest of its section is text as well."""
        rest = self._reader.recorded()
        if self._is_text:
            self.text(rest)

    def finish(self) -> None:
        """Nothing follows."""
        if not self.num_calls and not self._begins:
            self._continue(Text, "".join(self._space))
        self._space = []
