"""Texts over HTTP become turns, and their ends vectors: the same for every dialect that has such a path. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct

from broker.embedding import Vectors, in_parts, joined, vectors_of
from broker.errors import InvalidMessage
from broker.messages import Done, EmbedText, Failed, Sampling
from broker.messages.turns import TokenId
from producers.gateway.dialect import Asked, Finished
from producers.gateway.errors import ApiError
from producers.gateway.failures import error_of
from producers.gateway.whole import WholeWriter

MAX_TEXTS = 2048
"""Of one request, as in OpenAI's API."""
_AT = re.compile(r"texts\[\d+\]")
_TOO_LONG = re.compile(r"(\d+) tokens, and the context holds (\d+)")

Pieces = tuple[str | TokenId, ...]
"""Texts and tokens in a row."""


class TextPart(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a content."""

    type: Literal["text"]
    text: str


class TextObject(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A text as llama-server takes it besides: by either name."""

    prompt_string: str | Pieces | None = None
    content: tuple[TextPart, ...] | None = None

    @property
    def text(self) -> EmbedText:
        """Parts are one text, as they stand."""
        if self.prompt_string is not None:
            return self.prompt_string
        return "".join(part.text for part in self.content or ())


Given = str | TextObject | tuple[str | TokenId | Pieces | TextObject, ...]
"""A text, or several: a list that has a token in it is one text."""


def texts_of(given: Given, param: str = "input") -> tuple[EmbedText, ...]:
    """Those to embed. Raises ApiError for an object that names none."""
    if isinstance(given, tuple) and not any(isinstance(one, int) for one in given):
        return tuple(_text(one, f"{param}[{index}]") for index, one in enumerate(given) if not isinstance(one, int))
    if isinstance(given, tuple):
        row = tuple(one for one in given if isinstance(one, int | str))
        if len(row) < len(given):
            raise ApiError(400, f"{param}: a list with tokens has only texts besides", param=param)
        return (row,)
    return (_text(given, param),)


def _text(given: str | Pieces | TextObject, param: str) -> EmbedText:
    if not isinstance(given, TextObject):
        return given
    if (given.prompt_string is None) == (given.content is None):
        raise ApiError(400, f"{param}: an object has a prompt_string or a content", param=param)
    return given.text


def asked_to_embed(
    texts: Sequence[EmbedText], *, truncate: bool = False, dimensions: int | None = None, param: str = "input"
) -> list[Asked]:
    """The turns of a request's texts; `param` is its field that has them. Raises ApiError."""
    if not texts:
        raise ApiError(400, f"{param}: must hold at least one text", param=param)
    if len(texts) > MAX_TEXTS:
        raise ApiError(400, f"{param}: {len(texts)} texts, and {MAX_TEXTS} are allowed at once", param=param)
    for index, text in enumerate(texts):
        if text == ():
            raise ApiError(400, f"{param}[{index}]: must not be empty", param=f"{param}[{index}]")
    options = {"kind": "embed", "truncate": truncate, "dimensions": dimensions}
    return [Asked((), Sampling(), more={**options, "texts": part}) for part in in_parts(texts)]


class VectorWriter(WholeWriter):
    """Implements AnswerWriter for a request that is answered with vectors, whole and never streamed."""

    def __init__(
        self, model: str, tell: Callable[[str, Vectors, Sequence[Done]], Any], *, param: str = "input"
    ) -> None:
        """`tell` makes the dialect's answer of the model, the vectors and the turns' ends."""
        self._model = model
        self._tell = tell
        self._param = param

    def goes_to(self, index: int, turn: str, model: str) -> None:
        """From now on the answer is that model's."""
        self._model = model

    def failure(self, failed: Failed) -> ApiError:
        """What a failed turn is to the client: which text it was, a worker knows by its place in its turn only."""
        if (found := _TOO_LONG.search(failed.detail)) is not None:
            message = f"{self._param}: a text has {found[0]}: it is too large"
            facts = {"n_prompt_tokens": int(found[1]), "n_ctx": int(found[2])}
            return ApiError(400, message, param=self._param, code="context_length_exceeded", facts=facts)
        error = error_of(failed, {})
        if _AT.search(error.message) is None:
            return error
        return ApiError(error.status, _AT.sub(self._param, error.message), param=self._param, code=error.code)

    def whole(self, answers: Sequence[Finished]) -> Any:
        """The vectors in the dialect's words. Raises ApiError."""
        dones = [one.done for one in answers]
        try:
            return self._tell(self._model, joined(map(vectors_of, dones)), dones)
        except InvalidMessage as error:
            raise ApiError(502, str(error), kind="server_error", code="no_vectors") from None
