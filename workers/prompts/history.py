"""Messages → known tokens, remembered and never re-tokenised.

An answer's text need not tokenise back into the tokens that were generated, and one mismatch would cost the whole
prefix. So a conversation's tokens are kept, and its next turn adds only those of the text that follows the answer.
They are found by what was said, not by the conversation's name: chats of one name do not forget each other.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass, replace

from broker.conversations import answered, chain, name_of, next_name
from broker.messages import Earlier, Message, Remembered, ToolCall, Turn, Written
from workers.calls.syntax import Thoughts
from workers.engine.protocol import Vocabulary
from workers.engine.slots import common_prefix
from workers.kv.index import TOKEN_BYTES, packed
from workers.prompts.begun import begun, rendered
from workers.prompts.besides import given_besides, without_thoughts
from workers.prompts.boundaries import boundaries
from workers.prompts.known import Known, Told, goes_on
from workers.prompts.off_loop import MAX_READ, off_loop, size_of
from workers.prompts.raw import raw_prompt
from workers.prompts.rendered import Rendered, Renderer
from workers.prompts.spoken import as_spoken, ends_with


@dataclass(frozen=True)
class Prompt:
    """A turn's prompt as text and tokens."""

    rendered: Rendered
    tokens: list[int]
    num_known: int = 0
    """Of these, those of the conversation's last turn here: likely still in the cache."""
    num_told_anew: int = 0
    """Of its messages, those that the template told as it likes. Answers behind them are in it as they were generated,
    with the white space around them."""
    boundaries: tuple[int, ...] = ()
    """Positions in the tokens that other conversations, or this one, come back to; empty where nobody asks for them."""


@dataclass(frozen=True)
class Recorded:
    """An answer as it is noted."""

    known: Known
    said: str
    """By what it is found."""
    before: tuple[str, ...]
    """What the conversation was by then. The last answer but this one is not among it, and kept for one turn more:
    another chat may say the same so far, or this one go back."""


class Shortened:
    """A conversation without its oldest turns: what is said at its beginning by `system` stays, and so does the last
    turn."""

    def __init__(self, messages: tuple[Message, ...]) -> None:
        self._messages = messages
        is_said = (index for index, one in enumerate(messages) if one.role != "system")
        self._begin = next(is_said, len(messages))
        self._users = [index for index in range(self._begin + 1, len(messages)) if messages[index].role == "user"]

    @property
    def num_turns(self) -> int:
        """How many can be left out."""
        return len(self._users)

    def without(self, num_turns: int) -> tuple[Message, ...]:
        """What is left without so many of them, 1 or more."""
        return (*self._messages[: self._begin], *self._messages[self._users[num_turns - 1] :])


def _num_told_anew(remembered: Remembered, num_messages: int) -> int:
    """Of its first messages; an older release's has only the last answer as it was generated."""
    return num_messages - 1 if remembered.num_told_anew is None else remembered.num_told_anew


class History:
    """The tokens of the conversations that this worker answered lately."""

    def __init__(
        self,
        renderer: Renderer,
        vocabulary: Vocabulary,
        *,
        thoughts: Thoughts | None = None,
        max_tokens: int = 2_000_000,
        raw_as_text: bool = False,
        by_text: bool = False,
        has_boundaries: bool = False,
    ) -> None:
        """With `by_text` a prompt is made of what the messages say and of nothing else: then the same turn is the same
        tokens with every worker, also one that remembers nothing. With `has_boundaries` a chat's prompts say where
        conversations part in them. `thoughts` are the marks around the model's.

        With `raw_as_text` no control token is recognised in a raw prompt. By default all are, as it is the client's
        own from end to end; but none in one that is scored: what is compared there are texts."""
        self._renderer = renderer
        self._vocabulary = vocabulary
        self._thoughts = thoughts
        self._raw_as_text = raw_as_text
        self._by_text = by_text
        self._has_boundaries = has_boundaries
        self._max_tokens = max_tokens
        self._num_tokens = 0
        self._known: OrderedDict[tuple[str, str], Known] = OrderedDict()
        """By client and what was said."""
        self._latest: dict[tuple[str, str], str] = {}
        """By client and conversation, what was said in it last."""

    async def prompt(self, client: str, turn: Turn) -> Prompt:
        """The tokens of a turn's prompt; raises TurnRejected."""
        size = size_of(turn)
        if turn.raw:
            return await off_loop(size, lambda: self._raw(turn))
        gone_on_from = await off_loop(size, lambda: self._gone_on_from(client, turn), at_most=MAX_READ)
        if gone_on_from is None:
            return await self._told_anew(turn)
        known, told = gone_on_from
        if self._by_text:
            prompt = await self._told_anew(turn)
            return replace(prompt, num_known=common_prefix(prompt.tokens, known.tokens))
        answer = len(told.messages) - 1
        exact = [index for index in range(told.num_told_anew, answer + 1) if told.messages[index].role == "assistant"]
        whole = await rendered(self._renderer, turn, exact, self._thoughts)
        following = await off_loop(len(whole.text), lambda: self._following(turn, known, told, whole))
        return following if following is not None else await self._told_anew(turn)

    def _raw(self, turn: Turn) -> Prompt:
        is_text = turn.kind == "score" or self._raw_as_text
        prompt = Prompt(*raw_prompt(self._vocabulary, turn, as_text=is_text))
        if not prompt.tokens and turn.kind == "score" and self._vocabulary.begin is not None:
            # Nothing to score behind, of a model that begins with nothing: the token that stands for a beginning.
            return Prompt(prompt.rendered, [self._vocabulary.begin])
        return prompt

    def _gone_on_from(self, client: str, turn: Turn) -> tuple[Known, Told] | None:
        """The last answer that was given here of those in the turn's history, where its prompt begins as that one did.
        From any thread."""
        names = (name for _, name in reversed(chain(turn.messages)))
        known = next((known for name in names if (known := self._known.get((client, name))) is not None), None)
        told = known.told if known is not None else None
        return (known, told) if known is not None and told is not None and goes_on(turn, told) else None

    def _following(self, turn: Turn, known: Known, told: Told, whole: Rendered) -> Prompt | None:
        """The prompt behind the tokens of the answer that it goes on from; None where the template tells that
        otherwise."""
        found = known.as_written(told, whole) or known.as_said(told, whole)
        if found is None:
            return None
        tokens, rest = found
        tail = self._vocabulary.tokenize(whole.text[rest:], template_spans=whole.template_spans(rest), add_bos=False)
        prompt = Prompt(whole, [*tokens, *tail], len(tokens), told.num_told_anew)
        return self._with_boundaries(turn, prompt, known_text=rest)

    async def _told_anew(self, turn: Turn) -> Prompt:
        whole = await rendered(self._renderer, turn, thoughts=self._thoughts)
        return await off_loop(len(whole.text), lambda: self._tokenized(turn, whole))

    def _tokenized(self, turn: Turn, whole: Rendered) -> Prompt:
        tokens = self._vocabulary.tokenize(whole.text, template_spans=whole.template_spans(), add_bos=True)
        # What is begun goes on, and is in the next prompt as it is in this one.
        num_told = len(turn.messages) - bool(begun(turn))
        return self._with_boundaries(turn, Prompt(whole, tokens, num_told_anew=num_told))

    def _with_boundaries(self, turn: Turn, prompt: Prompt, known_text: int = 0) -> Prompt:
        if not self._has_boundaries:
            return prompt
        found = boundaries(
            self._vocabulary,
            prompt.rendered,
            turn.messages,
            prompt.tokens,
            num_known=prompt.num_known,
            known_text=known_text,
        )
        return replace(prompt, boundaries=found)

    def tokens_of(self, text: str) -> list[int]:
        """Of a text by itself, in which no control token is recognised."""
        return self._vocabulary.tokenize(text, template_spans=[], add_bos=False)

    def continuation(self, prompt: Prompt, text: str) -> tuple[list[int], int]:
        """The tokens of prompt and answer `text`, tokenised as one, and at which one the answer begins."""
        rendered = prompt.rendered
        tokens = self._vocabulary.tokenize(rendered.text + text, template_spans=rendered.template_spans(), add_bos=True)
        if not rendered.text and tokens[:1] != prompt.tokens:
            tokens = [*prompt.tokens, *tokens]
        shared = 0
        for one, other in zip(prompt.tokens, tokens, strict=False):
            if one != other:
                break
            shared += 1
        return tokens, min(shared, len(tokens) - 1)

    def begun_tokens(self, turn: Turn) -> tuple[int, ...]:
        """Those that spell what the turn's answer goes on behind."""
        text = begun(turn)
        return tuple(self._vocabulary.tokenize(text, template_spans=[], add_bos=False)) if text else ()

    def recorded(
        self,
        turn: Turn,
        prompt: Prompt,
        tokens: list[int],
        text: str,
        calls: tuple[ToolCall, ...] = (),
        written: str | None = None,
    ) -> Recorded:
        """An answer as it is noted: `tokens` are the prompt's and the answer's, `text` and `calls` what the client was
        sent, `written` what the answer's tokens spell, marks and thoughts too, where that is more than its text. For
        any thread."""
        num_prompt, before = len(prompt.tokens), begun(turn)
        as_written = None if written is None else Written(before + written, packed(tokens[num_prompt:]), num_prompt)
        tokens = tokens[:num_prompt] + as_spoken(self._vocabulary, tokens[num_prompt:], text)
        told = Told(
            tuple(map(without_thoughts, answered(turn.messages, text, calls))),
            prompt.rendered.text.removesuffix(before),
            given_besides(turn),
            prompt.num_told_anew,
            as_written,
        )
        conversation = next_name(turn.conversation, turn.messages, text, calls)
        known = Known.of(told, array("i", tokens).tobytes(), conversation)
        return Recorded(known, name_of(told.messages), tuple(name for _, name in chain(turn.messages)[:-1]))

    def remember(
        self,
        client: str,
        turn: Turn,
        prompt: Prompt,
        tokens: list[int],
        text: str,
        calls: tuple[ToolCall, ...] = (),
        written: str | None = None,
    ) -> str:
        """`recorded`, and `note` of it."""
        return self.note(client, self.recorded(turn, prompt, tokens, text, calls, written))

    def note(self, client: str, recorded: Recorded) -> str:
        """Remembers an answer; the name of the conversation that goes on from it."""
        for name in recorded.before:
            self._forget((client, name))
        self._keep(client, recorded.known, recorded.said)
        return recorded.known.conversation

    def is_current(self, client: str, turn: Turn) -> bool:
        """Whether the last answer before this turn was given here. From any thread."""
        answers = chain(turn.messages)
        return bool(answers) and (client, answers[-1][1]) in self._known

    def recall(self, client: str, conversation: str) -> Remembered | None:
        """What is remembered, for another worker or another day. From any thread."""
        known = self._known.get((client, self._latest.get((client, conversation), "")))
        if known is None:
            return None
        told, tokens = known.told, known.packed_tokens
        before = self._before(client, told, tokens)
        return Remembered(
            told.messages, told.prompt_text, tokens, told.given_besides, told.num_told_anew, before, told.written
        )

    def _before(self, client: str, told: Told, tokens: bytes) -> Earlier | None:
        """The answer before the last one, where it is known and the last one's prompt was made of it."""
        names = [name for _, name in chain(told.messages)]
        known = self._known.get((client, names[-2])) if len(names) > 1 else None
        if known is None or not tokens.startswith(known.packed_tokens):
            return None
        earlier = known.told
        is_its_beginning = told.prompt_text.startswith(earlier.prompt_text)
        if not is_its_beginning or earlier.given_besides != told.given_besides:
            return None
        if earlier.messages != told.messages[: len(earlier.messages)]:
            return None
        return Earlier(len(earlier.messages), len(earlier.prompt_text), known.num_tokens)

    def adopt(self, client: str, conversation: str, remembered: Remembered) -> None:
        """Takes over what another worker, or process, remembered, unless more is known here."""
        known = self._known.get((client, self._latest.get((client, conversation), "")))
        num_known = known.num_messages if known is not None else 0
        if len(remembered.tokens) % TOKEN_BYTES == 0 and num_known < len(remembered.messages):
            told = Told(
                remembered.messages,
                remembered.prompt_text,
                remembered.given_besides,
                _num_told_anew(remembered, len(remembered.messages)),
                remembered.written if self._is_written(remembered) else None,
            )
            if (before := remembered.before) is not None:
                earlier = Told(
                    told.messages[: before.num_messages],
                    told.prompt_text[: before.num_characters],
                    told.given_besides,
                    _num_told_anew(remembered, before.num_messages),
                )
                self._adopt(client, conversation, earlier, remembered.tokens[: before.num_tokens * TOKEN_BYTES])
            self._adopt(client, conversation, told, remembered.tokens)

    def _has_all(self, numbers: array[int]) -> bool:
        """Whether all are tokens: llama.cpp aborts the process for any other."""
        return bool(numbers) and min(numbers) >= 0 and max(numbers) < self._vocabulary.num_tokens

    def _is_written(self, remembered: Remembered) -> bool:
        written = remembered.written
        if written is None or len(written.tokens) % TOKEN_BYTES:
            return False
        is_within = written.num_before * TOKEN_BYTES <= len(remembered.tokens)
        return is_within and self._has_all(array("i", written.tokens))

    def _adopt(self, client: str, conversation: str, told: Told, tokens: bytes) -> None:
        numbers = array("i", tokens)
        # What does not end with its answer is an older release's, which remembered stop texts too.
        if told.messages and self._has_all(numbers) and ends_with(self._vocabulary, numbers, told.messages[-1].content):
            self._keep(client, Known.of(told, tokens, conversation), name_of(told.messages))

    def _keep(self, client: str, known: Known, said: str) -> None:
        self._forget((client, said))
        self._known[client, said] = known
        self._latest[client, known.conversation] = said
        self._num_tokens += known.num_kept
        while self._num_tokens > self._max_tokens and len(self._known) > 1:
            self._forget(next(iter(self._known)))

    def _forget(self, key: tuple[str, str]) -> None:
        if (old := self._known.pop(key, None)) is None:
            return
        self._num_tokens -= old.num_kept
        client, said = key
        if self._latest.get((client, old.conversation)) == said:
            del self._latest[client, old.conversation]
