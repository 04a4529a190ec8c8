"""How much of its prompts does a conversation compute twice, on each kind of cache, against llama-server? And what does
the pause before a prompt's end cost its first token?

Ten turns behind a system prompt of 2,000 tokens, of which three are asked for again and three are edited, then two
conversations behind the same system prompt. llama-server is given the very tokens, and where messages begin. Counts,
which no neighbour disturbs: `python -m benchmarks.checkpoints [KIND…]`. The times of the pause, on a quiet machine:
`python -m benchmarks.checkpoints pause [FILE…]`.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import CORES, ROOT, Row, show, system, text_of
from benchmarks.peers import llama_server
from broker.messages import Message, Sampling, Turn
from workers.engine.protocol import Span
from workers.engine.slots import common_prefix
from workers.llama.context import ContextOptions, LlamaEngine, LlamaModel
from workers.llama.random_model import write_model
from workers.prompts.history import History, Prompt
from workers.prompts.renderer import TemplateRenderer

KINDS = {
    "full": "tiny",
    "window": "tiny-swa",
    "recurrent": "tiny-recurrent",
    "hybrid, short convolutions": "tiny-hybrid",
    "hybrid, delta nets": "tiny-delta",
    "hybrid, Mamba-2": "tiny-mamba2",
}
GEMMA = ROOT / ".cache" / "real-models" / "gemma-3-270m-q4_k_m.gguf"
GEMMA_KIND = "Gemma 3 270M"
NUM_STATIC = 2000
NUM_TURNS = 10
NUM_CTX = 8192
ANSWER_TOKENS = (20, 60)
QUESTION_WORDS = (15, 60)
GRAMMAR = "root ::= [a-z ]+"
"""So that answers of random weights are text."""
PAUSES = ((0, 48), (600, 48), (0, 512), (600, 128), (600, 512))
"""Tokens that are there already, and new ones."""
ROUNDS = 9
BEHIND = 1
"""Tokens of the last step."""

Ask = Callable[[list[Message], Prompt, int], Awaitable[tuple[str, list[int], int]]]
"""A conversation, its prompt and how many tokens to answer with → the answer, its tokens, how many were computed of the
prompt."""
Server = Callable[[Path, bool], AbstractAsyncContextManager[Ask]]
"""By model file, and whether it is Gemma's."""


@asynccontextmanager
async def turnpike(file: Path, is_gemma: bool) -> AsyncIterator[Ask]:
    flags = ("--chat-template", "gemma") if is_gemma else ()
    async with system("--threads", 1, "--num-ctx", NUM_CTX, *flags, model_file=file) as here:

        async def ask(messages: list[Message], prompt: Prompt, num_tokens: int) -> tuple[str, list[int], int]:
            sampling = Sampling(max_tokens=num_tokens, ignore_eos=True, grammar=GRAMMAR)
            answer = here.client.ask("m", messages, sampling=sampling)
            tokens = [token async for chunk in answer for token in chunk.tokens]
            usage = answer.done.usage
            assert usage.prompt_tokens == len(prompt.tokens), "not the prompt that was compared"
            return answer.done.text, tokens, usage.prompt_tokens - usage.cached_tokens

        yield ask


def peer(*flags: str | int) -> Server:
    """llama-server with these flags and else its defaults."""

    @asynccontextmanager
    async def serve(file: Path, is_gemma: bool) -> AsyncIterator[Ask]:
        start, roles = ("<start_of_turn>", ("user", "model")) if is_gemma else ("<|im_start|>", ("user", "assistant"))
        delimiters = [
            {"role": role, "delimiter": start + said} for role, said in zip(("user", "assistant"), roles, strict=True)
        ]
        async with llama_server("-t", 1, "-c", NUM_CTX, *flags, model_file=file) as server:

            async def ask(messages: list[Message], prompt: Prompt, num_tokens: int) -> tuple[str, list[int], int]:
                found = await server.complete(
                    prompt.tokens, num_tokens, grammar=GRAMMAR, message_delimiters=delimiters, ignore_eos=True
                )
                return found["content"], found["tokens"], found["timings"]["prompt_n"]

            yield ask

    return serve


class Talk:
    """A conversation with one server: what it computed of its prompts, and what no earlier turn had of them."""

    def __init__(self, ask: Ask, history: History, seed: int) -> None:
        self._ask = ask
        self._history = history
        self._random = random.Random(seed)
        self._seen: list[list[int]] = []
        self.computed = self.distinct = 0

    def question(self) -> Message:
        return Message("user", text_of(self._random.randrange(*QUESTION_WORDS), self._random.randrange(10_000)))

    async def turn(self, messages: list[Message]) -> Message:
        """Asks; the answer as history has it."""
        turn = Turn("t", "c", tuple(messages))
        prompt = await self._history.prompt("c", turn)
        text, tokens, num_computed = await self._ask(messages, prompt, self._random.randrange(*ANSWER_TOKENS))
        known = [*prompt.tokens, *tokens]
        self.computed += num_computed
        shared = max((common_prefix(prompt.tokens, other) for other in self._seen), default=0)
        self.distinct += max(1, len(prompt.tokens) - shared)
        self._seen.append(known)
        self._history.remember("c", turn, prompt, known, text)
        return Message("assistant", text)

    async def run(self) -> None:
        static = Message("system", text_of(NUM_STATIC, 1))
        messages = [static]
        for number in range(NUM_TURNS):
            asked = [*messages, self.question()]
            answer = await self.turn(asked)
            if number % 3 == 1:
                answer = await self.turn(asked)
            elif number % 3 == 2:
                asked = [*messages, self.question()]
                answer = await self.turn(asked)
            messages = [*asked, answer]
        for _ in range(2):
            await self.turn([static, self.question()])


async def talked(server: Server, file: Path, is_gemma: bool) -> Talk:
    model = LlamaModel(file, vocab_only=True, chat_template="gemma" if is_gemma else None)
    vocabulary = model.vocabulary
    renderer = TemplateRenderer(
        model.chat_template, bos_token=vocabulary.text(vocabulary.bos), eos_token=vocabulary.text(vocabulary.eos)
    )
    await renderer.start()
    try:
        async with server(file, is_gemma) as ask:
            talk = Talk(ask, History(renderer, vocabulary), seed=7)
            await talk.run()
            return talk
    finally:
        await renderer.close()
        model.close()


async def row(kind: str, file: Path, is_gemma: bool) -> list[Row]:
    ours = await talked(turnpike, file, is_gemma)
    default = await talked(peer(), file, is_gemma)
    few = await talked(peer("--ctx-checkpoints", 32, "--checkpoint-min-step", 0), file, is_gemma)
    least = min(default.computed / default.distinct, few.computed / few.distinct)
    ratio = ours.computed / ours.distinct
    bound = 1.02 if kind == "full" else 1.10
    theirs = " / ".join(f"{one.computed:,} of {one.distinct:,}" for one in (default, few))
    ours_said = f"{ours.computed:,} of {ours.distinct:,}"
    return [
        Row(f"{kind}: prompt tokens computed ÷ distinct", ours_said, theirs, ratio, bound, at_most=True),
        Row(f"{kind}: ours ÷ llama-server's", f"{ratio:.3f}", f"{least:.3f}", ratio / least, 1.0, at_most=True),
    ]


async def counts(folder: Path, kinds: list[str]) -> list[Row]:
    rows = []
    for kind in kinds or (*KINDS, *([GEMMA_KIND] if GEMMA.exists() else [])):
        if kind == GEMMA_KIND:
            rows += await row(kind, GEMMA, is_gemma=True)
        else:
            rows += await row(kind, write_model(folder / f"{KINDS[kind]}.gguf", KINDS[kind], "Q8_0"), is_gemma=False)
    return rows


# --- The pause ---


def prefill_seconds(engine: LlamaEngine, num_there: int, chunks: list[int], *, pauses: bool) -> float:
    """From the first new token to the logits of the last one; with a pause a checkpoint before the last chunk."""
    engine.truncate(0, 0)
    at = 0
    for chunk in (num_there, *chunks):
        if at == num_there:
            started = time.perf_counter()
        if pauses and at > num_there and at + chunk == num_there + sum(chunks):
            engine.checkpoint(0)
        if chunk:
            tokens = tuple(100 + (at + index) % 800 for index in range(chunk))
            engine.decode([Span(0, at, tokens, num_there + sum(chunks) - 1)])
        at += chunk
    return time.perf_counter() - started


def pause_rows(file: Path) -> list[Row]:
    model = LlamaModel(file)
    engine = LlamaEngine(model, ContextOptions(num_ctx=2048, num_slots=1, num_threads=CORES))
    rows = []
    for there, new in PAUSES:
        whole, paused = [], []
        for _ in range(ROUNDS):
            whole.append(prefill_seconds(engine, there, [new], pauses=False))
            paused.append(prefill_seconds(engine, there, [new - BEHIND, BEHIND], pauses=True))
        ours, without = statistics.median(paused), statistics.median(whole)
        question = f"{file.stem}: first token of {new} new tokens behind {there}, with a pause ÷ without"
        rows.append(
            Row(question, f"{ours * 1e3:.0f} ms", f"{without * 1e3:.0f} ms", ours / without, 1.02, at_most=True)
        )
    engine.close()
    model.close()
    return rows


def main() -> None:
    if sys.argv[1:2] == ["pause"]:
        rows = [row for file in map(Path, sys.argv[2:] or [str(GEMMA)]) for row in pause_rows(file)]
        show("the step of its own before a prompt's end", rows)
        return
    with TemporaryDirectory() as folder:
        show("prompts computed twice, against llama-server", asyncio.run(counts(Path(folder), sys.argv[1:])))


if __name__ == "__main__":
    main()
