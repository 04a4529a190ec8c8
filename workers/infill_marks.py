"""Whether a vocabulary has the marks around a gap, by its file's header: as llama.cpp finds them, without it."""

from __future__ import annotations

from pathlib import Path

from workers.gguf_header import Header, has_text

TOKENS_KEY = "tokenizer.ggml.tokens"
_NAMES = (("fim_pre", "prefix"), ("fim_suf", "suffix"), ("fim_mid", "middle"))
"""By which a header names a mark's token: today's, and an earlier one."""
_SPELLINGS = (
    (
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>",
        "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>",
    ),
    (
        "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>",
        "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>",
    ),
    (
        "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>",
        "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>",
    ),
)  # fmt: skip
"""What llama.cpp takes for the marks where the header names none: Qwen, Granite, DeepSeek, CodeLlama, GLM, Falcon."""


def has_infill_marks(path: Path, head: Header) -> bool:
    """Whether all three are there: of a model in several files, the first one's header. Raises OSError."""
    num_tokens = head.lengths.get(TOKENS_KEY, 0)

    def is_named(name: str) -> bool:
        token = head.values.get(f"tokenizer.ggml.{name}_token_id")
        return isinstance(token, int) and 0 <= token < num_tokens

    return all(
        any(map(is_named, names)) or has_text(path, head, TOKENS_KEY, spellings)
        for names, spellings in zip(_NAMES, _SPELLINGS, strict=True)
    )
