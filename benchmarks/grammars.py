"""What can a grammar cost? Each token of honest and hostile ones: how long the engine waits for it, and how late it is.

The logits are chance, so that nearly every token is refused and the whole vocabulary goes through the grammar: an
honest answer asks for one token. MODEL names another file than the shipped one, such as one of 262,144 tokens.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.harness import ROOT, Row, show
from broker.errors import TurnRejected
from broker.messages import Sampling
from workers.engine.protocol import PENDING
from workers.grammars.held_text import HeldText
from workers.grammars.remote_matcher import PATIENCE_SECONDS
from workers.grammars.schemas import gbnf_of_schema
from workers.llama.adjustments import Logits
from workers.llama.context import LlamaModel
from workers.llama.sampler import LlamaSampler

NUM_TOKENS = 100
DIGITS = "".join(str(n * n % 10) for n in range(400))
FIELDS = {f"field_{n}": {"type": "string" if n % 2 else "number"} for n in range(10)}
GRAMMARS = {
    "a schema of ten fields": gbnf_of_schema({"type": "object", "properties": FIELDS, "required": list(FIELDS)}),
    "any JSON": gbnf_of_schema({}),
    "a string of 5,000": gbnf_of_schema({"type": "string", "maxLength": 5000}),
    "words": "root ::= [a-zA-Z]+ ([ ] [a-zA-Z]+)*",
    "doubled 14 times": f'root ::= "{DIGITS[:40]}" b14\nb0 ::= "q" | ""\n'
    + "".join(f"b{n} ::= b{n - 1} b{n - 1}\n" for n in range(1, 15)),
    "halves of halves": "root ::= s\ns ::= s s s | s s | [a-z ]",
    "{1,100000}": "root ::= [a-z ]{1,100000}",
    "100 of 100 of 100": "root ::= a{1,100}\na ::= b{1,100}\nb ::= [a-z ]{1,100}",
    "optional in optional": "root ::= " + "(" * 30 + '"a"?' + " [a-f]?)?" * 30,
    "200 rules of each other": "root ::= s\ns ::= "
    + " | ".join(f"r{n}" for n in range(200))
    + "\n"
    + "".join(f'r{n} ::= [a-z ] s | ""\n' for n in range(200)),
}


def follow(model: LlamaModel, gbnf: str) -> tuple[int, float, float, float, str]:
    """(tokens, the engine's worst wait for the grammar, all of it, the worst token's seconds in all, how it ended)."""
    chance = np.random.default_rng(0)

    def logits(row: int) -> Logits:
        found: Logits = chance.standard_normal(model.vocabulary.num_tokens, dtype=np.float32)
        return found

    sampler = LlamaSampler(model.vocabulary, logits, Sampling(), [], HeldText(gbnf))
    matcher = sampler.matcher
    assert matcher is not None
    longest = 0.0
    index, how = 0, "went on"
    try:
        while index < NUM_TOKENS:
            began = time.perf_counter()
            token = sampler.sample(0, index)
            while token == PENDING:
                time.sleep(0.002)  # where other turns' steps would be
                token = sampler.poll()
            longest = max(longest, time.perf_counter() - began)
            if token < 0 or model.vocabulary.is_end(token) or sampler.is_done:
                how = "ended"
                break
            index += 1
    except TurnRejected as error:
        how = error.detail.partition(": ")[2][:60]
    finally:
        sampler.close()
    return index, matcher.longest_wait, matcher.waited_seconds, longest, how


def main() -> None:
    model = LlamaModel(Path(os.environ.get("MODEL", ROOT / "workers" / "models" / "demo.gguf")), vocab_only=True)
    matchers = model.vocabulary.matcher_process
    assert model.vocabulary.end_tokens
    started = time.perf_counter()
    matchers.start()
    ready = time.perf_counter() - started
    assert matchers.process is not None
    rss = psutil.Process(matchers.process.pid).memory_info().rss / 2**20
    print(f"{model.vocabulary.num_tokens:,} tokens: {ready:.1f} s once a worker, {rss:.0f} MiB")
    highest = 0.0
    for name, gbnf in GRAMMARS.items():
        num_tokens, worst, total, longest, how = follow(model, gbnf)
        highest = max(highest, worst)
        mean = 1e3 * total / max(num_tokens, 1)
        print(
            f"{name:24} {num_tokens:4} tokens, the engine waits {mean:6.2f} ms a token, {1e3 * worst:6.1f} at worst; "
            f"a token takes {1e3 * longest:7.1f} ms at worst; {how}"
        )
    model.close()
    waits = Row(
        "a grammar holds the engine up, the worst token of all, ms",
        f"{1e3 * highest:.1f} ms",
        "–",
        1e3 * highest,
        1e3 * PATIENCE_SECONDS + 10,
        at_most=True,
    )
    show("grammars", [waits])


if __name__ == "__main__":
    main()
