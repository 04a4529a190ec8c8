"""Ollama's API as a dialect: bodies become turns, answers lines of JSON."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import msgspec
import pytest

from broker.conversations import next_name
from broker.messages import Chunk, Done, Failed, Message, Sampling, Timings, TokenLogprob, Tool, ToolCall, Usage
from producers.gateway.abilities import abilities_for
from producers.gateway.dialect import Asked, Finished
from producers.gateway.errors import ApiError
from producers.gateway.manners import Manners
from producers.gateway.naming import conversation_of
from producers.gateway.ollama.answers import Writer
from producers.gateway.ollama.errors import error_body, error_of
from producers.gateway.ollama.memory import packed, unpacked
from producers.gateway.ollama.options import DEFAULTS
from producers.gateway.ollama.requests import ChatRequest, GenerateRequest
from producers.gateway.posted import posted
from producers.gateway.sampling import MOST_TOKENS

HI = {"role": "user", "content": "hi"}
LAMP = {"type": "object", "properties": {"on": {"type": "boolean"}}}


def chat(messages: Any = (HI,), **more: Any) -> tuple[ChatRequest, list[str]]:
    return posted(msgspec.json.encode({"model": "m", "messages": messages} | more), ChatRequest)


def asked(messages: Any = (HI,), **more: Any) -> Asked:
    (found,), _ = Manners().kept(chat(messages, **more)[0].asked())
    return found


def generate(prompt: str = "hi", **more: Any) -> GenerateRequest:
    return posted(msgspec.json.encode({"model": "m", "prompt": prompt} | more), GenerateRequest)[0]


def sampling(**options: Any) -> Sampling:
    return asked(options=options).sampling


def refusal(**more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        asked(**more)
    assert caught.value.status == 400
    return caught.value


def done(text: str = "Yes.", **more: Any) -> Done:
    usage = Usage(prompt_tokens=12, cached_tokens=9, completion_tokens=3)
    return Done("stop", text, (), usage, Timings(1.5, 0.25, 0.5, fetch=0.5), "w", **more)


# --- Requests ---


def test_an_answer_comes_in_pieces_unless_that_is_declined() -> None:
    assert chat()[0].is_streamed
    assert chat(stream=True)[0].is_streamed
    assert not chat(stream=False)[0].is_streamed


def test_what_is_not_said_is_as_ollama_has_it() -> None:
    found = sampling()
    assert (found.temperature, found.top_k, found.top_p, found.min_p) == (0.8, 40, 0.9, 0.0)
    assert (found.repeat_penalty, found.max_tokens, found.thinking) == (1.0, DEFAULTS.max_tokens, None)
    assert sampling().seed != sampling(seed=-1).seed


def test_options_say_how_tokens_are_chosen() -> None:
    options = {"num_predict": 7, "temperature": 0, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "repeat_penalty": 1.1}
    found = sampling(**options, seed=2**70, stop=["a", ""], presence_penalty=0.5, frequency_penalty=-1)
    assert (found.max_tokens, found.temperature, found.top_k, found.top_p, found.min_p) == (7, 0.0, 3, 0.5, 0.1)
    assert (found.repeat_penalty, found.seed, found.stop) == (1.1, 2**70 % 2**63, ("a",))
    assert (found.presence_penalty, found.frequency_penalty) == (0.5, -1)
    assert [sampling(num_predict=limit).max_tokens for limit in (-1, -2, 10**9)] == [MOST_TOKENS] * 3
    assert sampling(top_p=0).top_k == 1
    assert sampling(top_p=1.5, top_k=-1, stop="end").top_p == 1.0
    assert sampling(stop="end").stop == ("end",)
    assert sampling(num_predict=8.0, temperature=1).max_tokens == 8


def test_what_is_not_done_is_named_where_it_asks_for_something() -> None:
    options = {"num_ctx": 8192, "num_keep": 4, "typical_p": 1.0, "mirostat": 2, "num_gpu": 99, "strange": 1}
    _, ignored = chat(options=options, keep_alive="5m", truncate=False, shift=True, width=3)
    assert sorted(ignored) == [
        "keep_alive",
        "options.mirostat",
        "options.num_ctx",
        "options.num_gpu",
        "options.strange",
        "shift",
        "width",
    ]
    assert chat(options={"num_ctx": None}, keep_alive=None, think=None, format=None, tools=None)[1] == []
    with pytest.raises(ApiError, match=r"options\.num_ctx"):
        posted(b'{"model": "m", "messages": [], "options": {"num_ctx": 1}}', ChatRequest, is_strict=True)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"model": ""}, "model is required"),
        ({"messages": [{"role": "robot", "content": "x"}]}, r"messages\[0\]\.role: must be one of"),
        ({"messages": [HI | {"images": ["aGk="]}]}, r"messages\[0\]\.images: images are not supported"),
        ({"options": {"temperature": "hot"}}, r"options\.temperature: must be a number, not a text"),
        ({"options": {"num_predict": 0}}, r"options\.num_predict: must be at least 1"),
        ({"format": "yaml"}, 'invalid format: "yaml"; expected "json" or a valid JSON Schema object'),
        ({"think": "hard"}, "think: must be"),
        ({"top_logprobs": 21}, "top_logprobs: must be at most 20"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, r"tools\[0\]\.function\.name"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(more: dict[str, Any], words: str) -> None:
    error = refusal(**more)
    assert error_body(error) == {"error": error.message}
    assert re.search(words, error.message)


def test_formats_are_schemas() -> None:
    assert asked(format="json").sampling.json_schema == {"type": "object"}
    assert asked(format=LAMP).sampling.json_schema == LAMP
    assert asked(format="").sampling.json_schema is None


def test_whether_to_think_is_switched() -> None:
    levels = [True, False, "low", "high", "max", "", None]
    assert [asked(think=one).sampling.thinking for one in levels] == ["on", "off", "on", "on", "on", None, None]


def test_log_probabilities_are_asked_for() -> None:
    assert asked(logprobs=True, top_logprobs=2).sampling.logprobs == 2
    assert asked(logprobs=True).sampling.logprobs == 0
    assert asked(top_logprobs=2).sampling.logprobs is None


def test_who_asks_nothing_wants_a_model_loaded_or_unloaded() -> None:
    for request in (chat([], keep_alive=0)[0], generate("", keep_alive="0s")):
        assert request.asked() == ()
        assert not request.is_streamed
        found = request.writer("", "m").whole(())
        assert (found["done"], found["done_reason"], found["model"]) == (True, "unload", "m")
    assert chat([])[0].writer("", "m").whole(())["done_reason"] == "load"
    assert generate("", keep_alive=-1).writer("", "m").whole(())["response"] == ""


# --- Tools ---


def test_calls_and_results_without_ids_find_each_other() -> None:
    """As Home Assistant sends them: no ids, no names of tools, results in the order of the calls."""
    calls = [{"function": {"name": "lamp", "arguments": {"on": on}}} for on in (True, False)]
    said = [
        HI,
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "content": "1"},
        {"role": "TOOL", "content": "2"},
    ]
    _, called, first, second = asked(said).history
    assert [call.parsed for call in called.tool_calls] == [{"on": True}, {"on": False}]
    ids = [call.id for call in called.tool_calls]
    assert len({*ids}) == 2
    assert all(len(one) == 9 and one.isalnum() for one in ids)
    assert [first.tool_call_id, second.tool_call_id] == ids


def test_results_are_matched_by_the_names_of_tools_and_by_ids_where_there_are_any() -> None:
    calls = [{"function": {"name": name, "arguments": "{}"}} for name in ("a", "b", "a")]
    results = [{"role": "tool", "tool_name": name, "content": name} for name in ("b", "a", "a")]
    _, called, *told = asked([HI, {"role": "assistant", "tool_calls": calls}, *results]).history
    ids = [call.id for call in called.tool_calls]
    assert [one.tool_call_id for one in told] == [ids[1], ids[0], ids[2]]
    named = [{"id": name, "function": {"name": "f"}} for name in ("x", "y")]
    results = [{"role": "tool", "tool_call_id": "y", "content": ""}, {"role": "tool", "content": ""}]
    history = asked([HI, {"role": "assistant", "tool_calls": named}, *results]).history
    assert [one.tool_call_id for one in history[2:]] == ["y", "x"]
    orphan = asked([HI, {"role": "tool", "content": "of nothing"}]).history[-1]
    assert orphan.tool_call_id


def test_an_empty_answer_that_is_sent_back_asks_for_another() -> None:
    assert asked([HI, {"role": "assistant", "content": " "}]).history == asked().history
    assert asked([HI, {"role": "assistant", "content": "So"}]).history[-1].content == "So"


def test_tools_are_offered_and_left_out() -> None:
    tool = {"type": "function", "function": {"name": "lamp", "description": "Switches", "parameters": LAMP}}
    assert asked(tools=[tool]).offer.tools == (Tool("lamp", "Switches", LAMP),)
    body = msgspec.json.encode({"model": "m", "messages": [HI], "tools": [tool]})
    request, _ = posted(body, ChatRequest)
    (one,), ignored = Manners(leave_out_tools=True).kept(request.asked())
    assert (one.offer.tools, ignored) == ((), ["tools"])


def test_the_next_turn_of_a_round_of_tools_is_found_without_ids() -> None:
    first = asked().history
    name = next_name(conversation_of(None, first), first, "", (ToolCall("a1b2c3d4e", "lamp", '{"on": true}'),))
    call = {"function": {"name": "lamp", "arguments": {"on": True}}}
    back = [HI, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "on"}]
    assert conversation_of(None, asked(back).history) == name


def test_an_answers_calls_are_whole_and_have_objects() -> None:
    calls = (ToolCall("a", "lamp", '{"on": true}'), ToolCall("b", "lamp", "[broken"))
    lines = lines_of(Writer("m", is_chat=True).end(0, done("", tool_calls=calls)))
    assert [one["done"] for one in lines] == [False, True]
    assert [one["function"]["arguments"] for one in lines[0]["message"]["tool_calls"]] == [{"on": True}, {}]
    assert lines[1]["done_reason"] == "stop"


# --- Prompts ---


def test_a_prompt_is_a_chat_unless_it_is_raw() -> None:
    (found,) = generate(system="Be brief.").asked()
    assert found.history == (Message("system", "Be brief."), Message("user", "hi"))
    (raw,) = generate(raw=True).asked()
    assert (raw.is_raw, raw.history) == (True, (Message("user", "hi"),))
    (insert,) = generate("def f(", suffix="return 1", system="x").asked()
    assert (insert.is_raw, insert.more["suffix"], [*abilities_for(insert)]) == (True, "return 1", ["infill"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"raw": True, "system": "x"}, "raw mode does not support template, system, or context"),
        ({"template": "{{ .Prompt }}"}, "template is not supported"),
        ({"images": ["aGk="]}, "images are not supported"),
        ({"context": [1, 2, 3]}, "context: these are no numbers of an answer from here"),
    ],
)
def test_what_a_prompt_cannot_have_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError, match=words):
        generate(**more).asked()


def test_a_context_remembers_what_was_said() -> None:
    first = generate("Who are you?", system="Be brief.")
    told = first.writer("t", "m").whole([Finished(done("A mast, ünd so 🙂"))])
    context = json.loads(json.dumps(told["context"]))
    assert all(0 <= number < 2**24 for number in context)
    (found,) = generate("And now?", context=context).asked()
    assert [one.content for one in found.history] == ["Be brief.", "Who are you?", "A mast, ünd so 🙂", "And now?"]
    (other,) = generate("And now?", context=context, system="Be long.").asked()
    assert [one.content for one in other.history][:2] == ["Be long.", "Who are you?"]
    assert "context" not in generate(raw=True).writer("t", "m").whole([Finished(done())])


@pytest.mark.parametrize("numbers", [[-1], [2**40], [0], packed([Message("user", "x")])[:-1], [7_631_979, 1, 2]])
def test_numbers_that_are_no_context_are_refused(numbers: list[int]) -> None:
    with pytest.raises(ApiError):
        unpacked(numbers)


@pytest.mark.parametrize("text", ["", "a", "ab", "abc", "ü" * 7, "\0\xc1"])
def test_a_context_of_any_length_comes_back(text: str) -> None:
    said = (Message("user", text), Message("assistant", text * 2))
    assert unpacked(packed(said)) == said


# --- Answers ---


def lines_of(body: bytes) -> list[dict[str, Any]]:
    assert body.endswith(b"\n") or not body
    return [json.loads(one) for one in body.splitlines()]


def test_an_answer_is_told_in_lines_with_its_figures_at_the_end() -> None:
    writer = Writer("demo:latest", is_chat=True)
    writer.goes_to(0, "t", "demo")
    assert writer.begin(0) + writer.comment("turnpike {}") == b""
    (first,) = lines_of(writer.piece(0, Chunk(0, 0, "Yes", (1,))))
    assert (first["model"], first["done"]) == ("demo:latest", False)
    assert first["message"] == {"role": "assistant", "content": "Yes"}
    assert datetime.fromisoformat(first["created_at"]).tzinfo is not None
    (thought,) = lines_of(writer.piece(0, Chunk(1, 0, "", (1,), reasoning="Hm.")))
    assert thought["message"] == {"role": "assistant", "content": "", "thinking": "Hm."}
    assert writer.piece(0, Chunk(2, 0, "", (1,))) == b""
    (end,) = lines_of(writer.end(0, done()) + writer.finish([done()]))
    assert (end["done"], end["done_reason"], end["message"]["content"]) == (True, "stop", "")
    assert (end["prompt_eval_count"], end["eval_count"]) == (12, 3)
    assert (end["total_duration"], end["load_duration"]) == (2_750_000_000, 2_000_000_000)
    assert (end["prompt_eval_duration"], end["eval_duration"]) == (250_000_000, 500_000_000)


def test_a_whole_answer_is_one_object() -> None:
    token = TokenLogprob(1, -0.5, ((1, -0.5),), piece=b"Yes", top_pieces=(b"Yes",))
    finished = Finished(msgspec.structs.replace(done(reasoning="Hm."), finish_reason="length"), [token])
    found = Writer("m", is_chat=True).whole([finished])
    assert found["message"] == {"role": "assistant", "content": "Yes.", "thinking": "Hm."}
    assert (found["done"], found["done_reason"]) == (True, "length")
    assert found["logprobs"][0]["token"] == "Yes"
    assert found["logprobs"][0]["top_logprobs"] == [{"token": "Yes", "logprob": -0.5, "bytes": [89, 101, 115]}]
    plain = Writer("m", is_chat=False).whole([finished])
    assert (plain["response"], plain["thinking"]) == ("Yes.", "Hm.")
    assert "message" not in plain


def test_a_failure_is_a_status_and_one_text_and_in_a_stream_the_last_line() -> None:
    error = error_of(Failed("prompt_too_long", "900 tokens, and the context holds 512"))
    assert (error.status, "maximum context length is 512 tokens" in error.message) == (400, True)
    assert error_of(Failed("invalid_grammar", "sampling.json_schema: x")).message == "format: x"
    assert error_of(Failed("deadline", "late")).status == 408
    assert error_of(Failed("odd", "x")).status == 500
    assert lines_of(Writer("m", is_chat=True).broken_off(error)) == [{"error": error.message}]
