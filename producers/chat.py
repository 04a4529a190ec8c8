"""`turnpike chat`: a conversation at the terminal. ^C stops an answer, ^D or ^C at the prompt the program."""

from __future__ import annotations

import asyncio
import signal
import sys

from broker.client import Client
from broker.connection import Address
from broker.errors import TurnFailed
from broker.messages import Message, Sampling, new_id
from producers.ask import cancel_on, resolve, summary


async def chat(address: Address, model: str, sampling: Sampling, system: str | None = None) -> int:
    """Reads a message, streams the answer, keeps the history; until the input ends."""
    messages = [Message("system", system)] if system else []
    conversation = new_id()
    async with Client(address) as client:
        model = await resolve(client, model)
        sys.stderr.write(f"talking to {model}; ^C stops an answer, ^D ends\n")
        while True:
            try:
                text = await asyncio.to_thread(_read)
            except EOFError:
                sys.stderr.write("\n")
                return 0
            if not text.strip():
                continue
            answered = await _turn(client, model, [*messages, Message("user", text)], sampling, conversation)
            if answered is not None:
                # A stopped answer stays in the history as far as it went.
                messages += [Message("user", text), Message("assistant", answered)]


def _read() -> str:
    sys.stderr.write("> ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


async def _turn(
    client: Client, model: str, messages: list[Message], sampling: Sampling, conversation: str
) -> str | None:
    """Streams one answer and returns its text; None when there is none to keep."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    failed = False
    answer = client.ask(model, messages, sampling=sampling, conversation=conversation)
    try:
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(cancel_on(stop, answer))
            async for chunk in answer:
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
            stopping.cancel()
    except* TurnFailed:
        failed = True
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    if failed:
        sys.stderr.write(summary(answer) + "\n")
        return None
    sys.stdout.write("\n")
    sys.stderr.write(summary(answer) + "\n")
    return answer.text
