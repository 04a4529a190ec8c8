"""llama-server's own requests and answers, in its words."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from broker.messages import Chunk, Done, Failed, Message, Progress, Timings, TokenLogprob, Usage
from producers.gateway.abilities import abilities_for
from producers.gateway.dialect import Finished
from producers.gateway.errors import ApiError
from producers.gateway.manners import Manners
from producers.gateway.native.completion import CompletionBody
from producers.gateway.native.errors import error_body
from producers.gateway.native.infill import InfillBody
from producers.gateway.native.sampling import HARMLESS
from producers.gateway.native.tokens import DetokenizeBody, TokenizeBody
from producers.gateway.posted import posted
from producers.gateway.timings import timings


def completion(prompt: Any = "Why?", **more: Any) -> CompletionBody:
    return posted(msgspec.json.encode({"prompt": prompt} | more), CompletionBody)[0]


def named(**more: Any) -> list[str]:
    """What is said to be ignored."""
    return sorted(posted(msgspec.json.encode({"prompt": "Why?"} | more), CompletionBody, HARMLESS)[1])


def done(text: str = "So.\n", **more: Any) -> Done:
    known: dict[str, Any] = {"finish_reason": "stop", "tokens": (7, 8, 9), "worker": "w"}
    known |= {"usage": Usage(5, 2, 3), "timings": Timings(0.0, 0.25, 0.5)}
    return Done(text=text, **(known | more))


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(one.removeprefix("data: ")) for one in body.decode().split("\n\n") if one]


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("Why?", ["Why?"]),
        ([1, 2, 3], [(1, 2, 3)]),
        ([1, "Why?", 2], [(1, "Why?", 2)]),
        ({"prompt_string": "Why?"}, ["Why?"]),
        (["Why?", [1, 2]], ["Why?", (1, 2)]),
        ([[1, 2], {"prompt_string": "Why?"}], [(1, 2), "Why?"]),
    ],
)
def test_a_prompt_is_a_text_or_tokens_or_both_or_a_list_of_those(prompt: Any, told: list[Any]) -> None:
    asked = completion(prompt).asked()
    assert [one.more["prompt"] if not one.history else one.history[0].content for one in asked] == told
    assert all(one.is_raw for one in asked)


@pytest.mark.parametrize(
    "prompt", ["", [], {}, {"prompt_string": "a", "multimodal_data": ["b"]}, [None], 3, [["a"], 1.5]]
)
def test_what_is_no_prompt_is_refused_by_its_name(prompt: Any) -> None:
    with pytest.raises(ApiError) as refused:
        completion(prompt).asked()
    assert refused.value.status == 400
    assert str(refused.value.param).startswith("prompt")


@pytest.mark.parametrize(
    ("more", "param", "message"),
    [
        ({"repeat_penalty": -1}, "repeat_penalty", "repeat_penalty: must be above 0, not -1.0"),
        ({"presence_penalty": 1000}, "presence_penalty", "presence_penalty: must be at most 100, not 1000.0"),
        ({"temperature": 1000}, "temperature", "temperature: must be at most 100, not 1000.0"),
        ({"stop": ["x"] * 17}, "stop", "stop: must have at most 16 entries"),
        ({"stop": "x" * 257}, "stop[0]", "stop[0]: must have at most 256 characters"),
        ({"grammar": "x" * 65_537}, "grammar", "grammar: must have at most 65536 characters"),
        ({"prompt": [-1]}, "prompt[0]", "prompt[0]: must be at least 0, not -1"),
    ],
)
def test_what_no_worker_would_understand_is_refused_by_its_name_and_is_no_dead_letter(
    more: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(ApiError) as refused:
        Manners().kept(completion(**({"prompt": "Why?"} | more)).asked())
    assert (refused.value.status, refused.value.param, refused.value.message) == (400, param, message)


@pytest.mark.parametrize(
    ("kind", "body", "abilities"),
    [
        (TokenizeBody, {"content": "a"}, {"prompt", "tokens"}),
        (DetokenizeBody, {"tokens": []}, {"prompt", "tokens"}),
        (InfillBody, {"input_prefix": "a", "input_suffix": ""}, {"infill"}),
        (CompletionBody, {"prompt": [1], "return_progress": True}, {"tokens", "progress"}),
        (CompletionBody, {"prompt": "a", "presence_penalty": 1}, {"penalties"}),
        (CompletionBody, {"prompt": "a"}, set()),
    ],
)
def test_what_a_worker_must_be_able_to_do_is_told_by_the_turn(kind: Any, body: Any, abilities: set[str]) -> None:
    (asked,) = posted(msgspec.json.encode(body), kind)[0].asked()
    assert abilities_for(asked) == abilities


def test_several_answers_are_turns_of_their_own_seeds() -> None:
    asked = completion(["a", "b"], n=2, seed=4).asked()
    assert [(one.history, one.sampling.seed) for one in asked] == [
        ((Message("user", text),), seed) for text in "ab" for seed in (4, 5)
    ]


def test_an_answer_tells_its_own_seed_also_a_random_one() -> None:
    body = completion(["a", "b"], n=2)
    told = body.writer("t", "m").whole([Finished(done()) for _ in range(4)])
    assert [one["generation_settings"]["seed"] for one in told] == [one.sampling.seed for one in body.asked()]
    assert completion().sampling.seed != completion().sampling.seed


def test_of_many_answers_the_first_one_tells_a_long_grammar() -> None:
    grammar = "root ::= " + '"a" ' * 10_000
    body = completion(["x"] * 64, n=2, grammar=grammar)
    told = body.writer("t", "m").whole([Finished(done()) for _ in range(128)])
    assert told[0]["generation_settings"]["grammar"] == grammar
    assert "grammar" not in told[1]["generation_settings"]
    assert len(msgspec.json.encode(told)) < 400_000
    (one,) = events(completion(grammar=grammar).writer("t", "m").end(0, done()))
    assert one["generation_settings"]["grammar"] == grammar


def test_what_a_request_leaves_open_is_as_llama_server_has_it() -> None:
    (asked,) = completion().asked()
    found = asked.sampling
    assert (found.temperature, found.top_k, found.top_p, found.min_p) == (0.8, 40, 0.95, 0.05)
    assert found.max_tokens == 1_000_000
    assert (found.logprobs, found.stop, found.ignore_eos) == (None, (), False)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"12": -100, "of": 2}, ((12, -100.0), ("of", 2.0))),
        ([[12, -100], ["of", False]], ((12, -100.0), ("of", -1e9))),
    ],
)
def test_biases_are_of_tokens_or_of_texts_and_false_forbids(given: Any, told: Any) -> None:
    assert completion(logit_bias=given).asked()[0].sampling.logit_bias == told


def test_a_schema_is_held_to_and_an_empty_one_is_any_object() -> None:
    assert completion(json_schema={"const": 1}).asked()[0].sampling.json_schema == {"const": 1}
    assert completion(json_schema={}).asked()[0].sampling.json_schema == {"type": "object"}
    assert completion(json_schema={}, grammar='root ::= "a"').asked()[0].sampling.grammar == 'root ::= "a"'


def test_samplers_that_are_not_done_are_named_and_those_that_are_off_are_not() -> None:
    off = {"mirostat": 0, "mirostat_tau": 7.0, "typical_p": 1, "xtc_probability": 0, "dry_multiplier": 0, "n_keep": 0}
    harmless = {"cache_prompt": True, "id_slot": -1, "repeat_last_n": 64, "samplers": ["top_k"], "lora": []}
    assert named(**off, **harmless) == []
    undone = named(mirostat=2, typical_p=0.9, cache_prompt=False, id_slot=0, n_keep=4, post_sampling_probs=True)
    assert undone == ["cache_prompt", "id_slot", "mirostat", "n_keep", "post_sampling_probs", "typical_p"]


def test_a_whole_answer_has_all_that_llama_server_tells() -> None:
    asked = completion(n_predict=3, seed=4, stop=["x"], return_tokens=True)
    (found,) = [asked.writer("t", "m").whole([Finished(done(finish_reason="length"))])]
    assert (found["content"], found["tokens"], found["stop"], found["model"]) == ("So.\n", [7, 8, 9], True, "m")
    assert (found["stop_type"], found["stopping_word"], found["truncated"]) == ("limit", "", False)
    assert (found["tokens_predicted"], found["tokens_evaluated"], found["has_new_line"]) == (3, 5, True)
    assert (found["prompt"], found["index"], found["tokens_cached"]) == ("Why?", 0, 7)
    settings = found["generation_settings"]
    assert (settings["seed"], settings["n_predict"], settings["stop"], settings["mirostat"]) == (4, 3, ["x"], 0)
    assert found["timings"] == timings(done())


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ({"finish_reason": "stop"}, ("eos", "", False)),
        ({"finish_reason": "stop", "stop": "x"}, ("word", "x", False)),
        ({"finish_reason": "length"}, ("limit", "", True)),
        ({"finish_reason": "cancelled"}, ("none", "", False)),
    ],
)
def test_why_an_answer_ended_is_told_as_llama_server_does(end: dict[str, Any], told: tuple[str, str, bool]) -> None:
    found = completion().writer("t", "m").whole([Finished(done(**end))])
    assert (found["stop_type"], found["stopping_word"], found["truncated"]) == told


def test_an_answer_of_no_tokens_computes_the_prompt_and_says_nothing() -> None:
    asked = completion(n_predict=0)
    assert asked.asked()[0].sampling.max_tokens == 1
    writer = asked.writer("t", "m")
    found = writer.whole([Finished(done())])
    assert (found["content"], found["tokens_predicted"], found["stop_type"]) == ("", 0, "limit")
    assert writer.piece(0, Chunk(0, 0, "So", (7,))) == b""


def test_only_the_fields_that_are_wanted_are_told() -> None:
    wanted = ["content", "generation_settings/n_predict", "nothing/of/it"]
    found = completion(n_predict=3, response_fields=wanted).writer("t", "m").whole([Finished(done())])
    assert found == {"content": "So.\n", "generation_settings/n_predict": 3}


def test_several_answers_are_a_list() -> None:
    found = completion(["a", "b"]).writer("t", "m").whole([Finished(done("1")), Finished(done("2"))])
    assert [(one["index"], one["content"], one["prompt"]) for one in found] == [(0, "1", "a"), (1, "2", "b")]


def test_a_stream_tells_pieces_and_then_all_but_the_text() -> None:
    writer = completion(stream=True, timings_per_token=True).writer("t", "m")
    first, second = events(writer.piece(0, Chunk(0, 0, "So", (7, 8))) + writer.piece(0, Chunk(1, 0, ".", (9,))))
    assert (first["content"], first["tokens"], first["stop"], first["tokens_predicted"]) == ("So", [7, 8], False, 2)
    assert (second["tokens_predicted"], second["timings"]["predicted_n"]) == (3, 3)
    (last,) = events(writer.end(0, done()) + writer.finish([done()]))
    assert (last["content"], last["stop"], last["tokens"], last["tokens_predicted"]) == ("", True, [], 3)
    assert "generation_settings" in last


def test_a_stream_tells_how_far_the_prompt_is_where_that_is_asked() -> None:
    asked = completion(stream=True, return_progress=True)
    assert asked.asked()[0].more == {"progress": True}
    told = events(asked.writer("t", "m").piece(0, Chunk(0, 0, "", progress=(Progress(9, 2, 5, 0.1),))))
    assert [one["prompt_progress"] for one in told] == [{"total": 9, "cache": 2, "processed": 5, "time_ms": 100}]


def test_probabilities_come_a_token_an_event() -> None:
    logprobs = tuple(
        TokenLogprob(token, -0.5, ((token, -0.5), (1, -1.5)), piece, (piece, b"x"))
        for token, piece in ((7, b"\xc3"), (8, b"\xa4"), (9, b"b"))
    )
    told = events(completion(stream=True, n_probs=2).writer("t", "m").piece(0, Chunk(0, 0, "äb", (7, 8, 9), logprobs)))
    assert [one["content"] for one in told] == ["", "ä", "b"]
    assert [len(one["completion_probabilities"]) for one in told] == [1, 1, 1]
    (last,) = told[-1]["completion_probabilities"]
    assert (last["id"], last["token"], last["bytes"], last["logprob"]) == (9, "b", [98], -0.5)
    assert [one["id"] for one in last["top_logprobs"]] == [9, 1]


def test_the_first_token_comes_with_the_prompt_and_counts_for_no_step() -> None:
    found = timings(done())
    assert (found["cache_n"], found["prompt_n"], found["prompt_ms"]) == (2, 3, 250)
    assert (found["predicted_n"], found["predicted_ms"], found["predicted_per_second"]) == (3, 500, 4)
    one = timings(done(usage=Usage(5, 5, 1), timings=Timings(0.0, 0.0, 0.0)))
    assert (one["predicted_per_second"], one["prompt_per_second"], one["prompt_per_token_ms"]) == (0, 0, 0)
    guessed = timings(done(usage=Usage(5, 2, 3, drafted_tokens=4, accepted_tokens=1)))
    assert (guessed["draft_n"], guessed["draft_n_accepted"]) == (4, 1)


def test_what_fills_a_gap_is_asked_for_by_its_two_sides() -> None:
    body = {"input_prefix": "int main() {\n", "input_suffix": "}\n", "prompt": "  return"}
    asked = posted(msgspec.json.encode(body), InfillBody)[0]
    (one,) = asked.asked()
    assert (one.history[0].content, one.more) == ("int main() {\n  return", {"suffix": "}\n", "files": ()})
    extra = [{"filename": "a.h", "text": "int a;\n"}, {"text": "int b;\n"}]
    (one,) = posted(msgspec.json.encode(body | {"input_extra": extra}), InfillBody)[0].asked()
    assert one.more["files"] == (("a.h", "int a;\n"), ("tmp", "int b;\n"))


@pytest.mark.parametrize("extra", [{}, {"filename": "ok"}, {"filename": 1, "text": "a"}, {"filename": 1, "text": 2}])
def test_a_snippet_without_a_text_is_refused(extra: dict[str, Any]) -> None:
    body = {"input_prefix": "a", "input_suffix": "b", "input_extra": [extra]}
    with pytest.raises(ApiError) as refused:
        posted(msgspec.json.encode(body), InfillBody)
    assert (refused.value.status, str(refused.value.param).startswith("input_extra")) == (400, True)


def test_errors_have_llama_servers_shape() -> None:
    writer = completion().writer("t", "m")
    too_long = writer.failure(Failed("prompt_too_long", "the prompt has 300 tokens, and the context holds 256"))
    found = error_body(too_long)["error"]
    assert (found["code"], found["type"], found["n_prompt_tokens"], found["n_ctx"]) == (
        400,
        "exceed_context_size_error",
        300,
        256,
    )
    assert "exceeds the available context size" in found["message"]
    unknown = error_body(ApiError(401, "who are you?"))["error"]
    assert unknown == {"code": 401, "message": "who are you?", "type": "authentication_error"}


@pytest.mark.parametrize(
    ("body", "prompt", "is_bare", "is_text"),
    [
        ({"content": "a b"}, ("a b",), True, False),
        ({"content": "a b", "add_special": True}, ("a b",), False, False),
        ({"content": [1, "a", 2]}, (1, "a", 2), True, False),
        ({"content": [], "parse_special": False}, ("",), True, True),
    ],
)
def test_a_text_is_begun_as_prompts_are_only_where_that_is_wanted(
    body: dict[str, Any], prompt: Any, is_bare: bool, is_text: bool
) -> None:
    asked = posted(msgspec.json.encode(body), TokenizeBody)[0]
    (one,) = asked.asked()
    assert one.more == {"kind": "prompt", "prompt": prompt, "bare": is_bare, "as_text": is_text}
    assert one.history == ()
    found = asked.writer("t", "m").whole([Finished(done("", tokens=(5, 7, 8)))])
    assert found == {"tokens": [5, 7, 8]}


def test_pieces_of_tokens_are_texts_or_bytes() -> None:
    asked = posted(b'{"content": "x", "with_pieces": true}', TokenizeBody)[0]
    end = done("", tokens=(7, 8), pieces=(b"a", b"\xc3"))
    assert asked.writer("t", "m").whole([Finished(end)]) == {
        "tokens": [{"id": 7, "piece": "a"}, {"id": 8, "piece": [0xC3]}]
    }


def test_tokens_become_their_text_control_tokens_too() -> None:
    asked = posted(b'{"tokens": [1, 2]}', DetokenizeBody)[0]
    assert asked.asked()[0].more == {"kind": "prompt", "prompt": (0, 1, 2)}
    end = done("", tokens=(0, 1, 2), pieces=(b"<unk>", b"<s>", b" a"))
    assert asked.writer("t", "m").whole([Finished(end)]) == {"content": "<s> a"}


def test_a_prompt_is_told_as_the_model_gets_it_where_it_is_asked_for() -> None:
    asked = completion(["a", "b"], response_fields=["prompt"])
    assert [one.more.get("kind", "generate") for one in asked.asked()] == ["generate"] * 2 + ["prompt"] * 2
    ends = [done("1"), done("2"), done("", pieces=(b"<s>", b" a")), done("", pieces=(b"<s>", b" b"))]
    found = asked.writer("t", "m").whole([*map(Finished, ends)])
    assert found == [{"prompt": "<s> a"}, {"prompt": "<s> b"}]
