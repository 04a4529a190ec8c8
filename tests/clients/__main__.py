"""`make e2e-clients`: well-known clients of the gateway's APIs before a real model, a broker and a worker of our own.
Each runs as its users run it, in an environment of its own; calls are really executed.

What is held to is the shape: every request is taken, every answer ends, calls were made and their results went back.
How many of the calls are right is told: that is the model's. What each client can goes into the table of
docs/clients.md. Names of clients as arguments run those alone; `table` makes the table and no more.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import openai

from broker.accounts import write_credentials
from broker.process import spawn, terminate
from producers.local_system import local_system
from tests.clients.environments import CannotBeMade, make_node, make_python
from tests.clients.home import DATE_TIME, LIGHT_SET, LIVE_CONTEXT, TURN_OFF, TURN_ON, Home
from tests.clients.home_assistant import KEY, Assist, Said, check_server
from tests.clients.running import FEATURES, FILES, SECONDS, account_of, features_of, num_right
from tests.clients.table import write
from tests.cluster import until_open
from tests.real import QWEN, model_file
from tests.support import ROOT, free_port

MODEL, EMBEDDER = "qwen", "minilm"
TABLE = "table"
MINILM = "all-minilm-l6-v2"
ORDERS: list[tuple[str, str, Callable[[Home], bool]]] = [
    ("Turn on the kitchen lamp.", TURN_ON, lambda home: home.state_of("Kitchen lamp")[0] == "on"),
    ("Turn off the bedroom lamp.", TURN_OFF, lambda home: home.state_of("Bedroom lamp")[0] == "off"),
    ("How warm is it in the attic just now?", LIVE_CONTEXT, lambda home: True),
    (
        "Set the workshop lamp to 30 percent.",
        LIGHT_SET,
        lambda home: home.state_of("Workshop lamp")[1].get("brightness_pct") == "30",
    ),
    ("Turn on the garden plug.", TURN_ON, lambda home: home.state_of("Garden plug")[0] == "on"),
    ("Turn on the hall lamp.", TURN_ON, lambda home: home.state_of("Hall lamp")[0] == "on"),
    ("What time is it?", DATE_TIME, lambda home: True),
    ("Turn off the hall lamp.", TURN_OFF, lambda home: home.state_of("Hall lamp")[0] == "off"),
    ("Turn on the attic lamp.", TURN_ON, lambda home: home.state_of("Attic lamp")[0] == "on"),
    ("Turn off the workshop lamp.", TURN_OFF, lambda home: home.state_of("Workshop lamp")[0] == "off"),
]
"""What Home Assistant's users say, the tool that is right, and whether the home is as it was asked for."""
OPTIONS = {"max_tokens": 300, "temperature": 0.0}
"""As docs/tools.md tells its users: this model calls on and on, and 3,000 tokens of that are minutes."""
NUM_ROUNDS = 10
"""Of calls with their results, at least."""
REPORT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "summary": {"type": "string", "description": "one short sentence", "maxLength": 200},
        "all_off": {"type": "boolean"},
        "room": {"type": "string", "enum": ["Attic", "Bedroom", "Hall", "Kitchen", "Workshop"]},
    },
    "required": ["summary", "all_off", "room"],
    "additionalProperties": False,
}


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


@asynccontextmanager
async def served(folder: Path, model: str, file: Path, flags: Sequence[str] = ()) -> AsyncIterator[str]:
    """The address of a gateway before a broker and a worker."""
    async with local_system(ROOT / "turnpike", folder, model=model, model_file=file, flags=flags) as system:
        credentials = folder / "gateway.credentials"
        write_credentials(credentials, system.gateway_address)
        port = free_port()
        command: list[str | Path] = [sys.executable, ROOT / "turnpike", "gateway", "--credentials", credentials]
        with (folder / "gateway.log").open("wb") as log:
            gateway = await spawn([*command, "--gateway-port", str(port)], stdout=log.fileno(), stderr=log.fileno())
        try:
            await until_open(port, gateway)
            yield f"http://127.0.0.1:{port}"
        finally:
            await terminate(gateway)


async def run_program(name: str, url: str) -> str:
    """A client's line of the table."""
    started = time.perf_counter()
    await asyncio.to_thread(make_node if FILES[name].endswith(".mjs") else make_python)
    account = await account_of(name, url, MODEL)
    requests = account["requests"]
    for one in requests:
        calls = ", ".join(f"{name}({arguments})" for name, arguments in one["calls"])
        say(f"    {one['request']} {calls} {one['text']!r}")
    num_answers, num_calls = (sum(one["answers"] for one in requests), sum(len(one["calls"]) for one in requests))
    return line(account["client"], num_answers, num_calls, f"{num_right(account)} of {len(requests)}", started)


async def run_features(url: str, folder: Path) -> list[str]:
    """What failed of what the clients can, all of which goes into the table."""
    for make in (make_python, make_node):
        await asyncio.to_thread(make)
    accounts, failed = [], []
    async with AsyncExitStack() as stack:
        embedder, embedder_url = "", url
        if (file := model_file(MINILM)) is not None:
            embedder = EMBEDDER
            embedder_url = await stack.enter_async_context(served(folder, embedder, file))
        for name in FEATURES:
            say(f"{name} …")
            try:
                account = await features_of(name, url, MODEL, embedder, embedder_url)
            except (AssertionError, TimeoutError) as error:
                failed.append(f"{name}: {error or 'it did not end'}")
                continue
            accounts.append(account)
            say("".join(f"    {feature}: {word}\n" for feature, word in account["features"].items()).rstrip())
            failed += [f"{name}: {one}: {word}" for one, word in account["features"].items() if word.startswith("no: ")]
    write(accounts)
    return failed


async def run_home_assistant(url: str, *, stream: bool) -> str:
    """Ten orders to a home or more, and a report by schema at the end. Where the model has called nothing the next
    order begins a conversation, as what it has said once in its own words it says again."""
    started = time.perf_counter()
    home = Home()
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=SECONDS) as api:
        assert await check_server(api, MODEL), "the model is not in the list"
        conversations = (
            Assist(api, MODEL, home, f"01JV4ND2M0{stream}{number}", stream=stream, **OPTIONS)
            for number in itertools.count()
        )
        assist = next(conversations)
        answers: list[Said] = []
        num_done = num_rounds = 0
        for order, name, is_done in ORDERS * 2:  # a model that calls too little is asked again
            if len(answers) >= len(ORDERS) and num_rounds >= NUM_ROUNDS:
                break
            if answers and not answers[-1].calls:  # who was not heard says it anew
                assist = next(conversations)
            try:
                said = await assist.say(order)
            except ValueError as error:  # what its user reads as "Unexpected tool argument response"
                said = Said(f"error: {error}", 1, (), True)
            answers.append(said)
            num_rounds += said.num_answers - said.has_ended
            num_done += {call.name for call in said.calls} == {name} and is_done(home)
            say(f"    {order} {', '.join(f'{call.name}({call.arguments})' for call in said.calls)} {said.text!r}")
        report = await next(conversations).generate("report", "Report on the lamps of the home as JSON.", REPORT)
    assert set(report or REPORT["properties"]) == set(REPORT["properties"]), report
    assert len(home.calls) >= num_rounds >= NUM_ROUNDS, f"{num_rounds} rounds of calls"
    num_orders = len(answers)
    name = f"Home Assistant's shape ({'streamed' if stream else 'whole'})"
    say(f"    {report}")
    return line(name, sum(one.num_answers for one in answers), len(home.calls), f"{num_done} of {num_orders}", started)


def line(name: str, answers: object, calls: object, right: str, started: float | None = None) -> str:
    """Of the table."""
    seconds = "seconds" if started is None else f"{time.perf_counter() - started:.0f}"
    return f"{name:48} {answers:>8} {calls:>6} {right:>9} {seconds:>8}"


async def main() -> int:
    """The exit code."""
    homes = {f"home-assistant{name}": one for name, one in (("", True), ("-whole", False))}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("client", nargs="*", choices=[[], *FILES, *homes, TABLE], help="default: all of them")
    wanted = parser.parse_args().client or [*FILES, *homes, TABLE]
    file = model_file(QWEN)
    if file is None:
        say("the model is missing: make real-models")
        return 1
    lines, failed, skipped = [], [], []
    with tempfile.TemporaryDirectory(prefix="turnpike-clients-") as folder:
        flags = ("--num-ctx", "32768", "--num-slots", "4")  # a small model calls on and on
        (Path(folder) / EMBEDDER).mkdir()
        async with served(Path(folder), MODEL, file, flags) as url:
            for name in wanted:
                say(f"{name} …")
                try:
                    if name == TABLE:
                        failed += await run_features(url, Path(folder) / EMBEDDER)
                    elif name in homes:
                        lines.append(await run_home_assistant(f"{url}/v1", stream=homes[name]))
                    else:
                        lines.append(await run_program(name, f"{url}/v1"))
                except CannotBeMade as error:
                    skipped.append(f"{name}: {error}")
                except (AssertionError, TimeoutError, ValueError, openai.OpenAIError) as error:
                    failed.append(f"{name}: {error}")
    say("\n" + "\n".join([line("client", "answers", "calls", "right"), *lines]))
    say("\n".join([*(f"skipped {one}" for one in skipped), *(f"FAILED {one}" for one in failed)]))
    say(f"{len(lines)} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
