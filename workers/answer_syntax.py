"""In which syntax a model answers: chosen by its chat template, or by setting, and what of its vocabulary it takes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Protocol

from broker.errors import TurnRejected
from broker.messages import Message, Tool, ToolCall
from workers.calls import SYNTAXES, Syntax, syntax_of
from workers.calls.choosing import DEFAULT, told
from workers.calls.deriving import ANSWER, ARGUMENTS, PROBE, Written
from workers.engine.protocol import Vocabulary
from workers.prompts.rendered import Renderer
from workers.prompts.tools_form import ToolsForm
from workers.turns.answer_reader import ALL_TEXT, AnswerReaders

_CHAT = (
    Message("system", "Be brief."),
    Message("user", "Question?"),
    Message("assistant", "Answer."),
    Message("user", "Next?"),
)

_CALLING: tuple[ToolsForm, ...] = ("object", "text")
"""Of templates that write calls."""

log = logging.getLogger(__name__)


class SpelledVocabulary(Vocabulary, Protocol):
    """A vocabulary that knows its control tokens. `LlamaVocabulary` is one."""

    @property
    def control_tokens(self) -> dict[str, int]:
        """Spelling → token."""
        ...


class TemplatedModel(Protocol):
    """A model and its template. `LlamaModel` is one."""

    @property
    def vocabulary(self) -> SpelledVocabulary:
        """Its own."""
        ...

    @property
    def chat_template(self) -> str | None:
        """Jinja; None where it has none."""
        ...


class TriedRenderer(Renderer, Protocol):
    """A renderer that has tried its template. `TemplateRenderer` is one."""

    @property
    def tools_form(self) -> ToolsForm:
        """How the template takes tools."""
        ...


@dataclass(frozen=True)
class Chosen:
    """A model's syntax, and what chose it, for people."""

    syntax: Syntax
    why: str


async def choose(template: str, forced: str | None, renderer: TriedRenderer) -> Chosen:
    """The syntax of a template's model: forced, of our own form for a template without tools, or the template's."""
    if forced:
        return Chosen(syntax_of(template, forced), "as --tool-syntax says")
    if renderer.tools_form == "generic":  # it is told of tools by us, and how to call them
        own = SYNTAXES[DEFAULT].with_thoughts(syntax_of(template).thoughts)
        return Chosen(own, "as the model is told, its template having no tools")
    if told(template):
        return Chosen(syntax_of(template), "by the template's text")
    written = await _seen(renderer) if renderer.tools_form in _CALLING else None
    found = syntax_of(template, "", written)
    is_derived = written is not None and found.name not in SYNTAXES
    return Chosen(found, "by what the template writes in a trial" if is_derived else "as most models were taught")


async def answer_readers(
    model: TemplatedModel, forced: str | None, renderer: TriedRenderer, *, holds: bool = False
) -> AnswerReaders:
    """The readers of a model's answers; of a model without a template all is text, unless a syntax is `forced`.
    `holds`: a grammar holds calls, where it can."""
    template, vocabulary = model.chat_template, model.vocabulary
    if template is None and not forced:
        return ALL_TEXT
    chosen = await choose(template or "", forced, renderer)
    syntax = chosen.syntax
    # A control token of the template's that no chat needs is of calls or thoughts; of a syntax that is around the whole
    # answer each one is.
    of_chats = "" if syntax.whole is not None else await _chat(renderer)
    marks = _written(syntax)
    shown = {
        token: spelling.encode()
        for spelling, token in vocabulary.control_tokens.items()
        if (spelling in marks or (spelling in (template or "") and spelling not in of_chats))
        and not vocabulary.is_end(token)
        and not vocabulary.piece(token)
    }
    thoughts = syntax.thoughts.begin if syntax.thoughts else "none"
    log.info("answers tool_syntax=%s (%s) thoughts=%s", syntax.name, chosen.why, thoughts)
    return AnswerReaders(syntax, shown, vocabulary.piece, holds)


def _written(syntax: Syntax) -> str:
    """All that the syntax is written with, a line each."""
    found = [*syntax.starts, *syntax.maybe, *syntax.ignored]
    if (thoughts := syntax.thoughts) is not None:
        found += [thoughts.begin, thoughts.end, *thoughts.other_ends, *thoughts.around]
    if (form := syntax.form) is not None:
        found += [form.begin, form.before_name, form.before_arguments, form.after, form.end, form.between or ""]
    return "\n".join(found)


async def _seen(renderer: Renderer) -> Written | None:
    """What the template writes of a tool, its call and its result; None where it refuses."""
    tools = (Tool(PROBE.name, "A trial", dict(PROBE.parameters)),)
    question, call = _CHAT[1], ToolCall("call00001", PROBE.name, json.dumps(ARGUMENTS))
    called = (question, Message("assistant", "", (call,)), Message("tool", "Result.", tool_call_id=call.id))
    answered = (question, Message("assistant", ANSWER), _CHAT[-1])
    try:
        texts = [(await renderer.render(chat, tools=tools)).text for chat in ((question,), called, answered)]
    except TurnRejected as error:
        log.debug("template in a trial: %s", error.detail)
        return None
    return Written(*texts)


async def _chat(renderer: Renderer) -> str:
    """What the template writes in a chat without tools and thoughts, with a system message or without."""
    for messages in (_CHAT, _CHAT[1:]):
        try:
            return (await renderer.render(messages)).text
        except TurnRejected as error:
            log.debug("template in a trial: %s", error.detail)
    return ""
