"""What a board tells of its workers at its health port."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from broker.messages.boards import SERVING
from tests.unit.test_board_models import MIB, NOW, FakeProcess, here, offer
from workers.boards.health import BoardHealth, report
from workers.boards.line import FromWorker
from workers.boards.models import ModelHere


@dataclass
class Worker:
    """A child, as it is seen from outside."""

    pid: int
    silent_seconds: float = 0.25
    trouble: str | None = None


def serving() -> ModelHere:
    model = here("served")
    model.began(FakeProcess(FromWorker(SERVING, num_slots=4, num_in_hand=2)), NOW)
    model.heard(NOW + 5)
    return model


def broken() -> ModelHere:
    model = here("broken")
    model.began(FakeProcess(), NOW)
    model.ended(1, NOW + 1)
    return model


def decoded(body: bytes) -> BoardHealth:
    return msgspec.json.decode(body, type=BoardHealth)


def test_each_model_is_told_with_its_worker() -> None:
    models = [serving(), broken(), here("idle")]
    found = report("b1", None, models, {"served": Worker(123)}, NOW + 7)
    assert found.is_well, "what cannot be loaded is no fault of its board's"
    told = decoded(found.body)
    assert (told.board, told.trouble) == ("b1", None)
    bad, idle, served = told.models
    assert (bad.model, bad.state, bad.num_failures) == ("broken", "broken", 1)
    assert (bad.reason, bad.retry_seconds) == ("model file m.gguf: is no model", 4.0)
    assert (idle.model, idle.state, idle.pid) == ("idle", "available", None)
    assert (served.model, served.state, served.since_seconds) == ("served", "serving", 2.0)
    assert (served.pid, served.num_in_hand, served.silent_seconds) == (123, 2, 0.2)


def test_a_worker_that_is_stuck_shows() -> None:
    stuck = Worker(123, silent_seconds=130.0, trouble="it has said nothing for 130 s")
    found = report("b1", None, [serving()], {"served": stuck}, NOW)
    assert not found.is_well
    (told,) = decoded(found.body).models
    assert (told.pid, told.trouble, told.silent_seconds) == (123, "it has said nothing for 130 s", 130.0)


def test_a_board_that_does_not_come_round_is_not_well() -> None:
    found = report("b1", "a board's round has not come round for 121 s", [], {})
    assert not found.is_well
    assert decoded(found.body).trouble == "a board's round has not come round for 121 s"


def test_why_a_model_cannot_be_loaded_is_told_from_the_first_look_on() -> None:
    model = ModelHere(offer("large", MIB), NOW)
    model.offered(replace(model.offer, plan=None, reason="takes 9,000 MiB"), NOW)
    (told,) = decoded(report("b1", None, [model], {}, NOW).body).models
    assert (told.state, told.reason) == ("broken", "takes 9,000 MiB")
