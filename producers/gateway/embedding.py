"""Texts over HTTP become turns, and their ends vectors: the same for every dialect that has such a path. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from broker.embedding import Vectors, in_parts, joined, vectors_of
from broker.errors import InvalidMessage
from broker.messages import Done, EmbedText, Failed, Sampling
from producers.gateway.dialect import Asked, Finished
from producers.gateway.errors import ApiError
from producers.gateway.failures import error_of
from producers.gateway.whole import WholeWriter

MAX_TEXTS = 2048
"""Of one request, as in OpenAI's API."""
_AT = re.compile(r"texts\[\d+\]")
_TOO_LONG = re.compile(r"(\d+) tokens, and the context holds (\d+)")


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
