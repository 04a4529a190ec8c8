"""A small home as Home Assistant offers it to a model: entities in areas, the tools of its Assist API, and what comes
of their calls. Names and schemas are those of its release 2026.11, descriptions our own words."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

DEVICE_CLASSES = "outlet switch awning blind curtain damper door garage gate shade shutter window water gas tv speaker"
TURN_ON, TURN_OFF = "intent__HassTurnOn", "intent__HassTurnOff"
LIGHT_SET, LIVE_CONTEXT = "light__HassLightSet", "homeassistant__GetLiveContext"
DATE_TIME, CANCEL_TIMERS, ADD_ITEM = "llm__GetDateTime", "intent__HassCancelAllTimers", "todo__HassListAddItem"

_TEXT = {"type": "string"}
_TARGET = {"name": _TEXT, "area": _TEXT, "floor": _TEXT}
_ON_OFF = {
    **_TARGET,
    "domain": {"type": "array", "items": _TEXT},
    "device_class": {"type": "array", "items": {"type": "string", "enum": DEVICE_CLASSES.split()}},
}
_LIGHT = {
    **_TARGET,
    "domain": {"type": "array", "items": {"type": "string", "enum": ["light"]}},
    "color": _TEXT,
    "temperature": {"type": "integer", "minimum": 0},
    "brightness": {"type": "integer", "minimum": 0, "maximum": 100, "description": "percent; 0 is off, 100 is full"},
}
_LIVE = {
    "name": _TEXT | {"description": "of an entity, or another name of it"},
    "domain": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}], "description": "such as light or sensor"},
    "area": _TEXT | {"description": "a room"},
}


def _tool(name: str, description: str, properties: dict[str, Any], *required: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    parameters |= {"required": [*required]} if required else {}
    parameters["additionalProperties"] = False
    return {"type": "function", "function": {"name": name, "parameters": parameters, "description": description}}


TOOLS = [
    _tool(TURN_ON, "Turns a device on, opens it or presses it. Locks are locked by it.", _ON_OFF),
    _tool(TURN_OFF, "Turns a device off, or closes it. Locks are unlocked by it.", _ON_OFF),
    _tool(CANCEL_TIMERS, "Stops every timer that runs", {"area": _TEXT}),
    _tool(LIGHT_SET, "Changes how bright a light is, in percent, or its color", _LIGHT),
    _tool(ADD_ITEM, "Puts an item on a list", {"item": _TEXT, "name": _TEXT}, "item", "name"),
    _tool(DATE_TIME, "Tells the date and the time of day", {}),
    _tool(LIVE_CONTEXT, "Tells how devices, sensors and rooms are just now: states, values and modes", _LIVE),
]
PROMPT = """You are the voice assistant of a home.
Answer in plain text, in one short sentence.
To control the home always call a tool. For one device pass its name and domain, for a room its area and domain.
Who asks for all devices of a kind has to name a room.
This device cannot start timers.
For the state of anything in the home just now call the tool that tells it, and answer with the value that it gave.
These are the rooms and the devices of the home:
"""


class NotFound(Exception):
    """Nothing in the home is meant by a call."""


@dataclass
class Entity:
    """A lamp, a plug or a sensor."""

    name: str
    domain: str
    area: str
    state: str
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """As Home Assistant makes them of names."""
        return f"{self.domain}.{self.name.lower().replace(' ', '_')}"

    def line(self, *, with_state: bool) -> str:
        """As YAML."""
        found = f"- names: {self.name}\n  domain: {self.domain}\n"
        found += f"  state: '{self.state}'\n" if with_state else ""
        found += f"  areas: {self.area}\n"
        if with_state and self.attributes:
            found += "  attributes:\n" + "".join(f"    {key}: '{value}'\n" for key, value in self.attributes.items())
        return found


class Home:
    """Eight entities, and an account of every call."""

    def __init__(self) -> None:
        self.entities = [
            Entity("Attic lamp", "light", "Attic", "off"),
            Entity("Attic temperature", "sensor", "Attic", "31.0", {"unit_of_measurement": "°C"}),
            Entity("Bedroom lamp", "light", "Bedroom", "on", {"brightness_pct": "100"}),
            Entity("Garden plug", "switch", "Garden", "off"),
            Entity("Hall lamp", "light", "Hall", "off"),
            Entity("Kitchen lamp", "light", "Kitchen", "off"),
            Entity("Kitchen temperature", "sensor", "Kitchen", "21.5", {"unit_of_measurement": "°C"}),
            Entity("Workshop lamp", "light", "Workshop", "on", {"brightness_pct": "60"}),
        ]
        self.calls: list[tuple[str, dict[str, Any]]] = []
        """What was really called, in its order."""

    @property
    def prompt(self) -> str:
        """The system message: the same in all conversations, so that a cluster computes it once."""
        return PROMPT + "".join(one.line(with_state=False) for one in self.entities)

    def state_of(self, name: str) -> tuple[str, dict[str, str]]:
        """Of the entity of that name."""
        (found,) = [one for one in self.entities if one.name == name]
        return found.state, found.attributes

    def run(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """A call's result in Home Assistant's form: what went wrong is one as well."""
        self.calls.append((name, arguments))
        try:
            return {"data": self._run(name, {key: one for key, one in arguments.items() if one}), "error": False}
        except NotFound as error:
            return {"data": {"error": "MatchFailedError", "error_text": str(error)}, "error": True}

    def _run(self, name: str, slots: dict[str, Any]) -> dict[str, Any]:
        match name:
            case "intent__HassTurnOn" | "intent__HassTurnOff":
                return self._done([self._switch(one, name == TURN_ON) for one in self._meant(slots)])
            case "light__HassLightSet":
                lights = [one for one in self._meant(slots) if one.domain == "light"]
                return self._done([self._set(one, slots) for one in lights])
            case "homeassistant__GetLiveContext":
                found = self._meant(slots) if slots else self.entities
                return {"result": "The home just now:\n" + "".join(one.line(with_state=True) for one in found)}
            case "llm__GetDateTime":
                return {"date": "2026-11-27", "time": "07:30:00", "timezone": "UTC", "weekday": "Friday"}
            case "intent__HassCancelAllTimers" | "todo__HassListAddItem":
                return self._done([])
        raise NotFound(f'Tool "{name}" not found')

    def _meant(self, slots: dict[str, Any]) -> list[Entity]:
        """Which entities a call's slots name. Raises NotFound."""
        wanted = {key: str(slots[key]).casefold() for key in ("name", "area") if key in slots}
        domains = slots.get("domain", [])
        domains = [domains] if isinstance(domains, str) else domains
        found = [
            one
            for one in self.entities
            if wanted.get("name", one.name.casefold()) in (one.name.casefold(), one.id, "all")
            and wanted.get("area", one.area.casefold()) == one.area.casefold()
            and (not domains or one.domain in domains)
        ]
        if not found or not (wanted or domains):
            raise NotFound(f"nothing matched {json.dumps(slots)}")
        return found

    @staticmethod
    def _switch(entity: Entity, is_on: bool) -> Entity:
        if entity.domain == "sensor":
            raise NotFound(f"{entity.name} cannot be turned on or off")
        entity.state = "on" if is_on else "off"
        if entity.domain == "light":
            entity.attributes = {"brightness_pct": "100"} if is_on else {}
        return entity

    @staticmethod
    def _set(light: Entity, slots: dict[str, Any]) -> Entity:
        light.state = "on"
        light.attributes |= {"brightness_pct": str(slots.get("brightness", 100))}
        light.attributes |= {"color": str(slots["color"])} if "color" in slots else {}
        return light

    @staticmethod
    def _done(entities: list[Entity]) -> dict[str, Any]:
        success = [{"name": one.name, "type": "entity", "id": one.id} for one in entities]
        return {"speech": {}, "response_type": "action_done", "data": {"success": success, "failed": []}}
