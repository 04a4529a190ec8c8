"""Regular expressions as JSON Schema has them (ECMA-262): what there is in one, and the parser that finds it.

On what `\\D`, `\\W` and `\\S` take beyond ASCII engines disagree: here they take what all do.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.grammars.schemas.rules import Ranges, complement, union, without

MAX_REPEATS = 100_000
MAX_NESTING = 64

DIGITS: Ranges = ((0x30, 0x39),)
WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACES: Ranges = ((0x09, 0x0D), (0x20, 0x20))
_NO_DIGITS = without(((0x00, 0x65F), (0x3000, 0xA61F)), DIGITS)
_NO_WORD = union(without(((0x00, 0x7F),), WORD), ((0x2010, 0x2027), (0x20A0, 0x20BF), (0x3001, 0x3003)))
_NO_SPACES = complement(
    (
        *((0x00, 0x20), (0x7F, 0xA0), (0x1680, 0x1680), (0x2000, 0x200F), (0x2028, 0x202F)),
        *((0x205F, 0x206F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
    )
)
ANY: Ranges = complement(())
_NO_LINE_ENDS = without(ANY, ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)))
CLASSES = {"d": DIGITS, "D": _NO_DIGITS, "w": WORD, "W": _NO_WORD, "s": SPACES, "S": _NO_SPACES}
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00}


class PatternRefused(ValueError):
    """A pattern that is none, or has what no grammar can do."""


@dataclass(frozen=True)
class Chars:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True)
class Cat:
    """One after the other; no parts are the empty text."""

    parts: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Alt:
    """One or another."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Rep:
    """The same, so many times; without `high` any number."""

    part: Node
    low: int
    high: int | None


@dataclass(frozen=True)
class Anchor:
    """The beginning of the text, or its end."""

    is_end: bool


Node = Chars | Cat | Alt | Rep | Anchor
ANYTHING = Rep(Chars(ANY), 0, None)


def parsed(pattern: str) -> Node:
    """What the pattern says, anchors included. Raises PatternRefused."""
    return _Parser(pattern).parse()


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        node = self._alternatives()
        if self._at < len(self._text):
            raise PatternRefused(f"unbalanced ')' at character {self._at + 1}")
        return node

    def _peek(self, length: int = 1) -> str:
        return self._text[self._at : self._at + length]

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise PatternRefused("it ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _alternatives(self) -> Node:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise PatternRefused(f"it is nested deeper than {MAX_NESTING}")
        parts = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            parts.append(self._sequence())
        self._depth -= 1
        return parts[0] if len(parts) == 1 else Alt(tuple(parts))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while (character := self._peek()) and character not in "|)":
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Cat(tuple(parts))

    def _atom(self) -> Node:
        match character := self._next():
            case "(":
                return self._group()
            case "[":
                return Chars(self._class())
            case ".":
                return Chars(_NO_LINE_ENDS)
            case "^" | "$":
                return Anchor(character == "$")
            case "\\":
                return Chars(self._escape(in_class=False))
            case "*" | "+" | "?":
                raise PatternRefused(f"nothing to repeat before {character!r} at character {self._at}")
            case _:
                return Chars(((ord(character), ord(character)),))

    def _group(self) -> Node:
        if self._peek() == "?":
            for begin in ("?:", "?P<", "?<"):
                if self._peek(len(begin)) == begin and self._peek(3) not in ("?<=", "?<!"):
                    self._at += len(begin)
                    while begin != "?:" and self._next() != ">":
                        pass
                    break
            else:
                raise PatternRefused(f"({self._peek(3)} … looks around or sets a flag, which no grammar can")
        node = self._alternatives()
        if self._peek() != ")":
            raise PatternRefused("unbalanced '('")
        self._at += 1
        return node

    def _repeated(self, node: Node) -> Node:
        while self._peek() and self._peek() in "*+?{":
            low, high = self._counts()
            if high is not None and low > high:
                raise PatternRefused(f"{{{low},{high}}} is no range")
            if max(low, high or 0) > MAX_REPEATS:
                raise PatternRefused(f"more than {MAX_REPEATS:,} repetitions")
            if isinstance(node, Anchor):
                raise PatternRefused("an anchor is repeated")
            node = Rep(node, low, high)
            if self._peek() == "?":  # lazy: the same texts
                self._at += 1
        return node

    def _counts(self) -> tuple[int, int | None]:
        match self._next():
            case "*":
                return 0, None
            case "+":
                return 1, None
            case "?":
                return 0, 1
        end = self._text.find("}", self._at)
        low, comma, high = self._text[self._at : max(end, self._at)].partition(",")
        if end < 0 or not low.isascii() or not low.isdigit() or (high and not (high.isascii() and high.isdigit())):
            raise PatternRefused(f"no repetition at character {self._at}: write \\{{ for a brace")
        self._at = end + 1
        if max(len(low), len(high)) > 7:
            raise PatternRefused(f"more than {MAX_REPEATS:,} repetitions")
        return int(low), int(high) if high else None if comma else int(low)

    def _escape(self, *, in_class: bool) -> Ranges:
        character = self._next()
        if character in CLASSES:
            return CLASSES[character]
        code = self._code(character, in_class=in_class)
        return ((code, code),)

    def _code(self, character: str, *, in_class: bool) -> int:
        if character in "xu":
            digits = self._hexadecimal(2 if character == "x" else 4)
            if 0xD800 <= digits <= 0xDFFF:
                raise PatternRefused("half of a surrogate pair")
            return digits
        if character == "b" and in_class:
            return 0x08
        if character in _CONTROLS and not (character == "0" and self._peek().isdigit()):
            return _CONTROLS[character]
        if character.isalnum():
            raise PatternRefused(f"\\{character} is not supported")
        return ord(character)

    def _hexadecimal(self, length: int) -> int:
        digits = self._peek(length)
        if len(digits) < length or any(one not in "0123456789abcdefABCDEF" for one in digits):
            raise PatternRefused(f"{length} hexadecimal digits are wanted at character {self._at + 1}")
        self._at += length
        return int(digits, 16)

    def _class(self) -> Ranges:
        is_negated = self._peek() == "^"
        self._at += is_negated
        found: Ranges = ()
        while (character := self._next()) != "]":
            low = self._escape(in_class=True) if character == "\\" else ((ord(character), ord(character)),)
            if self._peek() == "-" and self._peek(2)[1:] not in ("]", "") and len(low) == 1 and low[0][0] == low[0][1]:
                self._at += 1
                other = self._next()
                high = self._escape(in_class=True) if other == "\\" else ((ord(other), ord(other)),)
                if len(high) > 1 or high[0][0] < low[0][0]:
                    raise PatternRefused("a range of characters that is none")
                low = ((low[0][0], high[0][1]),)
            found = union(found, low)
        found = complement(found) if is_negated else without(found, ((0xD800, 0xDFFF),))
        if not found:
            raise PatternRefused("a class without characters")
        return found
