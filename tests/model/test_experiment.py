"""The paper's experiment in small: two tiny models with random weights, as the command runs it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from broker.accounts import LOCAL, WORKER, write_credentials
from broker.server import EmbeddedServer
from producers.records.files import read_run
from tests.model.test_commands import run

PLAN = """
name = "small"
[load]
num_conversations = 2
max_user_turns = 2
max_tokens = 6
concurrency = 1
ignore_eos = true
[winogrande]
path = "{items}"
[[models]]
model = "one"
shape = "tiny"
quantization = "Q8_0"
worker = ["--deterministic", "--threads", "1"]
[[models]]
model = "two"
shape = "tiny"
quantization = "Q4_0"
second_of = "one"
worker = ["--deterministic", "--threads", "1"]
"""


@pytest.mark.timeout(180)
async def test_an_experiment_makes_the_papers_table_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    items, plan, out = tmp_path / "items.jsonl", tmp_path / "plan.toml", tmp_path / "out"
    item = {"sentence": "The radio and the mast: _ was high.", "option1": "radio", "option2": "mast", "answer": "2"}
    items.write_text((json.dumps(item) + "\n") * 4)
    plan.write_text(PLAN.format(items=items))
    async with EmbeddedServer(tmp_path / "server") as server:
        await server.ensure(["one", "two"])
        for user in (LOCAL, WORKER):
            write_credentials(server.folder / f"{user}.credentials", server.address(user))
        command = ["experiment", str(plan), "--out", str(out), "--data-dir", str(server.folder)]
        found = await asyncio.to_thread(run, *command, "--json")
        assert found.returncode == 0, found.stderr
        rows = json.loads(found.stdout)
        again = await asyncio.to_thread(run, *command)
        assert again.stderr.count("done before") == 2
        plan.write_text(plan.read_text().replace("max_tokens = 6", "max_tokens = 7"))
        other = await asyncio.to_thread(run, *command)
        assert (other.returncode, "one.jsonl: was made with another max_tokens" in other.stderr) == (1, True)
    assert [row["model"] for row in rows] == ["one", "two"]
    assert rows[0]["effect"] == ""
    assert re.fullmatch(
        r"one: prefill × [\d.]+, decode × [\d.]+, memory × [\d.]+, Winogrande [+-][\d.]+", rows[1]["effect"]
    )
    for row in rows:
        assert (row["num_turns"], row["num_failed"], row["num_restarts"]) == (4, 0, 0)
        assert row["decode_tokens_per_second"] > 0
        assert row["prefill_tokens_per_second"] > 0
        assert row["rss_bytes"] > 10 * 2**20
        assert row["accuracies"].keys() == {"partial", "llama.cpp"}
    text = (out / "table.md").read_text()
    assert re.search(r"\| one \| .*tiny.* Q8_0 \| 4 \|", text)
    assert "5 to 12 tokens per second" in text
    assert (out / "table.csv").read_text().count("\n") == 3
    assert "Decode throughput by context length" in (out / "report.html").read_text()
    assert not (out / ".worker.credentials").exists()
    record = read_run(out / "one.jsonl")
    assert record.header.run == "small-one"
    assert record.seconds is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('name = "x"\nmodels = [{model = "a", colour = 1}]', "colour"),
        ('name = "x"\nmodels = [{model = "a"}]\n[load]\nspeed = 3', "unknown setting speed"),
        ('name = "x"\nmodels = [{model = "a"}]\n[load]\nmax_tokens = 0', "--max-tokens: must be at least 1"),
        ('name = "x"\nmodels = [{model = "a"}, {model = "a"}]', "listed twice"),
        ("name = ", "plan.toml"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(text)
    found = run("experiment", str(plan), "--out", str(tmp_path / "out"), "--url", "nats://127.0.0.1:1")
    assert found.returncode == 1
    assert problem in found.stderr
