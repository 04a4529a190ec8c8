"""`POST /v1/responses/input_tokens`: how many tokens the prompt of a request has. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from broker.discovery import PROMPT
from broker.messages import Message
from producers.gateway.dialect import Asked
from producers.gateway.openai.response_writer import CountWriter
from producers.gateway.openai.responses import Continued, ResponsesRequest, ResponsesWithoutTools


class CountRequest(ResponsesRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A response's own body, of which nothing is answered."""

    @property
    def is_streamed(self) -> bool:
        """A number has no pieces."""
        return False

    def going_on_from(self, earlier: Sequence[Message]) -> Continued:
        """The same behind what was said before."""
        return Counted(self, (*earlier, *self.said))


class CountWithoutTools(ResponsesWithoutTools, CountRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same for a gateway that leaves tools out: they cost nothing there."""


class Counted(Continued):
    """Its prompt is made, and nothing is generated."""

    def asked(self) -> Sequence[Asked]:
        """One prompt."""
        (one,) = super().asked()
        more = {"kind": "prompt"}
        return [Asked(one.history, one.sampling, False, one.template_kwargs, one.offer, more, frozenset({PROMPT}))]

    def writer(self, turn: str, model: str) -> CountWriter:
        """Of the number."""
        return CountWriter(turn, model, {}, self.messages, is_stored=False)
