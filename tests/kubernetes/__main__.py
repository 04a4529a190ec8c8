"""`make e2e-kubernetes`: the manifests on a real Kubernetes of one node, and what a person would do with them.

Wants KUBECONFIG, the images localhost/turnpike:0.1.0-{base,worker} and localhost/influxdb:debian on the node, and the
node's pods reachable from here. The overlay beside this file replaces what such a node lacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

from broker.accounts import read_credentials
from broker.client import Client
from broker.errors import TurnpikeError
from broker.messages import Sampling
from producers.records.files import read_run
from tests.support import ROOT, TURNPIKE

NATS, INFLUX = "10.96.0.10", "10.96.0.11"
OVERLAY = ROOT / "tests/kubernetes/overlay"
VOLUMES = Path("/var/lib/turnpike-e2e")
SHORT = Sampling(max_tokens=200, ignore_eos=True)
LONG = Sampling(max_tokens=6000, ignore_eos=True)
MAX_START_SECONDS = 60.0


def kubectl(*arguments: str | Path, check: bool = True, stdin: str | None = None) -> str:
    command = ["kubectl", "--namespace", "turnpike", *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, input=stdin, check=False)
    if check and found.returncode:
        raise SystemExit(f"{' '.join(command)}: {found.stderr.strip()}")
    return found.stdout


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201


def clean() -> None:
    """No workloads, no volumes, no store of an earlier run."""
    subprocess.run(
        ["kubectl", "delete", "namespace", "turnpike", "--ignore-not-found"], check=True, capture_output=True
    )
    volumes = ["nats", "influxdb", "runs"]
    command = ["kubectl", "delete", "persistentvolume", *volumes, "--ignore-not-found"]
    subprocess.run(command, check=True, capture_output=True)
    for name in volumes:
        folder = VOLUMES / name
        subprocess.run(["rm", "-rf", folder], check=True)
        folder.mkdir(parents=True)
        folder.chmod(0o777)


def secrets(folder: Path) -> Path:
    """As `turnpike broker secret` writes them, with addresses instead of names; returns a producer's credentials."""
    out = folder / "secrets.json"
    flags = ["--data-dir", str(folder), "--url", f"nats://{NATS}:4222", "--out", str(out)]
    subprocess.run([*TURNPIKE, "broker", "secret", *flags], check=True, capture_output=True)
    text = out.read_text().replace("@influxdb:8086", f"@{INFLUX}:8086")
    subprocess.run(["kubectl", "create", "namespace", "turnpike"], check=True, capture_output=True)
    kubectl("apply", "-f", "-", stdin=text)
    found = {one["metadata"]["name"]: one["stringData"] for one in json.loads(text)["items"]}
    credentials = folder / "local.credentials"
    credentials.write_text(found["turnpike-nats"]["local.credentials"])
    return credentials


async def first_answer(credentials: Path) -> float:
    """Seconds from `kubectl apply` to the first answer."""
    started = time.perf_counter()
    kubectl("apply", "-k", OVERLAY)
    while True:
        with contextlib.suppress(TurnpikeError, OSError):
            async with Client(read_credentials(credentials)) as client:
                await client.ask("demo", "How high is our mast?")
                return time.perf_counter() - started
        await asyncio.sleep(0.25)


async def follow(client: Client, disturb: Callable[[str], None]) -> tuple[tuple[int, ...], int, float]:
    """A long answer's tokens, how many had come when `disturb` was told its worker's pod, and the longest silence."""
    longest, last = 0.0, None
    num_before, streamed = 0, list[int]()
    disturbing: asyncio.Future[None] | None = None
    answer = client.ask("demo", "Tell me of the mast.", sampling=LONG)
    async for chunk in answer:
        streamed += chunk.tokens
        now = time.perf_counter()
        longest = max(longest, now - last if last is not None else 0.0)
        last = now
        if disturbing is None:
            (busy,) = (one.worker for one in await client.workers() if one.load.num_active)
            num_before = len(streamed)
            disturbing = asyncio.ensure_future(asyncio.to_thread(disturb, busy))
    assert disturbing is not None
    await disturbing
    assert streamed == list(answer.done.tokens), "the reader saw a token twice or not at all"
    return answer.done.tokens, num_before, longest


async def until_ready() -> None:
    await asyncio.to_thread(kubectl, "rollout", "status", "deployment/worker", "--timeout=300s")


@contextlib.asynccontextmanager
async def under_load(client: Client, counts: Counter[str]) -> AsyncIterator[None]:
    """Turns all the while; `counts` says how they ended."""
    stop = asyncio.Event()

    async def ask(number: int) -> None:
        while not stop.is_set():
            try:
                sampling = Sampling(max_tokens=200, ignore_eos=True)
                outcome = (
                    await client.ask("demo", f"Our mast is {number} metres high.", sampling=sampling)
                ).finish_reason
            except TurnpikeError as error:
                outcome = str(error)
            counts[outcome] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(ask(number + 10))
        yield
        stop.set()


async def load_job() -> None:
    kubectl("create", "-k", ROOT / "k3s/load")
    kubectl("wait", "--for=condition=complete", "job/load", "--timeout=300s")
    (record,) = (VOLUMES / "runs").glob("*.jsonl")
    run = read_run(record)
    failed = [turn.outcome for turn in run.turns if turn.is_failed]
    nodes = {turn.node for turn in run.turns}
    say(f"a load job in a pod: {len(run.turns)} turns, {len(failed)} failed, recorded on its volume, nodes {nodes}")
    assert run.seconds is not None
    assert run.turns
    assert not failed


async def points() -> None:
    """What sidecars wrote of each kind."""
    query = urlencode({"db": "turnpike", "q": "SELECT count(*) FROM turn, engine, cpu, process, cgroup, queue, event"})
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(OSError):
                with await asyncio.to_thread(urlopen, f"http://{INFLUX}:8086/query?{query}", timeout=10) as answer:
                    series = json.load(answer)["results"][0].get("series", [])
                if len(series) == 7:
                    break
            await asyncio.sleep(1)
    counts = {one["name"]: max(value or 0 for value in one["values"][0][1:]) for one in series}
    say("points in InfluxDB: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))


async def main() -> None:
    clean()
    with tempfile.TemporaryDirectory(prefix="turnpike-e2e-") as folder:
        credentials = secrets(Path(folder))
        seconds = await first_answer(credentials)
        say(f"from kubectl apply to the first answer: {seconds:.1f} s (target {MAX_START_SECONDS:g})")
        assert seconds <= MAX_START_SECONDS
        await until_ready()
        await load_job()
        await points()
        async with Client(read_credentials(credentials)) as client:
            undisturbed, _, quiet = await follow(client, lambda pod: None)
            say(f"undisturbed: {len(undisturbed)} tokens, longest silence {quiet:.2f} s")
            for flags in (["--grace-period=0", "--force"], ["--wait=false"]):

                def delete(pod: str, flags: list[str] = flags) -> None:
                    kubectl("delete", "pod", pod, *flags)

                tokens, before, silence = await follow(client, delete)
                # Behind a resume a model with small margins may choose otherwise; before it, and in number, never.
                assert tokens[:before] == undisturbed[:before]
                assert len(tokens) == len(undisturbed)
                say(
                    f"its pod deleted mid-answer ({flags[0]}): {before} tokens before, {len(tokens) - before} after a "
                    f"pause of {silence:.1f} s"
                )
                await until_ready()
            counts: Counter[str] = Counter()
            async with under_load(client, counts):
                # Another template is another version: as a new image does, it replaces every pod.
                kubectl("set", "env", "deployment/worker", "--containers=worker", "TURNPIKE_LOG_LEVEL=DEBUG")
                await until_ready()
            say(f"rolled out under load: turns ended {dict(counts)}")
            assert set(counts) == {"length"}
            counts = Counter()
            async with under_load(client, counts):
                node = kubectl("get", "nodes", "--output=name").strip()
                kubectl("cordon", node)
                kubectl("delete", "pods", "--selector=app.kubernetes.io/name=worker", "--wait=true", "--timeout=120s")
                kubectl("uncordon", node)
                await until_ready()
            say(f"workers drained off the node under load, and back: turns ended {dict(counts)}")
            assert set(counts) == {"length"}
    say("1 passed, 0 failed")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
