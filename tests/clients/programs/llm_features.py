"""llm, as its users name a model of their own: by a line of extra-openai-models.yaml."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import features as asked

folder = tempfile.TemporaryDirectory(prefix="turnpike-llm-")
os.environ["LLM_USER_PATH"] = folder.name
entry = {
    "model_id": "turnpike",
    "model_name": asked.MODEL,
    "api_base": f"{asked.URL}/v1",
    "supports_schema": True,
    "supports_tools": True,
}
(Path(folder.name) / "extra-openai-models.yaml").write_text(json.dumps([entry]))

import llm  # noqa: E402

model = llm.get_model("turnpike")
model.key = "none"
OPTIONS: Any = {"max_tokens": asked.MAX_TOKENS, "temperature": asked.TEMPERATURE}


def chat() -> bool:
    return bool(model.prompt(asked.CHAT, stream=False, **OPTIONS).text())


def stream() -> bool:
    return asked.is_stream(model.prompt(asked.STREAM, **OPTIONS))


def tools() -> bool | str:
    chain = model.chain(asked.TOOLS, tools=[asked.read_temperature], options=OPTIONS)
    text, has_called = "", False
    for number, one in enumerate(chain.responses(), 1):
        text, calls = one.text(), one.tool_calls()
        if calls and number == asked.MAX_ROUNDS:
            return "calls on"
        has_called = has_called or bool(calls)
    return ("yes" if has_called else "taken") if text else False


def schema() -> bool:
    schema = asked.City.model_json_schema()
    return asked.is_city(json.loads(model.prompt(asked.SCHEMA, schema=schema, **OPTIONS).text()))


asked.tell("llm", chat=chat, stream=stream, tools=tools, schema=schema)
folder.cleanup()
