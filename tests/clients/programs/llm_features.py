"""llm, as its users name a model of their own: by a line of extra-openai-models.yaml."""

import json
import os
import tempfile
from pathlib import Path

from features import (
    CHAT,
    CITY,
    MAX_ROUNDS,
    MAX_TOKENS,
    MODEL,
    SCHEMA,
    STREAM,
    TOOLS,
    URL,
    Features,
    is_city,
    is_stream,
    read_temperature,
)

folder = tempfile.TemporaryDirectory(prefix="turnpike-llm-")
os.environ["LLM_USER_PATH"] = folder.name
entry = {
    "model_id": "turnpike",
    "model_name": MODEL,
    "api_base": f"{URL}/v1",
    "supports_schema": True,
    "supports_tools": True,
}
(Path(folder.name) / "extra-openai-models.yaml").write_text(json.dumps([entry]))

import llm  # noqa: E402

model = llm.get_model("turnpike")
model.key = "none"


def chat() -> bool:
    return bool(model.prompt(CHAT, max_tokens=MAX_TOKENS, stream=False).text())


def stream() -> bool:
    return is_stream(model.prompt(STREAM, max_tokens=MAX_TOKENS))


def tools() -> bool | str:
    chain = model.chain(TOOLS, tools=[read_temperature], options={"max_tokens": MAX_TOKENS})
    text, has_called = "", False
    for number, one in enumerate(chain.responses()):
        text, has_called = one.text(), has_called or bool(one.tool_calls())
        if number == MAX_ROUNDS:
            return "calls on" if has_called else False
    return has_called and bool(text)


def schema() -> bool:
    return is_city(json.loads(model.prompt(SCHEMA, schema=CITY, max_tokens=MAX_TOKENS).text()))


features = Features("llm")
for name, work in (("chat", chat), ("stream", stream), ("tools", tools), ("schema", schema)):
    features.attempt(name, work)
features.tell()
folder.cleanup()
