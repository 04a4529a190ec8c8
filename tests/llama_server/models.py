"""What stands in for the models of llama-server's tests, and what it is started with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.llama_server.serving import Behind, Door
from tests.llama_server.standin import split_stories, stories
from tests.real import GEMMA, QWEN, model_file

GIVEN = "TP_LLAMA_SERVER_MODELS"
"""A folder where the models that the tests ask for may lie, by the names of their repositories."""
LEAST_CTX = 256
"""Of a worker."""
MINILM = "all-minilm-l6-v2"
STORIES = "ggml-org/test-model-stories260K"
TINY = (STORIES, f"{STORIES}-infill", "ggml-org/models", "ggml-org/stories15M_MOE")
"""Models of a few megabytes that tell stories, as the stand-in does."""


class NoModel(Exception):
    """Nothing here can stand in for the model; the message says so."""


@dataclass(frozen=True)
class Model:
    """A file, and whether it is the very model that was asked for."""

    path: Path
    is_itself: bool


def model_of(repo: str | None, file: str | None) -> Model:
    """Raises NoModel."""
    folder = os.environ.get(GIVEN)
    if folder and repo:
        place = Path(folder, repo.partition(":")[0])
        for path in [place / file] if file else sorted(place.glob("*.gguf")):
            if path.is_file():
                return Model(path, True)
    if "reranker" in (file or ""):
        raise NoModel(f"no model here ranks as {file} does")
    if repo is None or (repo in TINY and "bert" not in (file or "")):
        return Model(split_stories() if "-of-" in (file or "") else stories(), False)
    name = MINILM if "bert" in (file or "") else GEMMA if "tinygemma" in repo else QWEN
    if (found := model_file(name)) is None:
        raise NoModel(f"`make real-models` fetches {name}, which stands in for {repo}")
    return Model(found, False)


def behind(server: Any, folder: Path) -> Behind:
    """The worker for a `ServerProcess`; `folder` takes a template that is none of a file. Raises NoModel."""
    model = model_of(server.model_hf_repo, server.model_hf_file)
    num_slots = server.n_slots or 1
    num_ctx = server.n_ctx or 4096
    if not server.kv_unified:
        num_ctx //= num_slots
    flags = ["--num-ctx", str(max(LEAST_CTX, num_ctx)), "--num-slots", str(num_slots), "--threads", "1"]
    flags += ["--park-bytes", "0"] if server.cache_ram == 0 else []
    if server.n_batch:
        flags += ["--num-ubatch", str(min(max(32, server.n_ubatch or server.n_batch), 512))]
    if server.chat_template_file:
        flags += ["--chat-template", str(Path(server.chat_template_file).resolve())]
    elif server.chat_template:
        flags += ["--chat-template", _template(server.chat_template, folder)]
    elif model.path == stories():  # as llama-server does for a model without one
        flags += ["--chat-template", "chatml"]
    if server.model_draft:
        flags += ["--draft-model", str(stories())]
    alias = (server.model_alias or "model").split(",")[0]
    return Behind(alias, model.path, tuple(flags))


def _template(text: str, folder: Path) -> str:
    """A name stands for itself; anything else is the template."""
    if text.replace("-", "").replace(".", "").isalnum():
        return text
    path = folder / "template.jinja"
    path.write_text(text)
    return str(path)


def door(server: Any) -> Door:
    """The gateway for a `ServerProcess`."""
    flags: list[str] = []
    if server.reasoning in ("on", "off"):
        flags += ["--thinking", server.reasoning]
    for origin in (server.cors_origins or "*").split(","):
        flags += ["--origins", "http://localhost" if origin == "localhost" else origin]
    flags += ["--gateway-host", server.server_host] if "," in server.server_host else []
    flags += ["--without-page"] if server.no_ui else []
    flags += [] if server.server_slots else ["--without-slots"]
    return Door(tuple(flags), server.api_key)
