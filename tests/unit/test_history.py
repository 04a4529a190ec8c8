from __future__ import annotations

from array import array

import msgspec
import pytest

from broker import codec
from broker.messages import Earlier, Kind, Message, Remembered, ToolCall, Turn
from tests.fakes import FakeRenderer, FakeVocabulary
from workers.prompts.history import History
from workers.prompts.renderer import TemplateRenderer


class Retokenizing(FakeVocabulary):
    """A vocabulary whose tokenizer merges "ab", which a model may well have generated as "a" and "b"."""

    def tokenize(self, text: str, *, template_spans: list[tuple[int, int]], add_bos: bool) -> list[int]:
        return super().tokenize(text.replace("ab", "\u00e6"), template_spans=template_spans, add_bos=add_bos)


class NoBeginning(FakeVocabulary):
    """Of a model that wants nothing before a text, as Qwen's."""

    begin: int | None = 2

    def tokenize(self, text: str, *, template_spans: list[tuple[int, int]], add_bos: bool) -> list[int]:
        return super().tokenize(text, template_spans=template_spans, add_bos=False)


def turn(*contents: str) -> Turn:
    roles = ("user", "assistant")
    messages = tuple(Message(roles[index % 2], content) for index, content in enumerate(contents))  # type: ignore[arg-type]
    return Turn("t", "c", messages)


async def test_an_answers_tokens_are_kept_as_they_were_generated() -> None:
    vocabulary = Retokenizing()
    history = History(FakeRenderer(), vocabulary)
    first = await history.prompt("alice", turn("hi"))
    generated = [ord("a") + 3, ord("b") + 3]
    history.remember("alice", turn("hi"), first, first.tokens + generated, "ab")
    second = await history.prompt("alice", turn("hi", "ab", "more"))
    assert second.tokens[: len(first.tokens) + 2] == first.tokens + generated
    tail = "".join(chr(token - 3) for token in second.tokens[len(first.tokens) + 2 :])
    assert tail == "\nuser: more\nassistant: "


async def test_another_client_or_another_past_is_tokenised_anew() -> None:
    history = History(FakeRenderer(), Retokenizing())
    first = await history.prompt("alice", turn("hi"))
    history.remember("alice", turn("hi"), first, [*first.tokens, 100, 101], "ab")
    for client, messages in (("bob", ("hi", "ab", "x")), ("alice", ("hi", "aXb", "x")), ("alice", ("ho", "ab", "x"))):
        prompt = await history.prompt(client, turn(*messages))
        assert prompt.tokens[len(first.tokens) : len(first.tokens) + 2] != [100, 101]


async def test_by_text_a_prompt_is_the_same_for_whoever_remembers_the_conversation_and_for_whoever_does_not() -> None:
    history, other = (History(FakeRenderer(), Retokenizing(), by_text=True) for _ in range(2))
    first = await history.prompt("alice", turn("hi"))
    history.remember("alice", turn("hi"), first, [*first.tokens, ord("x") + 3, ord("a") + 3, ord("b") + 3], "xab")
    second = turn("hi", "xab", "more")
    prompt = await history.prompt("alice", second)
    assert prompt.tokens == (await other.prompt("alice", second)).tokens
    assert prompt.num_known == len(first.tokens) + 1


TRIMMING = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}assistant: "


async def test_answers_keep_their_white_space_for_as_long_as_they_are_remembered() -> None:
    """Here, and with a worker that takes the conversation over in its middle; what was told anew once stays so."""
    renderer = TemplateRenderer(TRIMMING, bos_token="", eos_token="")
    try:
        history, other = (History(renderer, Retokenizing()) for _ in range(2))
        said: list[str] = ["one", " told before \n"]
        tokens: list[int] = []
        for number in range(5):
            said.append("more")
            prompt = await history.prompt("alice", turn(*said))
            assert prompt.tokens[: len(tokens)] == tokens
            assert ": told before\n" in prompt.rendered.text
            tokens = [*prompt.tokens, *[ord(letter) + 3 for letter in " ab\n\n"]]
            name = history.remember("alice", turn(*said), prompt, tokens, " ab\n\n")
            said.append(" ab\n\n")
            if number == 2:
                remembered = history.recall("alice", name)
                assert remembered is not None
                other.adopt("alice", name, codec.decode(codec.encode(remembered), Remembered))
                history = other
    finally:
        await renderer.close()


@pytest.mark.parametrize("token", [-1, 1 << 21, 2**31 - 1])
@pytest.mark.parametrize("at", [0, -1])
async def test_tokens_that_the_vocabulary_does_not_have_are_taken_over_from_nobody(token: int, at: int) -> None:
    """llama.cpp aborts the process for them, and a checksum is whoever sends them's."""
    history, other = (History(FakeRenderer(), FakeVocabulary()) for _ in range(2))
    first = await history.prompt("alice", turn("hi"))
    name = history.remember("alice", turn("hi"), first, [*first.tokens, ord("x") + 3], "x")
    remembered = history.recall("alice", name)
    assert remembered is not None
    tokens = array("i", remembered.tokens)
    tokens[at] = token
    other.adopt("alice", name, msgspec.structs.replace(remembered, tokens=tokens.tobytes()))
    assert not other.is_current("alice", turn("hi", "x", "more"))
    other.adopt("alice", name, remembered)
    assert other.is_current("alice", turn("hi", "x", "more"))


async def test_an_answer_is_the_last_one_however_many_results_of_its_calls_follow() -> None:
    history = History(FakeRenderer(), FakeVocabulary())
    calls = (ToolCall("a", "f", "{}"), ToolCall("b", "f", "{}"))
    prompt = await history.prompt("alice", turn("hi"))
    history.remember("alice", turn("hi"), prompt, [*prompt.tokens, 70], "", calls)
    results = tuple(Message("tool", "done", tool_call_id=call.id) for call in calls)
    asked = Turn("t", "c", (Message("user", "hi"), Message("assistant", "", calls), *results))
    assert history.is_current("alice", asked)
    assert not history.is_current("bob", asked)
    later = (*asked.messages, Message("assistant", "from elsewhere"), Message("user", "more"))
    assert not history.is_current("alice", Turn("t", "c", later))


async def test_calls_that_come_back_with_other_ids_are_the_ones_that_were_answered() -> None:
    """Ollama's clients keep none; a template that writes none is as it was."""
    history = History(FakeRenderer(), FakeVocabulary())
    prompt = await history.prompt("alice", turn("hi"))
    tokens = [*prompt.tokens, 70, 71]
    history.remember("alice", turn("hi"), prompt, tokens, "CD", (ToolCall("a1b2c3d4e", "f", "{}"),))
    said = (Message("assistant", "CD", (ToolCall("call00000", "f", "{}"),)), Message("tool", "on", (), "call00000"))
    later = await history.prompt("alice", Turn("t", "c", (Message("user", "hi"), *said)))
    assert later.num_known == len(tokens)


async def test_old_conversations_are_forgotten_beyond_the_cap() -> None:
    history = History(FakeRenderer(), Retokenizing(), max_tokens=100)
    prompt = await history.prompt("alice", turn("hi"))
    history.remember("alice", turn("hi"), prompt, [*prompt.tokens, 100, 101], "ab")
    other = Turn("u", "other", (Message("user", "ho"),))
    long = await history.prompt("alice", other)
    history.remember("alice", other, long, [*long.tokens, *[ord("x") + 3] * 90], "x" * 90)
    again = await history.prompt("alice", turn("hi", "ab", "more"))
    assert again.tokens[len(prompt.tokens) : len(prompt.tokens) + 2] != [100, 101]


async def test_a_continuation_begins_where_the_prompt_ends() -> None:
    history = History(FakeRenderer(), FakeVocabulary())
    prompt = await history.prompt("alice", turn("hi"))
    tokens, begin = history.continuation(prompt, "yes")
    assert begin == len(prompt.tokens)
    assert tokens == prompt.tokens + [ord(c) + 3 for c in "yes"]


async def test_what_is_scored_behind_nothing_follows_the_token_of_a_beginning() -> None:
    vocabulary = NoBeginning()
    history = History(FakeRenderer(), vocabulary)
    nothing = Turn("t", "c", (Message("user", ""),), kind="score", raw=True, continuations=("yes",))
    prompt = await history.prompt("alice", nothing)
    assert prompt.tokens == [vocabulary.begin]
    assert history.continuation(prompt, "yes") == ([2, *(ord(c) + 3 for c in "yes")], 1)
    assert history.continuation(prompt, "") == ([2], 0)
    asked = Turn("t", "c", (Message("user", ""),), raw=True)
    assert (await history.prompt("alice", asked)).tokens == []


class Listening(FakeVocabulary):
    """Keeps where control tokens were to be recognised."""

    def __init__(self) -> None:
        self.spans: list[list[tuple[int, int]]] = []

    def tokenize(self, text: str, *, template_spans: list[tuple[int, int]], add_bos: bool) -> list[int]:
        self.spans.append([span for span in template_spans if span[0] < span[1]])
        return super().tokenize(text, template_spans=template_spans, add_bos=add_bos)


@pytest.mark.parametrize(
    ("kind", "raw_as_text", "spans"),
    [("generate", False, [(0, 10)]), ("generate", True, []), ("score", False, []), ("score", True, [])],
)
async def test_a_raw_prompts_control_tokens_are_recognised_but_where_it_is_scored_or_the_setting_is_against_it(
    kind: Kind, raw_as_text: bool, spans: list[tuple[int, int]]
) -> None:
    vocabulary = Listening()
    history = History(FakeRenderer(), vocabulary, raw_as_text=raw_as_text)
    continuations = ("<|im_end|>",) if kind == "score" else ()
    asked = Turn("t", "c", (Message("user", "<|im_end|>"),), kind=kind, raw=True, continuations=continuations)
    prompt = await history.prompt("alice", asked)
    for text in continuations:
        history.continuation(prompt, text)
    assert vocabulary.spans == [spans] * (1 + len(continuations))


async def answered(history: History, asked: Turn, text: str) -> None:
    prompt = await history.prompt("alice", asked)
    history.remember("alice", asked, prompt, [*prompt.tokens, *(ord(letter) + 3 for letter in text)], text)


async def test_who_takes_a_conversation_over_asks_again_and_edits_with_the_tokens_that_it_had() -> None:
    here, there = (History(FakeRenderer(), Retokenizing()) for _ in range(2))
    await answered(here, turn("hi"), "ab")
    await answered(here, turn("hi", "ab", "more"), "cab")
    told = here.recall("alice", "c")
    assert told is not None
    there.adopt("alice", "c", told)
    for contents in (("more",), ("other",), ("more", "cab", "again")):
        asked = turn("hi", "ab", *contents)
        prompt = await there.prompt("alice", asked)
        assert prompt == await here.prompt("alice", asked)
        assert prompt.num_known > 0


@pytest.mark.parametrize(("num_messages", "num_characters", "num_tokens"), [(0, 0, 0), (9, 9999, 9999), (2, 3, 4)])
async def test_what_a_peer_says_wrongly_of_an_earlier_answer_is_not_believed(
    num_messages: int, num_characters: int, num_tokens: int
) -> None:
    here, there = (History(FakeRenderer(), Retokenizing()) for _ in range(2))
    await answered(here, turn("hi"), "ab")
    await answered(here, turn("hi", "ab", "more"), "cab")
    told = here.recall("alice", "c")
    assert told is not None
    there.adopt("alice", "c", msgspec.structs.replace(told, before=Earlier(num_messages, num_characters, num_tokens)))
    asked = turn("hi", "ab", "other")
    assert await there.prompt("alice", asked) == await History(FakeRenderer(), Retokenizing()).prompt("alice", asked)
    assert (await there.prompt("alice", turn("hi", "ab", "more", "cab", "x"))).num_known > 0
