from __future__ import annotations

from tests.fuzz import decode_all


def test_twenty_thousand_hostile_payloads_are_taken_or_refused() -> None:
    taken, refused = decode_all(20_000, seed=1)
    assert taken > 100, "the mutants are not near enough to messages"
    assert refused > 100_000
