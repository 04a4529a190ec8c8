"""instructor over the openai package: objects by a call, by a schema, and while they are written."""

from typing import Any

import features as asked
import instructor
import openai
from instructor import Mode

api = openai.OpenAI(base_url=f"{asked.URL}/v1", api_key="none", max_retries=0)
CHOSEN: Any = {"model": asked.MODEL, "max_tokens": asked.MAX_TOKENS, "temperature": asked.TEMPERATURE}


def by(mode: Mode, text: str) -> bool:
    client = instructor.from_openai(api, mode=mode)
    found = client.create(messages=asked.question(text), response_model=asked.City, max_retries=0, **CHOSEN)
    return asked.is_city(found)


def stream() -> bool:
    client = instructor.from_openai(api, mode=Mode.JSON_SCHEMA)
    found = [*client.create_partial(messages=asked.question(asked.SCHEMA), response_model=asked.City, **CHOSEN)]
    return len(found) > 1 and asked.is_city(found[-1])


asked.tell(
    "instructor",
    stream=stream,
    tools=lambda: by(Mode.TOOLS, asked.CALLED_SCHEMA),
    schema=lambda: by(Mode.JSON_SCHEMA, asked.SCHEMA),
)
