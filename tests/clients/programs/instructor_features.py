"""instructor over the openai package: objects by a call, by a schema, and while they are written."""

import instructor
import openai
from features import MAX_TOKENS, MODEL, SCHEMA, URL, Features, is_city
from pydantic import BaseModel

api = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)


class City(BaseModel):
    """A city, and how many live in it."""

    name: str
    population: int


def by(mode: instructor.Mode, question: str) -> bool:
    client = instructor.from_openai(api, mode=mode)
    messages = [{"role": "user", "content": question}]
    found = client.create(model=MODEL, messages=messages, response_model=City, max_tokens=MAX_TOKENS, max_retries=0)
    return is_city(found.model_dump())


def stream() -> bool:
    client = instructor.from_openai(api, mode=instructor.Mode.JSON_SCHEMA)
    messages = [{"role": "user", "content": SCHEMA}]
    found = [*client.create_partial(model=MODEL, messages=messages, response_model=City, max_tokens=MAX_TOKENS)]
    return len(found) > 1 and is_city(found[-1].model_dump())


features = Features("instructor")
features.attempt("stream", stream)
features.attempt("tools", lambda: by(instructor.Mode.TOOLS, f"Call it. {SCHEMA}"))
features.attempt("schema", lambda: by(instructor.Mode.JSON_SCHEMA, SCHEMA))
features.tell()
