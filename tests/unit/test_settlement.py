"""Every delivery is settled once, by its outcome; dead letter before end, end before acknowledgement."""

from __future__ import annotations

import pytest

from broker.delivery import Delivery
from broker.errors import PublishError, ServerError
from broker.jetstream import ACK, NAK, nak_after
from broker.messages import Done, Failed, Timings, Usage
from tests.turn_fakes import CLIENT, FakeReport, FakeTurnStore, Wire, delivery_of, turn_of
from workers.turns.outcomes import Answered, Dead, Faulted, Outcome, Over, Returned, TakenOver
from workers.turns.recent import RecentTurns
from workers.turns.settlement import FAULT_SECONDS, MAX_FAULTS, Settlement

DONE = Done("stop", "hi", (1, 2), Usage(10, 4, 2), Timings(0, 0, 0), "w1")
FAILED = Failed("invalid_message", "no", worker="w1")
TURN = turn_of()


class Counter:
    """A settlement with everything that it tells."""

    def __init__(self) -> None:
        self.store = FakeTurnStore()
        self.report = FakeReport()
        self.recent = RecentTurns()
        self.wire = Wire()
        self.settlement = Settlement("w1", self.store, self.report, self.recent)

    def delivery(self, num_delivered: int = 1) -> Delivery:
        return delivery_of(TURN, self.wire, num_delivered=num_delivered, sequence=7)


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Answered(DONE), [ACK]),
        (Answered(FAILED), [ACK]),
        (Dead(FAILED), [ACK]),
        (Over(), [ACK]),
        (Returned(), [NAK]),
        (TakenOver(), []),
        (Faulted(ValueError()), [nak_after(FAULT_SECONDS)]),
    ],
)
async def test_the_server_is_told_once_what_became_of_a_delivery(outcome: Outcome, told: list[bytes]) -> None:
    counter = Counter()
    delivery = counter.delivery()
    await counter.settlement.settle(delivery, outcome)
    assert counter.wire.told == told
    assert delivery.is_settled


async def test_an_answer_is_stored_counted_and_reported() -> None:
    counter = Counter()
    await counter.settlement.settle(counter.delivery(), Answered(DONE), TURN)
    assert counter.store.ends == {(CLIENT, "t1"): DONE}
    assert counter.store.letters == []
    assert counter.report.ends == [DONE]
    assert (counter.recent.cached_share, counter.recent.num_failed) == (0.4, 0)


async def test_an_end_that_another_worker_wrote_first_is_acknowledged_and_not_counted() -> None:
    counter = Counter()
    counter.store.ends[CLIENT, "t1"] = DONE
    await counter.settlement.settle(counter.delivery(), Answered(FAILED), TURN)
    assert counter.wire.told == [ACK]
    assert counter.store.ends == {(CLIENT, "t1"): DONE}
    assert (counter.report.ends, counter.recent.num_failed) == ([], 0)


async def test_a_dead_letter_has_the_turns_bytes_and_comes_before_its_end() -> None:
    counter = Counter()
    delivery = counter.delivery(num_delivered=4)
    await counter.settlement.settle(delivery, Dead(FAILED, ("w0", "w1")), TURN)
    assert counter.store.steps == ["dead letter", "end"]
    (letter,) = counter.store.letters
    assert (letter.payload, letter.subject, letter.content_type) == (
        delivery.payload,
        delivery.subject,
        "application/msgpack",
    )
    assert (letter.reason, letter.attempts, letter.workers) == ("invalid_message: no", 4, ("w0", "w1"))
    assert counter.recent.num_failed == 1


@pytest.mark.parametrize("error", [ServerError("away"), PublishError("full")])
@pytest.mark.parametrize("outcome", [Answered(DONE), Dead(FAILED)])
async def test_what_could_not_be_stored_is_not_acknowledged(error: Exception, outcome: Outcome) -> None:
    counter = Counter()
    counter.store.error = error
    delivery = counter.delivery()
    with pytest.raises(type(error)):
        await counter.settlement.settle(delivery, outcome, TURN)
    assert not delivery.is_settled
    assert counter.report.ends == []


async def test_a_fault_of_ours_is_tried_again_and_then_the_turns_end() -> None:
    counter = Counter()
    await counter.settlement.settle(counter.delivery(MAX_FAULTS), Faulted(KeyError("x")))
    assert counter.store.steps == []
    await counter.settlement.settle(counter.delivery(MAX_FAULTS + 1), Faulted(KeyError("x")))
    assert counter.store.steps == ["dead letter", "end"]
    end = counter.store.ends[CLIENT, "t1"]
    assert isinstance(end, Failed)
    assert (end.code, end.retryable) == ("internal_error", True)
    assert end.detail == "KeyError, 4 times over: the worker's log says where"
    assert counter.wire.told == [nak_after(FAULT_SECONDS), ACK]


async def test_a_fault_whose_end_cannot_be_stored_is_tried_again() -> None:
    counter = Counter()
    counter.store.error = ServerError("away")
    await counter.settlement.settle(counter.delivery(MAX_FAULTS + 1), Faulted(KeyError("x")))
    assert counter.wire.told == [nak_after(FAULT_SECONDS)]
