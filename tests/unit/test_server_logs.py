"""What a worker and llama-server say of their steps is read back as the steps that they took."""

from __future__ import annotations

import logging

import pytest

from benchmarks.server_logs import Span, Step, of_llama_server, of_worker
from workers.engine import protocol
from workers.engine.scheduler import Step as EngineStep
from workers.engine.sequence import Sequence
from workers.reporting.metrics import Shape, WorkerMetrics

SLOT = "0.0{at} D slot {function}: id  {slot} | task {slot}0 | {said}"


def slot_line(at: str, slot: int, said: str) -> str:
    return SLOT.format(at=at, function="update_slots"[:12], slot=slot, said=said)


def begin(at: str) -> str:
    return f"0.0{at} D srv        decode: n_batch (effective) = 512, off = 0"


def round_ends(at: str) -> str:
    return f"0.0{at} D srv  update_slots: posting NEXT_RESPONSE"


def new_prompt(at: str, slot: int, num_tokens: int) -> str:
    return slot_line(at, slot, f"new prompt, n_ctx_slot = 16384, n_keep = 0, task.n_tokens = {num_tokens}")


def goes_on(at: str, slot: int, start: int) -> str:
    return slot_line(at, slot, f"cached n_tokens = {start}, memory_seq_rm [{start}, end)")


def token(at: str, slot: int, num_before: int) -> str:
    said = f"slot decode token, id=42, n_ctx = 16384, n_tokens = {num_before}, truncated = 0"
    return slot_line(at, slot, said)


def chosen(at: str, slot: int) -> str:
    return slot_line(at, slot, "n_gen = 1, n_remaining = 63, next token:   604 ' memory_seq_rm ['")


def test_a_workers_lines_are_its_steps(caplog: pytest.LogCaptureFixture) -> None:
    metrics = WorkerMetrics({}, 8, 4096, Shape())
    asked = Sequence("a", [1] * 40, num_prompt_tokens=40, max_tokens=8, arrived_at=0.0)
    answered = Sequence("b", [1] * 31, num_prompt_tokens=30, max_tokens=8, arrived_at=0.0)
    prompt, answer = protocol.Span(0, 8, (1,) * 32, 39), protocol.Span(1, 30, (1,), 29)
    with caplog.at_level(logging.DEBUG):
        metrics.on_step(EngineStep((answered, asked), (answer, prompt), num_decoding=1), 0.25)
        metrics.on_step(EngineStep((answered,), (answer,), num_decoding=1), 0.0201)
    lines = [f"12:00:00 D workers.reporting.metrics {record.getMessage()}\n" for record in caplog.records]
    assert of_worker([*lines, "12:00:00 I worker ready\n"]) == [
        Step(0.25, (Span(8, 32),), (Span(30, 1),)),
        Step(0.0201, (), (Span(30, 1),)),
    ]


def test_llama_servers_rounds_are_its_steps_and_the_parts_of_a_prompt_are_known_by_what_follows() -> None:
    lines = [
        round_ends("1.000.000"),
        new_prompt("1.000.100", 0, 600),
        goes_on("1.000.200", 0, 100),
        begin("1.001.000"),  # 500 of its 500 tokens would fit, 300 are taken
        round_ends("1.301.000"),
        token("1.301.100", 1, 50),
        goes_on("1.301.200", 0, 400),
        begin("1.302.000"),
        chosen("1.500.000", 1),
        chosen("1.502.000", 0),
        "and a line that a token has broken",
        round_ends("1.502.100"),
        token("1.502.200", 0, 600),
        token("1.502.300", 1, 51),
        begin("1.503.000"),
        begin("1.504.000"),  # without cells at first
        chosen("1.523.000", 0),
        "0.01.523.500 I srv  update_slots: all slots are idle",
    ]
    steps = of_llama_server(line + "\n" for line in lines)
    assert [(step.prefill, step.decode) for step in steps] == [
        ((Span(100, 300),), ()),
        ((Span(400, 200),), (Span(50, 1),)),
        ((), (Span(600, 1), Span(51, 1))),
    ]
    assert [step.seconds for step in steps] == pytest.approx([0.3, 0.2, 0.02])
    assert [step.num_pairs for step in steps] == [30_000, 80_050, 651]


def test_a_prompt_behind_which_nothing_is_said_ends_where_it_ends() -> None:
    lines = [new_prompt("1.000.000", 3, 64), goes_on("1.000.100", 3, 0), begin("1.001.000"), chosen("1.100.000", 3)]
    lines += [round_ends("1.100.100"), new_prompt("1.200.000", 3, 90), goes_on("1.200.100", 3, 70)]
    lines += [begin("1.201.000"), chosen("1.301.000", 3), round_ends("1.301.100")]
    assert [step.prefill for step in of_llama_server(lines)] == [(Span(0, 64),), (Span(70, 20),)]


def test_a_guess_is_more_than_one_token_of_an_answer() -> None:
    said = "generate_draft: id=42, #tokens=80, #draft=5, pos_next=80"
    lines = [slot_line("1.000.000", 0, said), begin("1.001.000"), chosen("1.101.000", 0), round_ends("1.101.100")]
    assert [step.decode for step in of_llama_server(lines)] == [(Span(80, 6),)]
