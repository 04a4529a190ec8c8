"""What becomes of one model of a board, and which orders it obeys."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from broker.messages.boards import ALWAYS, AVAILABLE, BROKEN, DRAINING, LOADING, SERVING, Order
from broker.placing import Placement
from workers.boards.line import FromWorker
from workers.boards.loading import MEASURE, READ, READY, START, WEIGHTS, Loading
from workers.boards.models import MAX_PASSING, MAX_WAIT_SECONDS, ModelHere, take_offers, to_unload
from workers.boards.offers import Offer
from workers.boards.orders import Orders
from workers.machine.memory import MemoryPlan

MIB = 2**20
NOW = 1_000_000.0


def offer(model: str, num_bytes: int) -> Offer:
    plan = MemoryPlan(num_bytes, 0, 0, process=0)
    return Offer(model, f"sha-{model}", ((model, num_bytes, 0),), num_bytes, plan)


@dataclass
class FakeProcess:
    """A worker's process, as `Child` is one."""

    told: FromWorker = field(default_factory=FromWorker)
    is_leaving: bool = False
    trouble: str | None = None
    last_words: str = "model file m.gguf: is no model"

    @property
    def is_loading(self) -> bool:
        return self.told.state == LOADING


def here(name: str = "m", num_bytes: int = MIB) -> ModelHere:
    found = ModelHere(offer(name, num_bytes), NOW)
    found.offered(found.offer, NOW)
    return found


def test_a_model_goes_through_its_states() -> None:
    model, process = here(), FakeProcess()
    assert (model.state, model.can_load(NOW)) == (AVAILABLE, True)
    model.began(process, NOW + 1)
    process.told = FromWorker(read_bytes=512)
    assert not model.heard(NOW + 2)
    told = model.as_told(5.0, ALWAYS)
    assert (told.state, told.read_bytes, told.file_bytes, told.since, told.pin) == (LOADING, 512, MIB, NOW + 1, ALWAYS)
    process.told = FromWorker(SERVING, num_slots=4)
    assert model.heard(NOW + 3)
    assert not model.heard(NOW + 4)
    process.told = FromWorker(
        SERVING, num_slots=4, num_in_hand=2, num_settled=1, turn_seconds=3.0, longest_turn_seconds=9.0
    )
    model.heard(NOW + 5)
    told = model.as_told(5.0, None)
    assert (told.state, told.since, told.used_at) == (SERVING, NOW + 3, NOW + 5)
    assert (told.num_in_hand, told.num_slots, told.turn_seconds, told.longest_turn_seconds) == (2, 4, 3.0, 9.0)
    process.is_leaving = True
    model.heard(NOW + 6)
    assert model.state == DRAINING
    assert model.ended(0, NOW + 7) is None
    told = model.as_told(5.0, None)
    assert (told.state, told.num_in_hand, told.num_slots, told.turn_seconds) == (AVAILABLE, 0, 4, 3.0)
    assert told.longest_turn_seconds == 9.0
    assert told.planned_bytes == MIB


def test_a_broken_file_is_tried_again_later_and_later_until_it_is_another() -> None:
    model, now, waits = here(), NOW, []
    for _ in range(9):
        model.began(FakeProcess(), now)
        assert model.ended(1, now) == "model file m.gguf: is no model"
        told = model.as_told(1.0, None)
        assert (told.state, told.reason) == (BROKEN, "model file m.gguf: is no model")
        assert not model.can_load(now)
        waits.append(told.retry_at - now)
        now = told.retry_at
        assert model.can_load(now)
    assert waits == sorted(waits)
    assert waits[:3] == [10.0, 20.0, 40.0]
    assert waits[-1] == MAX_WAIT_SECONDS
    model.offered(model.offer, now + 1)
    assert model.state == BROKEN
    model.offered(replace(model.offer, stamp=(("m", 1, 2),)), now + 2)
    assert (model.state, model.reason, model.can_load(now + 2)) == (AVAILABLE, "", True)


def test_a_worker_that_dies_is_started_anew_soon_and_not_in_a_loop() -> None:
    model, process = here(), FakeProcess(FromWorker(SERVING), last_words="Segmentation fault")
    waits = []
    for served in (5.0, 5.0, 5.0, 100.0):
        model.began(process, NOW)
        model.heard(NOW)
        reason = model.ended(-9, NOW + served)
        assert reason == "its worker was ended by SIGKILL: Segmentation fault"
        waits.append(model.retry_at - NOW - served)
        told = model.as_told(1.0, None)
        assert (told.state, told.reason, told.retry_at) == (BROKEN, reason, model.retry_at)
        assert not model.can_load(NOW + served)
    assert waits == [1.0, 2.0, 4.0, 1.0]


def test_deaths_count_in_a_row_and_what_has_served_and_gone_in_peace_begins_anew() -> None:
    model = here()
    for _ in range(3):
        model.began(FakeProcess(FromWorker(SERVING)), NOW)
        model.heard(NOW)
        model.ended(-9, NOW + 5)
    model.began(FakeProcess(FromWorker(SERVING), is_leaving=True), NOW + 20)
    assert model.ended(0, NOW + 30) is None
    model.began(FakeProcess(FromWorker(SERVING)), NOW + 40)
    model.heard(NOW + 40)
    model.ended(-9, NOW + 45)
    assert model.retry_at - NOW == 46


def test_what_may_not_happen_again_is_no_verdict_on_a_model() -> None:
    killed, file, crashes, cut_off, crowded = (here() for _ in range(5))
    for _ in range(4):
        killed.began(FakeProcess(), NOW)
        killed.ended(-9, NOW)
        file.began(FakeProcess(), NOW)
        file.ended(1, NOW)
        crashes.began(FakeProcess(), NOW)
        crashes.ended(-11, NOW)
        cut_off.began(FakeProcess(last_words="no server"), NOW)
        cut_off.ended(1, NOW, was_cut_off=True)
        crowded.refused("no room", NOW, 10.0)
        seen = [one.as_told(1.0, None).is_passing for one in (killed, file, crashes, cut_off, crowded)]
        if killed.num_failures <= MAX_PASSING:
            assert seen == [True, False, False, True, True]
    assert seen == [False] * 5, "four times in a row is no accident"


def test_a_worker_that_is_stuck_is_told_with_its_trouble() -> None:
    model, process = here(), FakeProcess(FromWorker(SERVING), trouble="a step has taken 301 s")
    model.began(process, NOW)
    model.heard(NOW)
    assert model.ended(-9, NOW + 400) == "its worker was ended by SIGKILL: a step has taken 301 s"


def test_a_worker_that_somebody_else_has_drained_is_not_broken() -> None:
    model, process = here(), FakeProcess(FromWorker(SERVING))
    model.began(process, NOW)
    model.heard(NOW)
    process.told = FromWorker(DRAINING)
    model.heard(NOW + 1)
    assert model.state == DRAINING
    assert model.ended(0, NOW + 2) is None
    assert model.state == AVAILABLE


def test_a_model_whose_file_is_no_good_is_not_loaded_and_comes_back_with_another_file() -> None:
    model = here()
    model.offered(replace(model.offer, plan=None, reason="m.gguf not in models"), NOW)
    assert (model.state, model.reason) == (BROKEN, "m.gguf not in models")
    assert not model.can_load(NOW + 60)
    model.offered(model.offer, NOW + 30)
    assert model.retry_at > NOW + 60
    model.offered(offer("m", 2 * MIB), NOW + 60)
    assert (model.state, model.can_load(NOW + 60)) == (AVAILABLE, True)


def test_an_operators_load_has_those_go_that_do_nothing_and_never_the_pinned() -> None:
    idle, busy, pinned, wanted = here("idle", 100), here("busy", 100), here("pinned", 100), here("wanted", 200)
    for one, in_hand in ((idle, 0), (busy, 2), (pinned, 0)):
        one.began(FakeProcess(FromWorker(SERVING, num_in_hand=in_hand)), NOW)
        one.heard(NOW)
    there, pins = [idle, busy, pinned, wanted], {"pinned": ALWAYS}
    assert to_unload(wanted, there, 500, pins) == ()
    assert to_unload(wanted, there, 400, pins) == ("idle",)
    assert to_unload(wanted, there, 300, pins) == ("idle", "busy")
    assert to_unload(wanted, there, 200, pins) is None


def test_a_model_that_there_was_no_room_for_has_a_good_file() -> None:
    model = here()
    model.refused("no room: 2 bytes are planned, of 1", NOW, 10.0)
    told = model.as_told(1.0, None)
    assert (told.reason, told.retry_at, told.is_passing) == ("no room: 2 bytes are planned, of 1", NOW + 10, True)
    assert [model.can_load(at) for at in (NOW + 9, NOW + 10)] == [False, True]
    model.began(FakeProcess(), NOW + 11)
    told = model.as_told(1.0, None)
    assert (told.reason, told.retry_at) == ("", 0.0)


def test_why_a_file_was_removed_is_told_for_a_while_and_it_is_not_tried_without_one() -> None:
    models, wrong = {"m": here()}, "m: has SHA-256 1, the lock file says 2: removed"
    models["m"].began(FakeProcess(last_words=wrong), NOW)
    models["m"].ended(1, NOW)
    for seconds in (1, 11, 59):
        take_offers(models, {}, NOW + seconds)
        told = models["m"].as_told(1.0, None)
        assert (told.state, told.reason, told.retry_at > NOW + seconds) == (BROKEN, wrong, True)
        assert not models["m"].can_load(told.retry_at)
    take_offers(models, {}, NOW + 62)
    assert models == {}


def test_why_the_file_of_a_model_that_was_named_was_removed_is_told_until_there_is_another() -> None:
    models, wrong = {"m": here()}, "m: has SHA-256 1, the lock file says 2: removed"
    missing = replace(offer("m", MIB), stamp=(), plan=None, reason="m.gguf not in models")
    take_offers(models, {"m": missing}, NOW)
    assert models["m"].reason == "m.gguf not in models"
    take_offers(models, {"m": offer("m", MIB)}, NOW)
    models["m"].began(FakeProcess(last_words=wrong), NOW)
    models["m"].ended(1, NOW)
    take_offers(models, {"m": missing}, NOW + 1)
    assert (models["m"].reason, models["m"].can_load(NOW + 500)) == (wrong, False)
    take_offers(models, {"m": offer("m", 2 * MIB)}, NOW + 2)
    assert (models["m"].state, models["m"].reason, models["m"].num_failures) == (AVAILABLE, "", 0)


def test_a_model_whose_file_has_gone_is_forgotten_once_its_worker_has_ended() -> None:
    models = {"m": here()}
    models["m"].began(FakeProcess(FromWorker(SERVING)), NOW)
    take_offers(models, {}, NOW + 30)
    assert list(models) == ["m"]
    models["m"].ended(0, NOW + 31)
    take_offers(models, {}, NOW + 60)
    assert models == {}


# --- Orders ----------------------------------------------------------------------------------------------------------


def test_an_order_is_obeyed_once_and_by_boards_that_were_there() -> None:
    orders = Orders("b", NOW)
    old = Order("m", load=True, sent_at=NOW - 1)
    general, own = Order("m", load=True, sent_at=NOW + 1), Order("m", "b", load=False, sent_at=NOW + 2)
    pin = Order("n", pin=ALWAYS, sent_at=NOW + 3)
    assert orders.due(Placement(orders={("m", None): old}), ["m", "n"]) == []
    placement = Placement(orders={("m", None): general, ("m", "b"): own, ("n", None): pin, ("x", None): general})
    assert orders.due(placement, ["m", "n"]) == [general, own]
    assert orders.due(placement, ["m", "n"]) == []
    again = Order("m", load=True, sent_at=NOW + 4)
    assert orders.due(Placement(orders={("m", None): again, ("m", "b"): own}), ["m"]) == [again]


def test_a_load_is_told_by_what_its_phases_took_before_and_never_goes_back() -> None:
    model, process = here(num_bytes=1000), FakeProcess()
    model.began(process, NOW, {START: 1.0, READ: 2.0, WEIGHTS: 5.0, MEASURE: 0.0, READY: 2.0})
    shares: list[float] = []

    def after(seconds: float, phase: str, done: float = 0.0, read: int = 1000, **took: float) -> None:
        process.told = FromWorker(phase=phase, done=done, read_bytes=read, took=took)
        model.heard(NOW + seconds)
        told = model.as_told(10.0, None).loaded
        assert told is not None
        shares.append(told)

    after(0.5, START, read=0)
    after(1.0, READ, read=0, start=1.0)
    after(2.0, READ, read=500, start=1.0)
    after(3.0, WEIGHTS, start=1.0, read=1000)
    after(3.0, WEIGHTS, 0.0, start=1.0)
    after(5.5, WEIGHTS, 0.5, start=1.0)
    # It is slower than it was: by its pace this phase takes twice as long.
    after(11.0, WEIGHTS, 0.8, start=1.0)
    after(13.0, MEASURE, start=1.0)
    after(14.0, READY, start=1.0)
    assert shares[:6] == pytest.approx([0.05, 0.1, 0.2, 0.3, 0.3, 0.55])
    assert shares == sorted(shares)
    assert shares[6] == pytest.approx((1 + 2 + 8) / (1 + 2 + 10 + 2))
    assert max(shares) < 1
    process.told = FromWorker(SERVING)
    assert model.heard(NOW + 15)
    assert model.as_told(10.0, None).loaded is None


def test_of_a_load_that_tells_no_phase_nothing_is_made_up() -> None:
    model, process = here(), FakeProcess()
    model.began(process, NOW)
    process.told = FromWorker(phase="another release's")
    model.heard(NOW + 1)
    assert model.as_told(5.0, None).loaded is None


def test_a_worker_tells_its_phases_and_what_they_took() -> None:
    now = 10.0
    loading = Loading(lambda: now, age=0.5)
    assert loading.told == FromWorker(phase=START)
    now = 10.5
    loading.begin(READ)
    loading.read(700)
    assert loading.told == FromWorker(phase=READ, read_bytes=700, took={START: 1.0})
    now = 12.5
    loading.begin(WEIGHTS)
    loading.at(0.5)
    loading.at(0.4)
    assert loading.told.done == 0.5
    now = 13.5
    assert loading.served(FromWorker(SERVING)).took == {START: 1.0, READ: 2.0, WEIGHTS: 1.0}
    assert str(loading) == "4.0 s: start 1.00, read 2.00, llama.cpp 1.00"
    # One that has waited for its model counts from then on.
    loading = Loading(lambda: now, age=60.0)
    loading.begin_anew()
    now = 14.0
    loading.begin(READ)
    assert loading.took == {START: 0.5}
