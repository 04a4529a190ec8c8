"""LangChain's models of OpenAI's API."""

from features import (
    CHAT,
    EMBEDDED,
    EMBEDDER,
    EMBEDDER_URL,
    MAX_TOKENS,
    MODEL,
    SCHEMA,
    STREAM,
    THOUGHTS,
    TOOLS,
    URL,
    Features,
    are_vectors,
    is_city,
    is_stream,
    read_temperature,
    told,
)
from langchain.tools import tool
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

own = {"base_url": f"{URL}/v1", "api_key": "none", "max_retries": 0}
model = ChatOpenAI(model=MODEL, max_tokens=MAX_TOKENS, **own)
thermometer = tool(read_temperature)


class City(BaseModel):
    """A city, and how many live in it."""

    name: str
    population: int


def chat() -> bool:
    return bool(model.invoke(CHAT).content)


def stream() -> bool:
    return is_stream(str(chunk.content) for chunk in model.stream(STREAM))


def tools() -> bool:
    said = model.bind_tools([thermometer], tool_choice="any").invoke(TOOLS)
    results = [thermometer.invoke(call) for call in said.tool_calls]
    second = model.bind_tools([thermometer], tool_choice="none").invoke([HumanMessage(TOOLS), said, *results])
    return bool(results and second.content)


def schema() -> bool:
    found = model.with_structured_output(City, method="json_schema").invoke(SCHEMA)
    return is_city(found.model_dump())


def thoughts() -> str | bool:
    message = ChatOpenAI(model=MODEL, max_tokens=MAX_TOKENS, reasoning_effort="low", **own).invoke(THOUGHTS)
    return told(str(message.content), "") and "taken"  # it drops thoughts of chats


def embeddings() -> bool:
    return are_vectors(
        OpenAIEmbeddings(
            model=EMBEDDER, check_embedding_ctx_length=False, **own | {"base_url": f"{EMBEDDER_URL}/v1"}
        ).embed_documents(EMBEDDED)
    )


features = Features("langchain-openai")
for name, work in (("chat", chat), ("stream", stream), ("tools", tools), ("schema", schema), ("thoughts", thoughts)):
    features.attempt(name, work)
if EMBEDDER:
    features.attempt("embeddings", embeddings)
features.tell()
