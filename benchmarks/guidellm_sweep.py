"""guidellm's sweep against the gateway and against llama-server: what does a tool that knows nothing of us measure?

guidellm (github.com/vllm-project/guidellm) is installed into a venv of its own, as it brings PyTorch (6 GB). It asks
one by one, then as much as it can at once, then at constant rates between the two. No tokenizer is needed: both servers
tell how many tokens there were.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import CORES, ROOT, Row, gateway, show, system
from benchmarks.loads import NUM_CTX, NUM_SLOTS, tuned_flags
from benchmarks.peers import llama_server
from broker.process import spawn
from producers.data.datasets import load_conversations

GUIDELLM = "guidellm==0.8.1"
VENV = ROOT / ".cache" / "guidellm"
NUM_TOKENS = 32
NUM_STRATEGIES = 4
SECONDS = 30
"""For each strategy; what has not ended by then is cancelled."""
ROUNDS = 2
"""Of both in turn: this long, a shared machine does not keep its speed."""


@dataclass(frozen=True)
class Found:
    """One strategy's outcome, of the answers that were complete."""

    strategy: str
    num_turns: int
    num_errors: int
    turns_per_second: float
    tokens_per_second: float
    ttft_p50: float
    """Milliseconds, as the next ones."""
    ttft_p95: float
    gap_p50: float

    def __str__(self) -> str:
        return (
            f"{self.strategy:<16} {self.num_turns:4} turns, {self.num_errors} errors, {self.turns_per_second:.2f}/s, "
            f"{self.tokens_per_second:.1f} tokens/s, TTFT {self.ttft_p50:.0f} ms (p95 {self.ttft_p95:.0f}), "
            f"between tokens {self.gap_p50:.0f} ms"
        )


def guidellm() -> Path:
    """Its command; installs it where it is missing."""
    command = VENV / "bin" / "guidellm"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([VENV / "bin" / "pip", "install", "-q", GUIDELLM], check=True)
    return command


def write_prompts(path: Path) -> None:
    """The shipped conversations' questions, each once."""
    questions = [one.content for each in load_conversations(None) for one in each.messages if one.role == "user"]
    rows = [{"prompt": question, "output_tokens_count": NUM_TOKENS} for question in dict.fromkeys(questions)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


async def sweep(url: str, folder: Path) -> list[Found]:
    report = folder / "report.json"
    write_prompts(folder / "prompts.jsonl")
    options = {
        "--backend": f"kind=openai_http,target={url},model=m",
        "--profile": f"kind=sweep,sweep_size={NUM_STRATEGIES},max_concurrency=64",
        "--constraint": f"kind=max_duration,seconds={SECONDS}",
        "--data": f"kind=json_file,path={folder / 'prompts.jsonl'}",
        "--output": f"kind=json,path={report}",
    }
    command = [str(guidellm()), "run", "--disable-console", *(word for option in options.items() for word in option)]
    process = await spawn(command, env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)}, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return [found(one) for one in json.loads(report.read_text())["benchmarks"]]


def found(benchmark: dict[str, Any]) -> Found:
    metrics = benchmark["metrics"]
    totals = metrics["request_totals"]

    def of(name: str) -> dict[str, Any]:
        summary: dict[str, Any] = metrics[name]["successful"]
        return summary

    strategy = benchmark["config"]["strategy"]
    rate = strategy.get("rate")
    return Found(
        strategy["type_"] + (f" {rate:.2f}/s" if rate else ""),
        totals["successful"],
        totals["errored"],
        of("requests_per_second")["mean"],
        of("output_tokens_per_second")["mean"],
        of("time_to_first_token_ms")["median"],
        of("time_to_first_token_ms")["percentiles"]["p95"],
        of("inter_token_latency_ms")["median"],
    )


async def measure() -> list[Row]:
    flags = await tuned_flags()
    ours: list[list[Found]] = []
    theirs: list[list[Found]] = []
    with TemporaryDirectory(prefix="turnpike-bench-") as folder:
        worker = ("--threads", CORES, "--num-slots", NUM_SLOTS, "--num-ctx", NUM_CTX)
        for _ in range(ROUNDS):
            async with system(*worker) as here, gateway(here.server) as (url, _):
                ours.append(await sweep(url, Path(folder)))
            print("the gateway", *ours[-1], sep="\n", flush=True)
            async with llama_server("-t", CORES, "-np", NUM_SLOTS, "-c", NUM_CTX, *flags) as server:
                theirs.append(await sweep(server.url, Path(folder)))
            print("llama-server", *theirs[-1], sep="\n", flush=True)
    rows = []
    for number in range(NUM_STRATEGIES):  # the constant rates are each one's own, between its first two
        mine, other = ([one[number] for one in sweeps] for sweeps in (ours, theirs))
        rates = [statistics.mean(one.tokens_per_second for one in each) for each in (mine, other)]
        ttfts = [statistics.mean(one.ttft_p50 for one in each) for each in (mine, other)]
        name = f"guidellm, {number + 1} of {NUM_STRATEGIES}, {mine[0].strategy}: "
        tokens = Row(name + "tokens/s", f"{rates[0]:.1f}/s", f"{rates[1]:.1f}/s", rates[0] / rates[1], 1.0)
        first = Row(name + "TTFT", f"{ttfts[0]:.0f} ms", f"{ttfts[1]:.0f} ms", ttfts[0] / ttfts[1], 1.0, at_most=True)
        rows += [tokens, first]
    return rows


def main() -> None:
    show("guidellm, through the gateway and against llama-server", asyncio.run(measure()))


if __name__ == "__main__":
    main()
