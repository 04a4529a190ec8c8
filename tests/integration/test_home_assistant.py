"""Home Assistant's conversation with a home, by what its integration sends and how it reads: every request is taken.
`make e2e-clients` has the same with a real model."""

from __future__ import annotations

import pytest

from tests.clients.home import DATE_TIME, LIGHT_SET, LIVE_CONTEXT, TURN_OFF, TURN_ON, Home
from tests.clients.home_assistant import Assist, check_server
from tests.gateway import StartGateway, talk
from tests.integration.conftest import StartWorker
from tests.tool_fakes import READERS, ScriptedEngine, called

KITCHEN = {"name": "Kitchen lamp", "domain": ["light"]}
ROUNDS = (
    called(TURN_ON, **KITCHEN),
    called(LIGHT_SET, name="Attic lamp", brightness=0, color="")
    + "\n"
    + called(LIGHT_SET, area="attic", brightness=40),
    called(LIVE_CONTEXT),
    called(DATE_TIME),
    called(TURN_OFF, name="Cellar lamp"),
    "One moment.\n" + called(TURN_OFF, area="Bedroom", domain=["light"]),
    called(LIVE_CONTEXT, domain="sensor", area="Attic"),
    called(TURN_ON, name="Attic temperature"),
    called(TURN_OFF, name="Kitchen lamp", area="Kitchen"),
)
ENTITIES = {
    "type": "object",
    "properties": {
        "lamp": {"type": "string", "format": "entity_id"},
        "colors": {"type": "array", "items": {"type": "string", "enum": ["red", "blue"]}, "uniqueItems": True},
    },
    "required": ["lamp"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [True, False])
async def test_ten_rounds_of_calls_are_run_and_a_report_follows_a_schema(
    start_worker: StartWorker, start_gateway: StartGateway, stream: bool
) -> None:
    script = (*ROUNDS, "All is done.", called(TURN_ON, name="Hall lamp"), "It is on.", '{"lamp": "light.hall_lamp"}')
    home = Home()
    async with (
        start_worker(ScriptedEngine(*script, num_ctx=32768), readers=READERS),
        start_gateway() as url,
        talk(url) as api,
    ):
        assert await check_server(api, "m")
        assist = Assist(api, "m", home, "01JV4ND2M0", stream=stream)
        first, second = await assist.say("Make it evening."), await assist.say("And the hall.")
        report = await assist.generate(
            "A title of a task as users write it, of any length that they like it to have", "Report.", ENTITIES
        )
    assert (first.text, first.num_answers, second.text, second.num_answers) == ("All is done.", 10, "It is on.", 2)
    assert [name for name, _ in home.calls] == [call.name for call in (*first.calls, *second.calls)]
    assert len({call.id for call in (*first.calls, *second.calls)}) == len(home.calls) == 11
    assert report == {"lamp": "light.hall_lamp"}
    assert home.state_of("Attic lamp") == ("on", {"brightness_pct": "40"})
    assert [home.state_of(f"{one} lamp")[0] for one in ("Kitchen", "Bedroom", "Hall")] == ["off", "off", "on"]
    assert "31.0" in str(assist.messages), "what a tool told went back"
