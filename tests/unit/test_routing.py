from __future__ import annotations

import pytest

from broker.discovery import Load, WorkerInfo
from broker.errors import UnservedModel
from producers.routing import Decision, ModelTags, Policy, Routes, choose


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
