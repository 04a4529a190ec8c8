"""How a model takes tools and says calls and thoughts, by its chat template alone. For `turnpike models show`."""

from __future__ import annotations

from msgspec import Struct

from workers.answer_syntax import choose
from workers.calls.openings import can_hold
from workers.prompts.renderer import TOOLS_TAKEN, TemplateRenderer


class ToolFacts(Struct, frozen=True):
    """What a worker would do with the template."""

    taken: str
    """How tools get into a prompt."""
    syntax: str
    """In which calls are read, by its name."""
    chosen: str
    """Why that one."""
    are_held: bool
    """Whether a grammar holds calls in it."""
    thoughts: tuple[str, str] | None
    """The marks around them; None for a model that is not known to think."""


async def tool_facts(template: str) -> ToolFacts:
    """Of a chat template, tried in a child process as a worker tries it at its start."""
    renderer = TemplateRenderer(template, bos_token="", eos_token="")
    await renderer.start()
    try:
        found = await choose(template, None, renderer)
        thoughts = found.syntax.thoughts
        return ToolFacts(
            TOOLS_TAKEN[renderer.tools_form],
            found.syntax.name,
            found.why,
            can_hold(found.syntax),
            (thoughts.begin, thoughts.end) if thoughts is not None else None,
        )
    finally:
        await renderer.close()
