"""A compiled grammar and the tokens so far, by llguidance; and whether a grammar can be matched at all.

llguidance bounds its work for each token, but one row of its parser may grow with the square of a grammar before that
is counted: so all of this runs in processes whose time and memory the kernel limits (workers.grammars.matcher_server).
"""

from __future__ import annotations

import ctypes
import json
import random
import time
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any, Protocol

import msgspec
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from workers.calls.openings import FORCED
from workers.grammars.call_rules import CallsWanted, call_rules
from workers.grammars.frames import IS_ACCEPTING, IS_DONE
from workers.grammars.gbnf import GrammarRefused, lark_of_gbnf
from workers.grammars.schemas import SchemaRefused, gbnf_of_schema

TRIAL_TOKENS = 4
MAX_STATES = 50_000
MAX_ITEMS = 500_000
MAX_GRAMMAR_BYTES = 1024 * 1024
"""Of one that a schema becomes."""
FORESIGHT_SECONDS = 0.05
"""Of computing, that looking at a guess may take: a grammar that is harder to follow is asked about none any more."""
_LIMITS = LLParserLimits(
    max_items_in_row=4_000,
    step_max_items=MAX_ITEMS,
    max_lexer_states=MAX_STATES,
    verbose_errors=False,
    precompute_large_lexemes=False,
)


class MatchFailed(Exception):
    """The grammar does not compile, or cannot be matched further."""


class TokenTexts(Protocol):
    """What a grammar has to know of a vocabulary. The model's own has it, and so has one of the tests' bytes."""

    @property
    def num_tokens(self) -> int:
        """Of the whole vocabulary."""
        ...

    @property
    def end_tokens(self) -> Collection[int]:
        """Those that end an answer."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether it ends an answer."""
        ...

    def piece(self, token: int) -> bytes:
        """The token's text; empty for a control token."""
        ...


class TokenTable:
    """The vocabulary as llguidance wants it. Control tokens have no text: a grammar allows them by number only."""

    def __init__(self, vocabulary: TokenTexts) -> None:
        self._vocabulary = vocabulary
        self.num_tokens = vocabulary.num_tokens

    @cached_property
    def tokenizer(self) -> LLTokenizer:
        """Made when it is first asked for: seconds, of a large vocabulary."""
        ends = sorted(self._vocabulary.end_tokens) or [0]
        return LLTokenizer(_Words(self._vocabulary, ends[0]), n_vocab=self.num_tokens, eos_token=ends[:1])  # type: ignore[arg-type]


class _Words:
    """What LLTokenizer asks of a tokenizer. That it cannot tokenise does not matter: nothing is ever forced."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: TokenTexts, end: int) -> None:
        self.eos_token_id = end
        self.special_token_ids: list[int] = []
        is_end = vocabulary.is_end
        self.tokens = [
            b"" if is_end(token) else vocabulary.piece(token) or b"\xff<%d>" % token
            for token in range(vocabulary.num_tokens)
        ]
        self.tokens[end] = b"\xff<end>"

    def __call__(self, text: bytes | str) -> list[int]:
        return []


class Matcher:
    """A compiled grammar and the tokens so far."""

    def __init__(self, table: TokenTable, gbnf: str, *, has_tokens: bool = False) -> None:
        """`has_tokens`: see lark_of_gbnf. Raises GrammarRefused, MatchFailed."""
        self._num_bytes = (table.num_tokens + 31) // 32 * 4
        self._table = table
        self._lark = lark_of_gbnf(gbnf, has_tokens=has_tokens)
        self._taken: list[int] = []
        self._is_hard = False
        """Guesses cannot be looked at, or not quickly."""
        self._matcher = self._made()
        self._check()

    def _made(self) -> LLMatcher:
        return LLMatcher(self._table.tokenizer, self._lark, log_level=0, limits=_LIMITS)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise MatchFailed(_short(self._matcher.get_error()))

    @property
    def flags(self) -> int:
        """IS_ACCEPTING, IS_DONE. Raises MatchFailed, as all of them do."""
        is_accepting, is_stopped = self._matcher.is_accepting(), self._matcher.is_stopped()
        self._check()
        return (IS_ACCEPTING if is_accepting else 0) | (IS_DONE if is_stopped else 0)

    def take(self, token: int) -> bool:
        """Adds a token if it may come next; whether it may."""
        if self._matcher.is_stopped() or self._matcher.validate_tokens([token]) != 1:
            self._check()
            return False
        self._matcher.consume_token(token)
        self._check()
        self._taken.append(token)
        return True

    def num_allowed(self, guess: Sequence[int]) -> int:
        """How many of the tokens may come next, one after the other; none is taken. None of them where that is hard to
        say: the text itself, which may be another, is followed as if nothing had been asked."""
        if self._is_hard or self._matcher.is_stopped():
            return 0
        began = time.process_time()
        num = self._matcher.validate_tokens(list(guess))
        self._is_hard = time.process_time() - began > FORESIGHT_SECONDS
        if not self._matcher.is_error():
            return num
        # llguidance never leaves an error: what the guess ran into, the text may never come to.
        self._is_hard = True
        self._matcher = self._made()
        self._matcher.consume_tokens(self._taken)
        self._check()
        return 0

    def mask(self) -> bytes:
        """A bit for each token of the vocabulary, set where it may come next; the first token's is the lowest."""
        if self._matcher.is_stopped():
            self._check()
            return bytes(self._num_bytes)
        found = bytearray(self._num_bytes)
        address = ctypes.addressof((ctypes.c_char * len(found)).from_buffer(found))
        self._matcher.unsafe_compute_mask_ptr(address, len(found))
        self._check()
        return bytes(found)

    def wander(self, num_tokens: int) -> None:
        """Takes some tokens, chosen by chance."""
        chance = random.Random(0)
        for _ in range(num_tokens):
            mask = self.mask()
            places = [at for at, byte in enumerate(mask) if byte]
            if not places or self.flags & IS_DONE:
                return
            at = chance.choice(places)
            bits = [bit for bit in range(8) if mask[at] >> bit & 1]
            if not self.take(8 * at + chance.choice(bits)) and self.flags & IS_ACCEPTING:
                return


def _short(error: str) -> str:
    """llguidance's first line, which tells of the grammar; what follows tells of its insides."""
    line = error.partition("\n")[0].partition("<state>")[0].strip()
    if "too many" in line.lower() or "Current row has" in line:
        return f"it is too ambiguous to be followed ({line.partition(';')[0]})"
    return line or "it cannot be followed"


def try_grammar(table: TokenTable, request: dict[str, Any]) -> dict[str, Any]:
    """Makes a schema a grammar, compiles it and matches it for a while, as one may compile and then explode: `gbnf`, or
    an `error`. `request` has a `grammar`, or none and a `schema` as JSON; or `calls`, and then `rules` are made."""
    try:
        if "calls" in request:
            made = call_rules(msgspec.convert(request["calls"], CallsWanted))
            Matcher(table, made.begun_with(FORCED), has_tokens=True).wander(TRIAL_TOKENS)
            return {"rules": msgspec.to_builtins(made)}
        gbnf = request["grammar"]
        if gbnf is None:
            gbnf = gbnf_of_schema(json.loads(request["schema"]))
            if len(gbnf) > MAX_GRAMMAR_BYTES:
                return {"error": f"it makes a grammar of {len(gbnf):,} bytes, over {MAX_GRAMMAR_BYTES:,}"}
        Matcher(table, gbnf).wander(TRIAL_TOKENS)
    except (SchemaRefused, GrammarRefused, MatchFailed) as error:
        return {"error": str(error)}
    except RecursionError:
        return {"error": "it is nested too deep"}
    except MemoryError:
        return {"error": "it takes too much memory"}
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        # A fault of ours: if the child died of it, that would be called too much time or memory.
        return {"error": f"it cannot be made a grammar here ({type(error).__name__})"}
    return {"gbnf": gbnf}
