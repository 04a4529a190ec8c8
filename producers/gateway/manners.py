"""What a gateway makes of every turn that it is asked for, in whatever dialect: its own word on tools and on thoughts.
Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from broker.errors import InvalidMessage
from broker.messages import NamedTool, Turn
from broker.messages.turns import Thinking
from producers.gateway.bodies import misfit
from producers.gateway.dialect import NOTHING, Asked
from producers.gateway.errors import ApiError, unsupported

NOBODYS = {"id": "nobodys", "conversation": "nobodys"}
"""Of a turn that is only looked at."""


@dataclass(frozen=True)
class Manners:
    """As it was started."""

    thinking: Thinking | None = None
    """Of chats that say nothing of it."""
    leave_out_tools: bool = False
    """Tools that are offered are taken, and answered without."""
    is_strict: bool = False
    """What would be ignored is refused."""

    def kept(self, all_asked: Sequence[Asked]) -> tuple[list[Asked], list[str]]:
        """The turns as they are to be sent, and what of them is ignored. Raises ApiError for what cannot be left out:
        a model is free to call no tool where it need not; and in the request's own names for what no queue takes."""
        ignored = []
        if self.leave_out_tools and any(one.offer != NOTHING for one in all_asked):
            ignored = _left_out(all_asked)
            all_asked = [dataclasses.replace(one, offer=NOTHING) for one in all_asked]
        if ignored and self.is_strict:
            raise unsupported(ignored[0])
        found = [self._thought_about(one) for one in all_asked]
        for one in found:
            _check(one)
        return found, ignored

    def _thought_about(self, asked: Asked) -> Asked:
        """With this gateway's word on thoughts where a chat has none, nor template variables."""
        if asked.sampling.thinking is not None or asked.template_kwargs or asked.is_raw or self.thinking is None:
            return asked
        return dataclasses.replace(asked, sampling=replace(asked.sampling, thinking=self.thinking))


def _left_out(all_asked: Sequence[Asked]) -> list[str]:
    """The field that is ignored where tools are. Raises ApiError."""
    if any(one.offer.choice == "required" or isinstance(one.offer.choice, NamedTool) for one in all_asked):
        raise unsupported("tool_choice", "cannot demand a call: this gateway leaves tools out")
    return ["tools"] if any(one.offer.tools for one in all_asked) else []


def _check(asked: Asked) -> None:
    """Raises ApiError where no worker would understand the turn: it would only fill the dead letters."""
    try:
        error = misfit(NOBODYS | {"messages": asked.history} | asked.options, Turn)
    except InvalidMessage as refused:
        param = asked.param_of(refused.field)
        raise ApiError(400, f"{param}: {refused.reason}" if param else refused.reason, param=param or None) from None
    if error is not None:
        param = asked.param_of(error.param or "")
        message = error.message.replace(error.param, param, 1) if error.param else error.message
        raise ApiError(400, message, param=param or None, code=error.code)
