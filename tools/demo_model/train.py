"""Trains the tokenizer and the model, and leaves both in a folder for convert.py.

    python train.py FOLDER [--steps N] [--seed S]

The model is of llama's architecture: RMSNorm, rotary positions over neighbouring pairs (as GGUF's `llama` wants them),
grouped-query attention, SwiGLU, tied embeddings. Its hidden matrices are trained with Muon (Keller Jordan, 2024),
the rest with AdamW. The loss counts the assistant's tokens in full and the user's by a fiftieth.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import corpus

NUM_VOCAB = 1536
CONTROL = ("<|im_start|>", "<|im_end|>")
UNK, BOS, EOS, IM_START, IM_END = range(5)
BATCH_TOKENS = 4096
POOL = 1024
USER_WEIGHT = 0.02
PEAK_LR = 4e-3
WARM_UP = 100
DECAY = 0.5
"""The share of the steps in which the learning rate falls to zero."""


@dataclass(frozen=True)
class Shape:
    num_embd: int = 256
    num_layers: int = 5
    num_heads: int = 4
    num_kv_heads: int = 2
    num_ff: int = 640
    num_ctx: int = 2048
    rope_base: float = 10000.0
    eps: float = 1e-5

    @property
    def head(self) -> int:
        return self.num_embd // self.num_heads


# --- Tokens ----------------------------------------------------------------------------------------------------------


def train_tokenizer(folder: Path, seed: int) -> sentencepiece.SentencePieceProcessor:
    """A BPE with byte fallback; digits stand alone, and no space is put before a text."""
    texts = (text for dialogue in islice(corpus.dialogues("train", seed), 20_000) for _, text in dialogue)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts,
        model_writer=model,
        model_type="bpe",
        vocab_size=NUM_VOCAB,
        byte_fallback=True,
        split_digits=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        control_symbols=list(CONTROL),
        unk_id=UNK,
        bos_id=BOS,
        eos_id=EOS,
        num_threads=1,
        minloglevel=2,
    )
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [(tokenizer.id_to_piece(token), tokenizer.get_score(token)) for token in range(NUM_VOCAB)]
    (folder / "vocabulary.json").write_text(json.dumps(pieces, ensure_ascii=False, indent=0) + "\n")
    return tokenizer


class Encoder:
    """Dialogues → tokens and the weight of each in the loss; the layout is that of the chat template in convert.py."""

    def __init__(self, tokenizer: sentencepiece.SentencePieceProcessor) -> None:
        self._tokenizer = tokenizer
        self._roles = {role: [IM_START, *self._plain(role + "\n")] for role in ("system", "user", "assistant")}
        self._end = [IM_END, *self._plain("\n")]

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))

    def __call__(self, dialogue: list[corpus.Message]) -> tuple[list[int], list[float]]:
        tokens, weights = [BOS], [0.0]
        for role, text in dialogue:
            content = self._plain(text)
            is_answer = role == "assistant"
            weight = 1.0 if is_answer else USER_WEIGHT
            tokens += [*self._roles[role], *content, *self._end]
            weights += [0.0] * len(self._roles[role]) + [weight] * len(content) + [weight if is_answer else 0.0, 0.0]
        return tokens, weights


def batches(encoder: Encoder, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Token and weight matrices of dialogues of like length, about BATCH_TOKENS in each."""
    rng = random.Random(seed)
    source = corpus.dialogues("train", seed)
    while True:
        rows = sorted((encoder(dialogue) for dialogue in islice(source, POOL)), key=lambda row: len(row[0]))
        found = []
        while rows:
            width = len(rows[-1][0])
            count = max(1, BATCH_TOKENS // width)
            rows, batch = rows[:-count], rows[-count:]
            tokens, weights = np.zeros((len(batch), width), np.int64), np.zeros((len(batch), width), np.float32)
            for index, (row, weight) in enumerate(batch):
                tokens[index, : len(row)] = row
                weights[index, : len(row)] = weight
            found.append((torch.from_numpy(tokens), torch.from_numpy(weights)))
        rng.shuffle(found)
        yield from found


# --- Model -----------------------------------------------------------------------------------------------------------


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al., 2021) over pairs of neighbours; x: (batch, heads, time, head)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv = shape.num_kv_heads * shape.head
        self.attn_norm = nn.RMSNorm(shape.num_embd, shape.eps)
        self.attn_q = nn.Linear(shape.num_embd, shape.num_embd, bias=False)
        self.attn_k = nn.Linear(shape.num_embd, kv, bias=False)
        self.attn_v = nn.Linear(shape.num_embd, kv, bias=False)
        self.attn_output = nn.Linear(shape.num_embd, shape.num_embd, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.num_embd, shape.eps)
        self.ffn_gate = nn.Linear(shape.num_embd, shape.num_ff, bias=False)
        self.ffn_up = nn.Linear(shape.num_embd, shape.num_ff, bias=False)
        self.ffn_down = nn.Linear(shape.num_ff, shape.num_embd, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y = self.attn_norm(x)
        q, k, v = (self._heads(part(y)) for part in (self.attn_q, self.attn_k, self.attn_v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = self.shape.num_heads // self.shape.num_kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_output(y.transpose(1, 2).flatten(2))
        y = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.shape.head)).transpose(1, 2)


class Model(nn.Module):
    def __init__(self, shape: Shape, num_vocab: int) -> None:
        super().__init__()
        self.token_embd = nn.Embedding(num_vocab, shape.num_embd)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.output_norm = nn.RMSNorm(shape.num_embd, shape.eps)
        angles = torch.outer(
            torch.arange(shape.num_ctx).float(), shape.rope_base ** (-torch.arange(0, shape.head, 2) / shape.head)
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = 0.02 / (2 * shape.num_layers) ** 0.5 if "output" in name or "down" in name else 0.02
                nn.init.normal_(parameter, std=scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, time, vocabulary)."""
        x = self.token_embd(tokens)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for block in self.blk:
            x = block(x, cos, sin)
        return F.linear(self.output_norm(x), self.token_embd.weight)


def loss_of(model: nn.Module, tokens: Tensor, weights: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the weighted tokens."""
    logits = model(tokens[:, :-1]).float()
    each = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (each * weights).sum() / weights.sum()


# --- Training --------------------------------------------------------------------------------------------------------


def schedule(step: int, steps: int) -> float:
    """Warm-up, a plateau, and a straight fall to zero."""
    return min((step + 1) / WARM_UP, 1.0, (steps - step) / (DECAY * steps))


def save(folder: Path, model: Model, shape: Shape, **facts: object) -> None:
    weights = {name: parameter.detach().float().numpy() for name, parameter in model.named_parameters()}
    np.savez(folder / "weights.npz", **weights)
    (folder / "training.json").write_text(json.dumps(asdict(shape) | facts, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="trains the demo model; see convert.py for the rest")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    torch.set_num_threads(2)

    encoder = Encoder(train_tokenizer(options.folder, options.seed))
    shape = Shape()
    model = Model(shape, NUM_VOCAB)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{num_parameters / 1e6:.2f} million parameters", flush=True)
    hidden = [p for name, p in model.named_parameters() if p.dim() == 2 and name.startswith("blk.")]
    rest = [p for name, p in model.named_parameters() if p.dim() != 2 or not name.startswith("blk.")]
    optimizers = [
        torch.optim.Muon(hidden, lr=PEAK_LR, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    started, num_tokens, smooth = time.perf_counter(), 0, None
    for step, (tokens, weights) in enumerate(islice(batches(encoder, options.seed + 1), options.steps)):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = PEAK_LR * schedule(step, options.steps)
            optimizer.zero_grad()
        loss = loss_of(model, tokens, weights)  # in f32: autocast to bf16 was a third slower here
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        num_tokens += tokens.numel()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0 or step == options.steps - 1:
            seconds = time.perf_counter() - started
            print(f"step {step} loss {smooth:.4f} {num_tokens / seconds:.0f} tokens/s {seconds:.0f} s", flush=True)
        if step % 1000 == 999 or step == options.steps - 1:
            save(
                options.folder,
                model,
                shape,
                num_vocab=NUM_VOCAB,
                num_parameters=num_parameters,
                steps=step + 1,
                seed=options.seed,
                num_tokens=num_tokens,
                seconds=round(time.perf_counter() - started),
                corpus_sha256=corpus.corpus_hash(),
                torch=torch.__version__,
            )


if __name__ == "__main__":
    main()
