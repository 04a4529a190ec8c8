"""What a worker of a model's files would take and could do, by their headers and the settings: without llama.cpp, and
before anything was loaded. What the worker tells once it is there counts more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.discovery import CHAT, EMBED, INFILL, OF_RELEASE, RAW, SCORE, THINKING, TOOLS
from broker.messages.boards import NO_FILE, ModelFile
from workers.architectures import KNOWN
from workers.boards.settings import BoardSettings
from workers.calls import syntax_of
from workers.gguf_header import Header
from workers.infill_marks import has_infill_marks
from workers.machine.embedding_plan import embedding_plan
from workers.machine.memory import MemoryPlan
from workers.machine.model_plan import plan_of
from workers.model_facts import TEMPLATE_KEY, described
from workers.model_file import embeds, header, served_parts
from workers.prompts.chat_template import catalogued, of_model

UNBOUNDED = 1 << 62


@dataclass(frozen=True)
class FileFacts:
    """Of one model."""

    plan: MemoryPlan
    """Without anything for conversations at rest."""
    num_ctx: int = 0
    """Of the context; 0 where that is not known, …"""
    num_slots: int = 0
    """… and so many turns at once."""
    can: tuple[str, ...] | None = None
    """As discovery has it; None where the file does not tell whether its model chats."""
    file: ModelFile = NO_FILE


def facts_of_files(paths: Sequence[Path], model: str, settings: BoardSettings) -> FileFacts:
    """Of the model of that name, of which `paths` are the files. Raises ModelFileError."""
    parts = served_parts(paths[0], KNOWN)
    if embeds(paths[0]):
        of_vectors, sizes = embedding_plan(parts, settings, UNBOUNDED)
        return FileFacts(of_vectors, sizes.max_text_tokens, settings.num_slots, (EMBED,), described(parts))
    plan, num_ctx = plan_of(parts, msgspec.structs.replace(settings, park_bytes=0), UNBOUNDED)
    can = _abilities(parts[0], header(parts[0]), model, settings)
    return FileFacts(plan, num_ctx, plan.num_slots, can, described(parts))


def _abilities(first: Path, head: Header, model: str, settings: BoardSettings) -> tuple[str, ...] | None:
    """By the template that its worker would take. A header does not tell whether the vocabulary has ChatML's tokens."""
    of_file = str(head.values.get(TEMPLATE_KEY, ""))
    template = of_model(settings.chat_template, of_file, "" if of_file else catalogued(model), lambda _: False)
    if template.is_plain:
        return None
    has_thoughts = syntax_of(template.text, settings.tool_syntax or "").thoughts is not None
    of_model_file = ((THINKING, has_thoughts), (INFILL, has_infill_marks(first, head)))
    return (CHAT, RAW, SCORE, TOOLS, *OF_RELEASE, *(ability for ability, is_there in of_model_file if is_there))
