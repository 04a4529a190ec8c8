"""Fields of OpenAI's API, and of servers that speak it, that are not done here: which of their values ask for nothing,
so that front ends may send them unasked. With any other value a field is ignored and named, or refused by a strict
gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from producers.gateway.bodies import ANY_VALUE, Harmless

OPENAI: Mapping[str, Harmless] = {
    "metadata": ({},),
    "moderation": (),
    "prediction": (),
    "prompt_cache_retention": ("in_memory", "in-memory"),
    "safety_identifier": ("",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
SAMPLERS: Mapping[str, Harmless] = {
    "adaptive_decay": ANY_VALUE,
    "adaptive_target": (-1,),
    "backend_sampling": (False,),
    "dry_allowed_length": ANY_VALUE,
    "dry_base": ANY_VALUE,
    "dry_multiplier": (0,),
    "dry_penalty_last_n": ANY_VALUE,
    "dry_sequence_breakers": ANY_VALUE,
    "dynatemp_exponent": ANY_VALUE,
    "dynatemp_range": (0,),
    "length_penalty": (1,),
    "min_keep": (0,),
    "min_tokens": (0,),
    "mirostat": (0,),
    "mirostat_eta": ANY_VALUE,
    "mirostat_tau": ANY_VALUE,
    "penalize_nl": (False,),
    "repeat_last_n": (64,),
    "samplers": ([],),
    "stop_token_ids": ([],),
    "tfs_z": (1,),
    "top_a": (0,),
    "top_n_sigma": (-1,),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "xtc_probability": (0,),
    "xtc_threshold": ANY_VALUE,
}
"""Of llama-server and vLLM. What only says how another one acts asks for nothing by itself."""
SERVERS: Mapping[str, Harmless] = {
    "add_generation_prompt": (True,),
    "cache_prompt": (True,),
    "id_slot": (-1,),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "keep_alive": (),
    "lora": ([],),
    "n_cache_reuse": (0,),
    "n_discard": (0,),
    "n_indent": (0,),
    "n_keep": (0,),
    "parse_tool_calls": (True,),
    "post_sampling_probs": (False,),
    "reasoning_format": ("auto", "deepseek"),
    "response_fields": ([],),
    "return_tokens": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "sse_ping_interval": ANY_VALUE,
    "t_max_predict_ms": (-1, 0),
}
"""What such servers do besides."""
HARMLESS: dict[str, Harmless] = {**OPENAI, **SAMPLERS, **SERVERS}
RESPONSES_HARMLESS: Mapping[str, Harmless] = HARMLESS | {
    "background": (False,),
    "context_management": ([],),
    "max_tool_calls": (),
    "truncation": ("disabled",),
}
"""Of the Responses API besides."""

REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "functions": (((),), "use tools"),
    "function_call": (("none", "auto"), "use tool_choice"),
    "modalities": ((("text",),), "leave it out"),
    "audio": ((), "leave it out"),
}
"""What an answer would make no sense without: the values that ask for nothing, and what to do instead."""
