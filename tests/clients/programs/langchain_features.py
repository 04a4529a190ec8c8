"""LangChain's models of OpenAI's API."""

import features as asked
from langchain.tools import tool
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

own = {"base_url": f"{asked.URL}/v1", "api_key": "none", "max_retries": 0}
chosen = own | {"model": asked.MODEL, "max_tokens": asked.MAX_TOKENS, "temperature": asked.TEMPERATURE}
model = ChatOpenAI(**chosen)
thermometer = tool(asked.read_temperature)


def chat() -> bool:
    return bool(model.invoke(asked.CHAT).content)


def stream() -> bool:
    return asked.is_stream(str(chunk.content) for chunk in model.stream(asked.STREAM))


def tools() -> bool:
    said = model.bind_tools([thermometer], tool_choice="any").invoke(asked.TOOLS)
    results = [thermometer.invoke(call) for call in said.tool_calls]
    after = [HumanMessage(asked.TOOLS), said, *results]
    return bool(results and model.bind_tools([thermometer], tool_choice="none").invoke(after).content)


def schema() -> bool:
    return asked.is_city(model.with_structured_output(asked.City, method="json_schema").invoke(asked.SCHEMA))


def thoughts() -> str | bool:
    message = ChatOpenAI(**chosen, reasoning_effort="low").invoke(asked.THOUGHTS)
    return asked.told(str(message.content), None)  # it drops thoughts of chats


def embeddings() -> bool:
    # It would send tokens of OpenAI's own vocabulary.
    there = own | {"base_url": f"{asked.EMBEDDER_URL}/v1", "check_embedding_ctx_length": False}
    return asked.are_vectors(OpenAIEmbeddings(model=asked.EMBEDDER, **there).embed_documents(asked.EMBEDDED))


asked.tell(
    "langchain-openai",
    chat=chat,
    stream=stream,
    tools=tools,
    schema=schema,
    thoughts=thoughts,
    embeddings=embeddings,
)
