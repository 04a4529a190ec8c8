from __future__ import annotations

import msgspec
import pytest

from broker.discovery import CHAT, DRAINING, RAW, SCORE, SERVING, STARTING, TOOLS, Load, WorkerInfo
from broker.errors import UnservedModel
from broker.messages import Message, Tool, ToolCall
from broker.model_status import statuses
from broker.priorities import BATCH
from producers.routing.policies import Decision, ModelTags, Needs, Policy, Routes, choose
from tests.boards import board, loading, on_board


def worker(model: str, wait: float, size: int = 1, name: str = "w") -> WorkerInfo:
    load = Load(num_slots=4, num_active=0, num_pending=0, expected_wait_seconds=wait)
    return WorkerInfo(name, model, model.title(), "Q4_0", 4096, "pi", load, facts={"file_bytes": str(size)})


WORKERS = [worker("large", 1.0, 8), worker("small", 9.0, 2), worker("middle", 4.0, 4), worker("middle", 3.0, 4, "w2")]


def test_auto_is_the_model_with_the_shortest_wait_over_its_workers() -> None:
    assert choose(Routes(), "auto", WORKERS) == Decision("large", "auto", "expected_wait of 3")
    assert choose(Routes(), "auto", WORKERS[1:]).model == "middle"
    with pytest.raises(UnservedModel):
        choose(Routes(), "auto", [])


def test_a_name_is_a_models_token_or_what_people_call_it_and_its_queue_waits() -> None:
    assert choose(Routes(), "small", WORKERS) == Decision("small")
    assert choose(Routes(), "Small", WORKERS).model == "small"
    assert choose(Routes(), "nobody-serves-it", WORKERS).model == "nobody-serves-it"


@pytest.mark.parametrize(
    ("policy", "model"),
    [
        (Policy(by="smallest"), "small"),
        (Policy(by="largest"), "large"),
        (Policy(by="order", models=("middle", "large")), "middle"),
        (Policy(models=("small", "middle")), "middle"),
        (Policy(tags=("code",)), "small"),
        (Policy(by="smallest", max_wait_seconds=5), "middle"),
    ],
)
def test_a_policy_chooses_by_wait_size_order_and_tag(policy: Policy, model: str) -> None:
    routes = Routes(policies={"p": policy}, models={"small": ModelTags(tags=("code", "chat"))})
    assert choose(routes, "p", WORKERS).model == model


def test_who_has_none_falls_back_and_says_so() -> None:
    routes = Routes(
        policies={
            "code": Policy(tags=("code",), fallback="quick"),
            "quick": Policy(max_wait_seconds=0.5, fallback="auto"),
        }
    )
    assert choose(routes, "code", WORKERS) == Decision("large", "code", "expected_wait of 3 after code, quick had none")
    with pytest.raises(UnservedModel):
        choose(Routes(policies={"code": Policy(tags=("code",))}), "code", WORKERS)


def test_auto_can_be_said_otherwise() -> None:
    assert choose(Routes(policies={"auto": Policy(by="smallest")}), "auto", WORKERS).model == "small"


# --- What can answer ---


def offer(
    model: str,
    *,
    size: int = 100,
    wait: float = 0.0,
    can: tuple[str, ...] | None = None,
    num_ctx: int = 4096,
    active: int = 0,
    speed: float | None = None,
    name: str = "w",
    batch_wait: float | None = None,
    state: str = SERVING,
) -> WorkerInfo:
    load = Load(4, active, 0, wait, decode_tokens_per_second=speed, batch_wait_seconds=batch_wait, state=state)
    return WorkerInfo(name, model, model, "Q4_0", num_ctx, "pi", load, facts={"file_bytes": str(size)}, can=can)


QUESTION = [Message("user", "hello")]
LONG = [Message("user", "word " * 2000)]


def test_a_model_without_a_template_is_chosen_for_raw_prompts_alone() -> None:
    workers = [offer("a", can=(RAW, SCORE), size=900), offer("b", can=(CHAT, RAW)), offer("c")]
    for _ in range(9):
        assert choose(Routes(), "auto", workers, Needs.of(QUESTION)).model in ("b", "c")
    assert choose(Routes(), "auto", workers, Needs.of(QUESTION, raw=True)).model == "a"
    assert choose(Routes(), "auto", workers, Needs.of(QUESTION, raw=True, kind="score")).model == "a"
    with pytest.raises(UnservedModel, match="lack chat"):
        choose(Routes(), "auto", workers[:1], Needs.of(QUESTION))
    # Any of a model's workers may take the turn.
    mixed = [offer("a", can=(CHAT,), size=900), offer("a", can=(RAW,), size=900, name="w2"), offer("c")]
    assert choose(Routes(), "auto", mixed, Needs.of(QUESTION)).model == "c"


CALLED = [*QUESTION, Message("assistant", "", (ToolCall("a", "f", "{}"),)), Message("tool", "x", tool_call_id="a")]


@pytest.mark.parametrize(
    "needs",
    [
        Needs.of(QUESTION, tools=[Tool("f")]),
        Needs.of(CALLED),
        Needs.of([*QUESTION, Message("assistant", "x", reasoning="y"), *QUESTION]),
    ],
)
def test_tools_calls_and_thoughts_go_to_who_knows_them(needs: Needs) -> None:
    workers = [offer("a", can=(CHAT, RAW, SCORE), size=900), offer("b", can=(CHAT, TOOLS))]
    assert choose(Routes(), "auto", workers, needs).model == "b"
    assert choose(Routes(), "auto", workers, Needs.of(QUESTION)).model == "a"
    with pytest.raises(UnservedModel, match="lack tools"):
        choose(Routes(), "auto", workers[:1], needs)


def test_what_tools_say_counts_for_the_context() -> None:
    large = Tool("f", "word " * 2000, {"type": "object"})
    workers = [offer("a", num_ctx=512, size=900), offer("b", num_ctx=8192, wait=30.0)]
    assert choose(Routes(), "auto", workers, Needs.of(QUESTION, tools=[large])).model == "b"


def test_a_context_that_is_too_small_is_passed_over_and_the_largest_is_taken_where_all_are() -> None:
    workers = [offer("a", num_ctx=512, size=900), offer("b", num_ctx=8192, wait=30.0)]
    assert choose(Routes(), "auto", workers, Needs.of(QUESTION)).model == "a"
    assert choose(Routes(), "auto", workers, Needs.of(LONG)).model == "b"
    small = [offer("a", num_ctx=512), offer("b", num_ctx=1024, wait=9.0)]
    assert choose(Routes(), "auto", small, Needs.of(LONG)) == Decision("b", "auto", "the largest context of 2")
    routes = Routes(policies={"p": Policy(models=("a",), fallback="auto")})
    assert choose(routes, "p", workers, Needs.of(LONG)).model == "b"
    assert choose(routes, "p", workers, Needs.of([Message("user", "half an emoji \ud83d")])).model == "a"


def test_of_equals_the_larger_then_the_idler_then_the_faster_is_taken() -> None:
    demo, real = offer("a-demo", size=4, speed=2000.0), offer("q", size=400, speed=60.0)
    assert choose(Routes(), "auto", [demo, real]).model == "q"
    assert choose(Routes(), "auto", [demo, offer("q", size=400, wait=0.1)]).model == "a-demo"
    assert choose(Routes(), "auto", [offer("a", active=2), offer("b", active=1, size=80)]).model == "b"
    assert choose(Routes(), "auto", [offer("a", speed=10.0), offer("b", speed=60.0)]).model == "b"


def test_idle_equals_share_the_conversations_and_no_conversation_changes_over() -> None:
    workers = [offer(model, speed=speed) for model, speed in (("a", 60.0), ("b", 58.0), ("c", 61.0))]
    assert {choose(Routes(), "auto", workers).model for _ in range(100)} == {"a", "b", "c"}
    chosen = [choose(Routes(), "auto", workers, Needs(conversation=str(number))).model for number in range(300)]
    assert all(60 < chosen.count(model) < 140 for model in "abc")
    assert chosen == [choose(Routes(), "auto", workers, Needs(conversation=str(number))).model for number in range(300)]


def test_each_priority_has_its_own_wait() -> None:
    workers = [offer("a", wait=1.0, batch_wait=90.0), offer("b", wait=5.0, batch_wait=6.0), offer("c", wait=9.0)]
    assert choose(Routes(), "auto", workers).model == "a"
    assert choose(Routes(), "auto", workers, Needs(priority="batch")).model == "b"
    routes = Routes(policies={"p": Policy(by="order", models=("a", "c"), max_wait_seconds=20)})
    assert choose(routes, "p", workers, Needs(priority="batch")).model == "c"


@pytest.mark.parametrize("state", [DRAINING, STARTING, "warming"])
def test_who_takes_no_turns_is_not_chosen(state: str) -> None:
    workers = [offer("a", size=900, state=state), offer("b", wait=5.0)]
    assert choose(Routes(), "auto", workers).model == "b"
    with pytest.raises(UnservedModel):
        choose(Routes(), "auto", workers[:1])
    assert choose(Routes(), "a", workers).model == "a"


def test_what_was_tried_is_not_chosen_again() -> None:
    workers = [offer("a", size=900), offer("b")]
    assert choose(Routes(), "auto", workers, without=["a"]).model == "b"
    with pytest.raises(UnservedModel):
        choose(Routes(), "auto", workers, without=["a", "b"])


def test_odd_facts_are_as_absent() -> None:
    for odd in ("", "many", "-5", "4.0", "٣", "9" * 5000):
        worker = msgspec.structs.replace(offer("a"), facts={"file_bytes": odd})
        assert worker.file_bytes is None
        assert choose(Routes(), "auto", [worker]).model == "a"


# --- What boards would load ---


def test_a_model_that_a_board_would_load_is_one_of_them_and_its_load_is_its_wait() -> None:
    boards = statuses([board("pi", on_board("cold"), loading("warm", 0.5, 3.0))])
    assert choose(Routes(), "auto", [], boards=boards) == Decision("warm", "auto", "expected_wait of 2")
    assert choose(Routes(), "auto", [offer("busy", wait=2.0)], boards=boards).model == "busy"
    assert choose(Routes(), "auto", [offer("busy", wait=5.0)], boards=boards).model == "warm"
    assert choose(Routes(), "auto", [], boards=boards, without=["warm"]).model == "cold"
    routes = Routes(policies={"p": Policy(models=("cold", "busy"), max_wait_seconds=10)})
    assert choose(routes, "p", [offer("busy", wait=9.0)], boards=boards).model == "busy"
    with pytest.raises(UnservedModel):
        choose(routes, "p", [], boards=boards)


def test_the_turns_that_wait_for_a_model_already_count_as_wait_for_the_load_does() -> None:
    """Of 13 with four slots ten are seated before one more: 10 × 6 s / 4 after the load."""
    asked = on_board("asked", num_slots=4, turn_seconds=6.0, num_waiting=9, num_waiting_batch=4)
    boards = statuses([board("pi", asked, on_board("quiet", load_seconds=20.0))])
    assert choose(Routes(), "auto", [], boards=boards).model == "quiet"
    assert boards["asked"].expected_wait(BATCH) == 27.0
    assert choose(Routes(), "auto", [offer("busy", wait=20.5)], boards=boards, without=["quiet"]).model == "busy"
    assert choose(Routes(), "auto", [offer("busy", wait=21.5)], boards=boards, without=["quiet"]).model == "asked"
    batch = Needs(priority=BATCH)
    assert choose(Routes(), "auto", [offer("busy", wait=26.5)], batch, boards=boards, without=["quiet"]).model == "busy"


def test_a_model_whose_worker_answers_is_as_its_worker_says() -> None:
    boards = statuses([board("pi", on_board("m", "serving"), on_board("cold", load_seconds=1.0))])
    assert choose(Routes(), "auto", [offer("m", wait=5.0)], boards=boards).model == "cold"
    assert choose(Routes(), "auto", [offer("m", wait=0.5)], boards=boards).model == "m"


def test_what_a_board_cannot_load_or_what_lacks_what_is_needed_is_not_chosen() -> None:
    boards = statuses(
        [
            board(
                "pi",
                on_board("base", can=("raw", "score"), load_seconds=1.0),
                on_board("broken", "broken", reason="cut off", load_seconds=1.0),
                on_board("never", pin="never", load_seconds=1.0),
                on_board("short", can=("chat",), num_ctx=512, load_seconds=2.0),
                on_board("long", can=("chat",), num_ctx=65536, load_seconds=3.0),
            )
        ]
    )
    assert choose(Routes(), "auto", [], Needs.of(QUESTION), boards=boards).model == "short"
    assert choose(Routes(), "auto", [], Needs.of(LONG), boards=boards).model == "long"
    assert choose(Routes(), "auto", [], Needs.of(QUESTION, raw=True), boards=boards).model == "base"
    with pytest.raises(UnservedModel, match="lack chat, score"):
        choose(Routes(), "auto", [], Needs.of(QUESTION, kind="score"), boards=boards)
