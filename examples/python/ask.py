"""Asks one question and prints the answer as it comes.

    TURNPIKE_CREDENTIALS=me.credentials python ask.py demo "How do I drain a node?"

The file is what `turnpike broker` or `turnpike user add` wrote. Without one there is `Address.parse("nats://…")`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from turnpike import Client, Message, Sampling, TurnpikeError, read_credentials


async def main(model: str, question: str) -> None:
    messages = [Message("system", "Be brief."), Message("user", question)]
    async with Client(read_credentials(Path(os.environ["TURNPIKE_CREDENTIALS"]))) as client:
        answer = client.ask(model, messages, sampling=Sampling(max_tokens=200))
        async for chunk in answer:
            print(chunk.text, end="", flush=True)
    print()
    usage = answer.done.usage
    print(f"[{usage.prompt_tokens} + {usage.completion_tokens} tokens by {answer.done.worker}]", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("question")
    named = parser.parse_args()
    if "TURNPIKE_CREDENTIALS" not in os.environ:
        parser.error("TURNPIKE_CREDENTIALS is not set: it names the file that `turnpike user add` wrote")
    try:
        asyncio.run(main(**vars(named)))
    except TurnpikeError as error:
        sys.exit(f"ask: {error}")
