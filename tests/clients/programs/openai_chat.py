"""The openai package by itself, streamed: calls are put together of their deltas, run, and sent back."""

from typing import Any

import openai
from house import BASE_URL, MAX_ROUNDS, MAX_TOKENS, MODEL, REQUESTS, SYSTEM, TOOLS, Account


def answer(client: openai.OpenAI, messages: list[Any]) -> tuple[dict[str, Any], str]:
    """The assistant's message, and why it ended."""
    text, calls, finish_reason = "", list[dict[str, Any]](), ""
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=messages,
        tools=TOOLS,
        parallel_tool_calls=False,
        temperature=0,
        max_completion_tokens=MAX_TOKENS,
        stream=True,
    ):
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        finish_reason = choice.finish_reason or finish_reason
        for delta in choice.delta.tool_calls or ():
            if delta.index == len(calls):
                function = {"name": delta.function.name, "arguments": ""}
                calls.append({"id": delta.id, "type": "function", "function": function})
            calls[delta.index]["function"]["arguments"] += delta.function.arguments or ""
    said = {"role": "assistant", "content": text}
    # Calls of an answer that was cut off are not to be run.
    return said | ({"tool_calls": calls} if finish_reason == "tool_calls" else {}), finish_reason


def main() -> None:
    """Asks all of it."""
    account = Account("openai")
    client = openai.OpenAI(base_url=BASE_URL, api_key="none", max_retries=0)
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    for request, _, _ in REQUESTS:
        messages.append({"role": "user", "content": request})
        num_answers, finish_reason = 0, "tool_calls"
        while finish_reason == "tool_calls" and num_answers < MAX_ROUNDS:
            said, finish_reason = answer(client, messages)
            num_answers += 1
            messages.append(said)
            for call in said.get("tool_calls", ()):
                result = account.house.run(call["function"]["name"], call["function"]["arguments"])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        account.note(request, num_answers, said["content"])
    account.tell()


main()
