"""An answer that its client has begun: the last message is an assistant's, and what the model writes goes on behind it.

Its text stands in the prompt as the template tells an answer in history, without what would end it there: so no thought
is opened before it, and the next prompt, whose history has it whole, begins with the same tokens.
"""

from __future__ import annotations

from collections.abc import Collection

from broker.errors import TurnRejected
from broker.messages import Turn
from workers.calls.syntax import Thoughts
from workers.prompts.besides import must_call, offered, variables
from workers.prompts.rendered import Rendered, Renderer


def begun(turn: Turn) -> str:
    """What the turn's answer goes on behind; empty where it begins anew."""
    last = turn.messages[-1] if turn.messages else None
    return last.content if last is not None and last.role == "assistant" else ""


def is_begun(turn: Turn) -> bool:
    """Whether the answer's text has begun: it goes on as text, no thought comes before it."""
    return bool(begun(turn).strip())


def schema_holds(turn: Turn) -> bool:
    """Whether what has begun is a part of what the turn's grammar is of: that of a JSON schema, which the whole text is
    to follow, and no other."""
    return is_begun(turn) and turn.sampling.json_schema is not None and not must_call(turn)


async def rendered(
    renderer: Renderer, turn: Turn, exact: Collection[int] = (), thoughts: Thoughts | None = None
) -> Rendered:
    """The turn's prompt, up to where its answer begins or goes on. Raises TurnRejected."""
    messages, last = turn.messages, len(turn.messages) - 1
    kwargs, tools = variables(turn), offered(turn)
    if messages[last].role != "assistant":
        return await renderer.render(messages, exact, kwargs, tools)
    before = await _as_history(renderer, turn, exact) if is_begun(turn) else None
    if before is None:
        # Of a template that takes no such message, or tells it otherwise: what it puts before an answer.
        before = await renderer.render(messages[:last], [one for one in exact if one != last], kwargs, tools)
    text = messages[last].content
    head = before.text
    if is_begun(turn) and thoughts is not None and thoughts.are_open(head):
        head += thoughts.end
    place = (last, len(head), len(head) + len(text))
    return Rendered(head + text, [*before.contents, place] if text else before.contents)


async def _as_history(renderer: Renderer, turn: Turn, exact: Collection[int]) -> Rendered | None:
    """What the template tells before the last message's text, where it tells that as it stands."""
    messages, last = turn.messages, len(turn.messages) - 1
    try:
        whole = await renderer.render(messages, {*exact, last}, variables(turn), offered(turn))
    except TurnRejected as error:
        if error.retryable:
            raise
        return None
    said = messages[last].content
    starts = [at for index, at, end in whole.contents if index == last and whole.text[at:end] == said]
    return whole.until(starts[-1]) if starts else None
