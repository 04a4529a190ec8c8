"""GBNF, llama.cpp's form of grammars, as the Lark that llguidance reads. Pure.

Every terminal is one character there. llguidance cuts a text into terminals by the longest match, which with longer
ones would forbid what a grammar allows (`("a" | "ab") "b"` would not take `ab`); single characters leave it no choice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MAX_DEPTH = 32
INLINE_DEPTH = 4
"""Groups within more groups than so many become rules: llguidance has a limit of its own for them."""
MAX_REPEATS = 1_000_000
MAX_TERMINALS = 5_000
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_TOKEN = re.compile(r"<\[[0-9]{1,7}\]>")
_BLANK = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_BLANKS = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"} | {character: character for character in '\\"[]-'}
_HEXADECIMAL = {"x": 2, "u": 4, "U": 8}


class GrammarRefused(ValueError):
    """A grammar that is none, or makes no text; the text says where."""


@dataclass(frozen=True)
class Item:
    """An element of a sequence in Lark; `rule` where it is nothing but a reference to it."""

    lark: str
    rules: frozenset[str]
    """The rules that it refers to, anywhere inside."""
    rule: str = ""
    needed: frozenset[str] = frozenset()
    """The rules that have to make some text for it to make some."""
    is_empty: bool = False


Sequence = tuple[Item, ...]


@dataclass
class _Rule:
    name: str
    alternatives: list[Sequence] = field(default_factory=list)


def lark_of_gbnf(text: str, *, has_tokens: bool = False) -> str:
    """The same grammar in Lark. Raises GrammarRefused. `has_tokens`: `<[7]>` in it is the token 7."""
    return _Translator(text, has_tokens=has_tokens).lark()


class _Translator:
    def __init__(self, text: str, *, has_tokens: bool) -> None:
        self._text = text
        self._has_tokens = has_tokens
        self._at = 0
        self._terminals: dict[str, str] = {}
        self._names: dict[str, str] = {"root": "start"}
        self._groups: list[str] = []

    def lark(self) -> str:
        rules = {rule.name: rule for rule in self._rules()}
        if "root" not in rules:
            raise GrammarRefused("there is no rule `root`")
        for name in self._names:
            if name not in rules:
                raise GrammarRefused(f"the rule `{name}` is not defined")
        if "root" not in _productive(rules):
            raise GrammarRefused("it makes no text: `root` never comes to an end")
        used = _used(rules)
        lines = [f"{self._named(name)}: {_body(rule)}" for name, rule in rules.items() if name in used]
        lines += self._groups
        lines += [f"{name}: /{expression}/" for expression, name in self._terminals.items()]
        return '%llguidance { "no_forcing": true }\n' + "\n".join(lines) + "\n"

    def _named(self, name: str) -> str:
        if name not in self._names:
            self._names[name] = f"r{len(self._names)}"
        return self._names[name]

    def _rules(self) -> list[_Rule]:
        self._skip(_BLANKS)
        found = []
        while self._at < len(self._text):
            if (match := _NAME.match(self._text, self._at)) is None:
                raise self._error("a rule's name is wanted")
            self._at = match.end()
            self._skip(_BLANK)
            if not self._text.startswith("::=", self._at):
                raise self._error("`::=` is wanted")
            self._at += 3
            self._skip(_BLANKS)
            self._named(match[0])
            found.append(_Rule(match[0], self._alternatives(0)))
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._error("a line end is wanted")
            self._skip(_BLANKS)
        return found

    def _alternatives(self, depth: int) -> list[Sequence]:
        if depth > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH}")
        found = [self._sequence(depth)]
        while self._text.startswith("|", self._at):
            self._at += 1
            self._skip(_BLANKS)
            found.append(self._sequence(depth))
        return found

    def _sequence(self, depth: int) -> Sequence:
        items: list[Item] = []
        blank = _BLANKS if depth else _BLANK
        while self._at < len(self._text):
            character = self._text[self._at]
            if character in "*+?{":
                if not items:
                    raise self._error("nothing stands before the repetition")
                items[-1] = self._repeated(items[-1], blank)
            elif (item := self._element(character, depth)) is not None:
                items.append(item)
            else:
                break
            self._skip(blank)
        return tuple(items)

    def _element(self, character: str, depth: int) -> Item | None:
        match character:
            case '"':
                return self._literal()
            case "[":
                return self._terminal(self._class())
            case ".":
                self._at += 1
                return self._terminal(r"[\x{0}-\x{10FFFF}]")
            case "(":
                return self._group(depth)
            case "<" if self._has_tokens and (match := _TOKEN.match(self._text, self._at)):
                self._at = match.end()
                return Item(match[0], frozenset())
            case "<" | "!":
                raise self._error("references to tokens are not supported")
        if (match := _NAME.match(self._text, self._at)) is None:
            return None
        self._at = match.end()
        name = self._named(match[0])
        one = frozenset({match[0]})
        return Item(name, one, match[0], one)

    def _group(self, depth: int) -> Item:
        self._at += 1
        self._skip(_BLANKS)
        alternatives = self._alternatives(depth + 1)
        if not self._text.startswith(")", self._at):
            raise self._error("`)` is wanted")
        self._at += 1
        rules = frozenset(rule for sequence in alternatives for item in sequence for rule in item.rules)
        needed = [frozenset(rule for item in sequence for rule in item.needed) for sequence in alternatives]
        # Of alternatives the least that all of them need: more would call a rule barren that is not.
        lark = _choice(alternatives)
        if depth >= INLINE_DEPTH:
            name = f"g{len(self._groups)}"
            self._groups.append(f"{name}: {lark[1:-1]}")
            lark = name
        return Item(lark, rules, needed=frozenset.intersection(*needed))

    def _repeated(self, item: Item, blank: re.Pattern[str]) -> Item:
        low, high = self._counts(blank)
        if max(low, high or 0) > MAX_REPEATS:
            raise self._error(f"more than {MAX_REPEATS:,} repetitions")
        if high is not None and low > high:
            raise self._error("the repetition's bounds are the wrong way round")
        if high == 0 or item.is_empty:
            return Item('""', frozenset(), is_empty=True)
        lark = f"({item.lark})"
        match low, high:
            case 0, None:
                lark += "*"
            case 1, None:
                lark += "+"
            case 0, 1:
                lark += "?"
            case _:
                lark += f"{{{low},{'' if high is None else high}}}"
        return Item(lark, item.rules, needed=item.needed if low else frozenset())

    def _counts(self, blank: re.Pattern[str]) -> tuple[int, int | None]:
        character = self._text[self._at]
        if character != "{":
            self._at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[character]
        match = re.compile(r"\{\s*(\d{1,9})\s*(?:(,)\s*(\d{1,9})?\s*)?\}", re.ASCII).match(self._text, self._at)
        if match is None:
            raise self._error("no repetition: {m}, {m,} or {m,n}")
        self._at = match.end()
        low = int(match[1])
        return low, int(match[3]) if match[3] else None if match[2] else low

    def _literal(self) -> Item:
        self._at += 1
        found = []
        while not self._text.startswith('"', self._at):
            found.append(self._terminal(f"[\\x{{{self._character():X}}}]").lark)
        self._at += 1
        return Item(" ".join(found), frozenset()) if found else Item('""', frozenset(), is_empty=True)

    def _class(self) -> str:
        self._at += 1
        is_negated = self._text.startswith("^", self._at)
        self._at += is_negated
        parts = []
        while not self._text.startswith("]", self._at):
            low = high = self._character()
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                high = self._character()
            if low > high:
                raise self._error("a range of characters that is none")
            parts.append(f"\\x{{{low:X}}}-\\x{{{high:X}}}")
        self._at += 1
        if not parts:
            raise self._error("a class without characters")
        return f"[{'^' if is_negated else ''}{''.join(parts)}]"

    def _character(self) -> int:
        if self._at >= len(self._text):
            raise self._error("it ends too early")
        character = self._text[self._at]
        self._at += 1
        if character != "\\":
            return ord(character)
        escape = self._text[self._at : self._at + 1]
        self._at += 1
        if escape in _HEXADECIMAL:
            digits = self._text[self._at : self._at + _HEXADECIMAL[escape]]
            self._at += len(digits)
            if len(digits) < _HEXADECIMAL[escape] or not re.fullmatch("[0-9a-fA-F]+", digits):
                raise self._error("hexadecimal digits are wanted")
            code = int(digits, 16)
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                raise self._error("no character has this number")
            return code
        if not escape or escape not in _ESCAPES:
            raise self._error(f"there is no escape `\\{escape}`")
        return ord(_ESCAPES[escape])

    def _terminal(self, expression: str) -> Item:
        if expression not in self._terminals:
            if len(self._terminals) >= MAX_TERMINALS:
                raise self._error(f"more than {MAX_TERMINALS:,} different characters and classes")
            self._terminals[expression] = f"T{len(self._terminals)}"
        return Item(self._terminals[expression], frozenset())

    def _skip(self, blank: re.Pattern[str]) -> None:
        match = blank.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _error(self, reason: str) -> GrammarRefused:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - (self._text.rfind("\n", 0, self._at) + 1) + 1
        return GrammarRefused(f"line {line}, character {column}: {reason}")


def _sequence(items: Sequence) -> str:
    return " ".join(item.lark for item in items if not item.is_empty) or '""'


def _choice(alternatives: list[Sequence]) -> str:
    return "(" + " | ".join(dict.fromkeys(map(_sequence, alternatives))) + ")"


def _body(rule: _Rule) -> str:
    """A rule's right side. `x: a x | b` becomes `(a)* b`: recursion on the right costs more with each repetition."""
    recursive = [one for one in rule.alternatives if one and one[-1].rule == rule.name]
    rest = [one for one in rule.alternatives if not (one and one[-1].rule == rule.name)]
    repeated = [one[:-1] for one in recursive]
    is_plain = rest and not any(rule.name in item.rules for one in (*repeated, *rest) for item in one)
    if not recursive or not is_plain or not all(repeated):
        return _choice(rule.alternatives)[1:-1]
    return f"{_choice(repeated)}* {_choice(rest)}"


def _used(rules: dict[str, _Rule]) -> set[str]:
    """The rules that `root` comes to."""
    found, waiting = {"root"}, ["root"]
    while waiting:
        alternatives = rules[waiting.pop()].alternatives
        new = {name for one in alternatives for item in one for name in item.rules} - found
        found |= new
        waiting += new
    return found


def _productive(rules: dict[str, _Rule]) -> set[str]:
    """The rules that make some text."""
    found: set[str] = set()
    growing = True
    while growing:
        new = {
            name
            for name, rule in rules.items()
            if name not in found
            and any(all(needed in found for item in one for needed in item.needed) for one in rule.alternatives)
        }
        found |= new
        growing = bool(new)
    return found
