"""A child process for what a stranger may have written: chat templates, grammars, JSON schemas.

A hostile grammar aborts the process that compiles it, a template may loop for ever: here they may. The parent
(workers.jail) kills this process when an answer is late. Requests and answers are JSON lines on stdin and stdout.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

MEMORY_BYTES = 2 * 1024 * 1024 * 1024
TRIAL_TOKENS = 64


def _render(request: dict[str, Any]) -> dict[str, Any]:
    from workers.llama.template import TemplateFailed, render

    try:
        return render(
            request["template"],
            request["messages"],
            bos_token=request["bos_token"],
            eos_token=request["eos_token"],
            exact=request["exact"],
        )
    except TemplateFailed as error:
        return {"error": str(error)}


def _grammar(request: dict[str, Any]) -> dict[str, Any]:
    """Compiles a grammar and follows it for a while, as one may compile and then explode."""
    from pathlib import Path

    import numpy as np

    from broker.errors import TurnRejected
    from broker.messages import Sampling
    from workers.llama.context import LlamaModel
    from workers.llama.sampler import LlamaSampler, gbnf_of_schema

    gbnf = request["grammar"]
    if gbnf is None:
        try:
            gbnf = gbnf_of_schema(request["schema"])
        except ValueError as error:
            return {"error": f"the schema cannot be made a grammar: {error}"}
    global _model
    if _model is None:
        _model = LlamaModel(Path(request["model"]), vocab_only=True)
    logits = np.random.default_rng(0).standard_normal(_model.vocabulary.num_tokens, dtype=np.float32)
    try:
        sampler = LlamaSampler(_model.vocabulary, lambda row: logits.copy(), Sampling(), [], gbnf)
        for index in range(TRIAL_TOKENS):
            token = sampler.sample(0, index)
            if token < 0 or _model.vocabulary.is_end(token):
                break
        sampler.close()
    except TurnRejected as error:
        return {"error": error.detail}
    return {"gbnf": gbnf}


_model: Any = None


def main() -> None:
    import workers.llama.template  # noqa: F401  (here, not in the first turn)

    # What llama.cpp and a template print must not mix with our answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]]
    operations = {"ready": lambda request: {}, "render": _render, "grammar": _grammar}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = operations[request["operation"]](request)
        except MemoryError:
            answer = {"error": "it takes too much memory"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
