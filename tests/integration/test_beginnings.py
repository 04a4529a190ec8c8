"""What many conversations begin with is computed once in the cluster: another worker fetches it for its first one."""

from __future__ import annotations

from typing import Any

from broker.client import Client
from broker.messages import Done, Message, Sampling, Usage
from tests.fakes import FakeRenderer
from tests.integration.conftest import StartWorker
from tests.integration.test_transfer import TEXT, kept, of_each_kind, slow_engine
from workers.prompts.history import History


@of_each_kind
async def test_a_new_conversation_that_begins_as_a_peers_has_its_beginning_fetched(
    client: Client, start_worker: StartWorker, can_remove_part: bool
) -> None:
    """Of many that begin with the same, each worker fetches that once, and one alone has computed it."""
    begins = Message("system", TEXT * 6)

    async def first_turn(name: str) -> Done:
        sampling = Sampling(max_tokens=4)
        question = Message("user", f"{name}?")
        done: Done = await client.ask("m", [begins, question], conversation=name, sampling=sampling)
        return done

    def fresh() -> dict[str, Any]:
        engine = slow_engine(can_remove_part)
        history = History(FakeRenderer(), engine.vocabulary, has_boundaries=not can_remove_part)
        return {"engine": engine, "history": history, **kept(can_remove_part)}

    async with start_worker(**fresh()):
        computed: dict[str, list[Usage]] = {"w1": [(await first_turn("a")).usage], "w2": []}
        async with start_worker(name="w2", **fresh()):
            while len(computed["w2"]) < 3:
                done = await first_turn(f"b{len(computed['w1'])}-{len(computed['w2'])}")
                computed[done.worker].append(done.usage)
    assert computed["w1"][0].cached_tokens == 0
    later = [*computed["w1"][1:], *computed["w2"]]
    assert computed["w2"][0].cached_in == "peer"
    assert all(one.prompt_tokens - one.cached_tokens < 40 for one in later), later
    assert all(one.recomputed_tokens == 0 for one in later)
