"""`POST /api/pull`: how far a model is that boards have, in the words of a download. Pure.

Files come to nodes by their operators; a client can order none. A model that is there, loaded or to be loaded by the
first turn, is pulled already; one that is being loaded is told by how much of its file is there.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from broker.messages.boards import LOADING
from broker.model_status import ModelStatus
from producers.gateway.errors import ApiError
from producers.gateway.models import Listed
from producers.gateway.ollama.listing import digest_of
from producers.gateway.ollama.requests import ModelName

MANIFEST = {"status": "pulling manifest"}
ENDING = ({"status": "verifying sha256 digest"}, {"status": "writing manifest"}, {"status": "success"})


class PullRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which model, by either of its fields."""

    model: ModelName = ""
    name: ModelName = ""
    stream: bool | None = None
    username: str | None = None
    password: str | None = None


def is_coming(model: Listed) -> bool:
    """Whether it is being loaded just now."""
    return model.state == LOADING


def progress(model: Listed) -> dict[str, Any]:
    """The line that tells how much is there."""
    digest, total = digest_of(model), model.file_bytes
    found: dict[str, Any] = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": total}
    share = model.status.share if model.status is not None and is_coming(model) else 1.0
    return found if share is None else found | {"completed": round(share * total)}


def broken(status: ModelStatus) -> ApiError:
    """Boards have it, and cannot load it."""
    return ApiError(500, f"{status.model} {status.words()}", kind="server_error", code="model_not_loaded")


def nowhere(name: str) -> ApiError:
    """No node has it."""
    message = (
        f"pull model manifest: file does not exist: no node has {name[:100]!r}, and no client can order it. On a node "
        f"that is to serve it its operator says: turnpike models pull {name[:100]}"
    )
    return ApiError(500, message, param="model", code="no_such_file")
