"""A bot: whoever sends a request to a subject of NATS gets a model's answer, and each conversation is remembered.

    TURNPIKE_CREDENTIALS=me.credentials BOT_URL=nats://user:password@host:4222 python bot.py demo bot.questions
    nats request bot.questions "How do I drain a node?" -H Conversation:alice

BOT_URL is where people write: any NATS server. On Turnpike's own broker a producer may neither subscribe to a subject
of the bot's nor ask there; an operator may, and everything else too: `turnpike user add bot --role operator` writes
its user and password into a file. So a nats-server of its own is better where people are strangers.
Several bots on one subject share the work; a conversation's history is with the one that has answered it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections import OrderedDict
from pathlib import Path

import nats
import nats.errors
from nats.aio.msg import Msg

from turnpike import Client, Message, Sampling, TurnpikeError, read_credentials

AT_ONCE = 32
MAX_CONVERSATIONS = 1000
MAX_MESSAGES = 20


class Bot:
    """Answers requests; remembers the latest conversations, and of each the latest messages."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model
        self._conversations: OrderedDict[str, list[Message]] = OrderedDict()
        self._room = asyncio.Semaphore(AT_ONCE)

    async def answer(self, request: Msg) -> None:
        """Always says something: an answer, or why there is none."""
        name = (request.headers or {}).get("Conversation") or None
        said = self._conversations.get(name, []) if name else []
        messages = [*said, Message("user", request.data.decode(errors="replace"))]
        try:
            async with self._room:
                sampling = Sampling(max_tokens=200)
                done = await self._client.ask(self._model, messages, sampling=sampling, conversation=name)
        except TurnpikeError as error:
            await request.respond(f"no answer: {error}".encode())
            return
        if name:
            self._conversations[name] = [*messages, Message("assistant", done.text)][-MAX_MESSAGES:]
            self._conversations.move_to_end(name)
            while len(self._conversations) > MAX_CONVERSATIONS:
                self._conversations.popitem(last=False)
        await request.respond(done.text.encode())


async def main(model: str, subject: str) -> None:
    stop = asyncio.Event()
    refused: list[Exception] = []

    async def on_error(error: Exception) -> None:
        if "permissions violation" in str(error).lower():
            refused.append(error)
            stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    address = read_credentials(Path(os.environ["TURNPIKE_CREDENTIALS"]))
    async with Client(address) as client, asyncio.TaskGroup() as group:
        people = await nats.connect(os.environ["BOT_URL"], error_cb=on_error)
        bot = Bot(client, model)

        async def begin(request: Msg) -> None:
            if request.reply:  # else nobody waits for an answer
                group.create_task(bot.answer(request))

        await people.subscribe(subject, queue="turnpike-bot", cb=begin)
        await people.flush()  # nats-py sends a ping before what waits to be sent, as the subscription may …
        await people.flush()  # … so it is behind the second that the server has said whether the user may
        if not refused:
            print(f"answering {subject}", flush=True)
        await stop.wait()
        if refused:
            raise refused[0]
        await people.drain()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("subject")
    named = parser.parse_args()
    for variable in ("TURNPIKE_CREDENTIALS", "BOT_URL"):
        if variable not in os.environ:
            parser.error(f"{variable} is not set: --help says what it names")
    problem: BaseException | None = None
    try:
        asyncio.run(main(**vars(named)))
    except* (TurnpikeError, nats.errors.Error, OSError) as errors:
        problem = errors.exceptions[0]
    if problem is not None:
        may = "; --help says who may" if "permissions" in str(problem).lower() else ""
        sys.exit(f"bot: {problem}{may}")
