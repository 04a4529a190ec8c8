"""`turnpike chat`: a conversation at the terminal. ^C stops an answer, ^D or ^C at the prompt the program."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

from broker.client import Client
from broker.connection import Address
from broker.errors import TurnFailed
from broker.messages import Message, Sampling, new_id
from producers.ask import NO_ROUTES, cancel_on, resolve, summary
from producers.routing import Routes

MAX_LINES_AHEAD = 16


async def chat(
    address: Address, model: str, sampling: Sampling, system: str | None = None, routes: Routes = NO_ROUTES
) -> int:
    """Reads a message, streams the answer, keeps the history; until the input ends."""
    messages = [Message("system", system)] if system else []
    conversation = new_id()
    async with Client(address) as client:
        model = await resolve(client, model, routes)
        sys.stderr.write(f"talking to {model}; ^C stops an answer, ^D ends\n")
        lines = _lines()
        while True:
            sys.stderr.write("> ")
            sys.stderr.flush()
            text = await lines.get()
            if text is None:
                sys.stderr.write("\n")
                return 0
            if not text.strip():
                continue
            answered = await _turn(client, model, [*messages, Message("user", text)], sampling, conversation)
            if answered is not None:
                # A stopped answer stays in the history as far as it went.
                messages += [Message("user", text), Message("assistant", answered)]


def _lines() -> asyncio.Queue[str | None]:
    """The lines of standard input as they are typed, then None.

    Read by a daemon thread and past Python's own buffer, so that ^C at the prompt ends the program at once.
    """
    lines: asyncio.Queue[str | None] = asyncio.Queue(maxsize=MAX_LINES_AHEAD)
    loop = asyncio.get_running_loop()

    def read() -> None:
        rest = b""
        while data := os.read(sys.stdin.fileno(), 65536):
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                asyncio.run_coroutine_threadsafe(lines.put(line.decode("utf-8", "replace")), loop).result()
        for last in (*([rest.decode("utf-8", "replace")] if rest else []), None):
            asyncio.run_coroutine_threadsafe(lines.put(last), loop).result()

    threading.Thread(target=read, name="stdin", daemon=True).start()
    return lines


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
