"""What packages are asked whose chats are OpenAI's: their answers have `choices`, whatever API they speak."""

import json
from collections.abc import Callable
from typing import Any

import features as asked


class Chats:
    """By how a package is asked: a text, and fields of the request besides."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask

    def chat(self) -> bool:
        return bool(self._ask(asked.CHAT).choices[0].message.content)

    def stream(self) -> bool:
        pieces = self._ask(asked.STREAM, stream=True)
        return asked.is_stream(one.choices[0].delta.content or "" for one in pieces)

    def tools(self) -> bool:
        said = self._ask(asked.TOOLS, tools=[asked.TOOL], tool_choice="required").choices[0].message
        messages = [*asked.question(asked.TOOLS), said]
        for call in said.tool_calls:
            result = asked.read_temperature(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        second = self._ask(asked.TOOLS, messages=messages, tools=[asked.TOOL], tool_choice="none")
        return bool(second.choices[0].message.content)

    def thoughts(self, **more: Any) -> str | bool:
        message = self._ask(asked.THOUGHTS, **more).choices[0].message
        return asked.told(message.content, getattr(message, "reasoning_content", None))
