"""An agent of LangChain's over its ChatOpenAI, streamed."""

from house import BASE_URL, MAX_ROUNDS, MAX_TOKENS, MODEL, REQUESTS, SYSTEM, Account
from langchain.agents import create_agent
from langchain.tools import tool
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_openai import ChatOpenAI
from langgraph.errors import GraphRecursionError

account = Account("langchain-openai")
chat = ChatOpenAI(
    model=MODEL, base_url=BASE_URL, api_key="none", temperature=0, max_tokens=MAX_TOKENS, max_retries=0, streaming=True
)
house = account.house
agent = create_agent(chat, tools=[tool(house.switch_lamp), tool(house.read_temperature)], system_prompt=SYSTEM)
messages = []
for request, _, _ in REQUESTS:
    before = [*messages, {"role": "user", "content": request}]
    num_chunks, found = 0, before
    try:
        # Each answer is a step of the graph, and so are an answer's calls.
        for kind, state in agent.stream(
            {"messages": before}, {"recursion_limit": 2 * MAX_ROUNDS}, stream_mode=["messages", "values"]
        ):
            if kind == "values":
                found = state["messages"]
            else:
                num_chunks += isinstance(state[0], AIMessageChunk)
    except GraphRecursionError:
        pass
    assert num_chunks > 0, "nothing was streamed"
    said = [one for one in found[len(before) :] if isinstance(one, AIMessage)]
    messages = found if not said[-1].tool_calls else [*found, AIMessage("I could not finish that.")]
    account.note(request, len(said), str(said[-1].content))
account.tell()
