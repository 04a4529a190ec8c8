"""By which variables a template is told whether the model is to think, where it does not know `enable_thinking`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

SWITCH = "enable_thinking"
OPENS_ANSWER = "add_generation_prompt"
"""Whether the prompt ends with what an answer begins by: never a client's to say."""
_LEAST_EFFORTS = ("no_think", "none", "low")
"""What templates compare `reasoning_effort` with for the least of it; of those that a template knows the first."""


def switched(template: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables, and what follows from their `enable_thinking` for a template that asks otherwise: for an effort
    (gpt-oss, Solar, Cohere, Hunyuan), a mode (MiniMax), a budget (Seed), a strength (Muse). What is given stays. Where
    nothing is said, a template that would end the thought for that gets what llama-server says."""
    if SWITCH not in variables and _is_off_unsaid(template):
        variables = {**variables, SWITCH: True}
    is_on = variables.get(SWITCH)
    if not isinstance(is_on, bool):
        return dict(variables)
    return dict(_others(template)[is_on]) | dict(variables)


@lru_cache(maxsize=4)
def _others(template: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """For no thoughts, and for some."""
    off: dict[str, Any] = {}
    on: dict[str, Any] = {}
    if "reasoning_effort" in template:
        least = next((word for word in _LEAST_EFFORTS if _compares(template, "reasoning_effort", word)), "low")
        off["reasoning_effort"] = least
        if _compares(template, "reasoning_effort", "no_think"):  # which is also what it takes without a word
            on["reasoning_effort"] = "high"
    if _compares(template, "thinking_mode", "disabled"):
        off["thinking_mode"], on["thinking_mode"] = "disabled", "enabled"
    if re.search(r"\bthinking_budget\s*==\s*0\b", template):
        off["thinking_budget"] = 0
    if "reasoning_strength" in template:
        off["reasoning_strength"] = "low"
    return off, on


@lru_cache(maxsize=4)
def _is_off_unsaid(template: str) -> bool:
    """Whether it takes `not enable_thinking` for no thoughts, and provides for nobody saying it nowhere: so are the
    templates of DeepSeek R1, QwQ and Command R7B that llama.cpp has, whose server always says it."""
    is_provided = re.search(rf"\b{SWITCH}\s*(is\s+(not\s+)?defined|\|\s*default|=[^=])", template)
    return is_provided is None and re.search(rf"\bnot\s+{SWITCH}\b", template) is not None


def _compares(template: str, name: str, word: str) -> bool:
    return re.search(rf"\b{name}\b[^%}}\n]*[\"']{word}[\"']", template) is not None
