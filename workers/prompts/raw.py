"""Prompts without a template: a text as it stands, tokens and texts in a row, or what stands around a gap."""

from __future__ import annotations

from collections.abc import Sequence

from broker.errors import TurnRejected
from broker.messages import Turn
from workers.engine.protocol import Vocabulary
from workers.prompts.rendered import Rendered


def raw_prompt(vocabulary: Vocabulary, turn: Turn, *, as_text: bool) -> tuple[Rendered, list[int]]:
    """A raw turn's prompt and its tokens; with `as_text` no control token is recognised in its texts. Raises
    TurnRejected."""
    as_text = as_text or turn.as_text
    if turn.suffix is not None:
        tokens = _around_a_gap(vocabulary, turn, turn.suffix)
        return Rendered(b"".join(map(vocabulary.spelled, tokens)).decode("utf-8", "replace"), []), tokens
    if not turn.prompt:
        text = turn.messages[0].content
        rendered = Rendered(text, [(0, 0, len(text))] if as_text else [])
        return rendered, vocabulary.tokenize(text, template_spans=rendered.template_spans(), add_bos=not turn.bare)
    tokens = _mixed(vocabulary, turn.prompt, as_text=as_text, add_bos=not turn.bare)
    parts = (part.encode() if isinstance(part, str) else vocabulary.spelled(part) for part in turn.prompt)
    return Rendered(b"".join(parts).decode("utf-8", "replace"), []), tokens


def _mixed(vocabulary: Vocabulary, parts: Sequence[int | str], *, as_text: bool, add_bos: bool) -> list[int]:
    found: list[int] = []
    for index, part in enumerate(parts):
        if isinstance(part, str):
            spans = [] if as_text else [(0, len(part))]
            found += vocabulary.tokenize(part, template_spans=spans, add_bos=add_bos and index == 0)
        elif part < vocabulary.num_tokens:
            found.append(part)
        else:
            detail = f"prompt[{index}]: {part} is no token of the model's {vocabulary.num_tokens}"
            raise TurnRejected("invalid_message", detail)
    return found


def _around_a_gap(vocabulary: Vocabulary, turn: Turn, suffix: str) -> list[int]:
    """By the model's own marks: other files first, as Qwen2.5-Coder's report has them (arXiv 2409.12186), then what
    comes before the gap and what comes behind it."""
    marks = vocabulary.infill
    if marks is None:
        raise TurnRejected("invalid_message", "suffix: the model's vocabulary has no marks to fill in the middle by")

    def text(part: str) -> list[int]:
        return vocabulary.tokenize(part, template_spans=[], add_bos=False) if part else []

    found = vocabulary.tokenize("", template_spans=[], add_bos=True)
    if turn.files and marks.repository is not None:
        found += [marks.repository, *text("project\n")]
    for name, content in turn.files:
        found += [marks.file, *text(f"{name}\n{content}")] if marks.file is not None else text(f"{name}\n{content}\n\n")
    if turn.files and marks.file is not None:
        found += [marks.file, *text("file\n")]
    before = turn.prompt or (turn.messages[0].content,)
    found += [marks.prefix, *_mixed(vocabulary, before, as_text=True, add_bos=False)]
    return [*found, marks.suffix, *text(suffix), marks.middle]
