"""Regular expressions as JSON Schema has them (ECMA-262), as expressions of GBNF over the characters of a JSON string.

On what `\\D`, `\\W` and `\\S` take beyond ASCII engines disagree: here they take what all do.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.grammars.schemas.rules import Ranges, Rules, character_class, complement, literal, union, without

MAX_REPEATS = 100_000
MAX_NESTING = 64
MAX_NAMED = 256
"""In a class of more characters than so many, nobody means the rare control characters."""

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
_SHORT = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\"}


class PatternRefused(ValueError):
    """A pattern that is none, or has what no grammar can do."""


@dataclass(frozen=True)
class Chars:
    ranges: Ranges


@dataclass(frozen=True)
class Cat:
    parts: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Alt:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Rep:
    part: Node
    low: int
    high: int | None


@dataclass(frozen=True)
class Anchor:
    is_end: bool


Node = Chars | Cat | Alt | Rep | Anchor
ANYTHING = Rep(Chars(ANY), 0, None)


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


def parse(pattern: str) -> Node:
    """The texts that have a match, from beginning to end and without anchors. Raises PatternRefused."""
    bodies: dict[tuple[bool, bool], list[Node]] = {}
    for begins, rest in _anchored(_Parser(pattern).parse(), is_end=False):
        for ends, body in _anchored(rest, is_end=True):
            if _has_anchor(body):
                raise PatternRefused("an anchor in the middle")
            bodies.setdefault((begins, ends), []).append(body)
    parts = []
    for (begins, ends), some in bodies.items():
        body = some[0] if len(some) == 1 else Alt(tuple(some))
        parts.append(Cat((() if begins else (ANYTHING,)) + (body,) + (() if ends else (ANYTHING,))))
    return parts[0] if len(parts) == 1 else Alt(tuple(parts))


def _has_anchor(node: Node) -> bool:
    match node:
        case Anchor():
            return True
        case Cat(parts) | Alt(parts):
            return any(map(_has_anchor, parts))
        case Rep(part=part):
            return _has_anchor(part)
    return False


def _anchored(node: Node, *, is_end: bool) -> list[tuple[bool, Node]]:
    """Alternatives of the node: whether each begins (or ends) with an anchor, and what it is without."""
    if not _has_anchor(node):
        return [(False, node)]
    match node:
        case Anchor(found) if found == is_end:
            return [(True, Cat())]
        case Alt(parts):
            found_in = [_anchored(part, is_end=is_end) for part in parts]
            plain = [one for some in found_in for is_anchored, one in some if not is_anchored]
            strict = [one for some in found_in for is_anchored, one in some if is_anchored]
            both = [(False, plain), (True, strict)]
            return [(is_anchored, one) for is_anchored, some in both for one in some]
        case Cat(parts) if parts:
            outer, inner = (parts[-1], parts[:-1]) if is_end else (parts[0], parts[1:])
            return [
                (is_anchored, Cat((*inner, one) if is_end else (one, *inner)))
                for is_anchored, one in _anchored(outer, is_end=is_end)
            ]
    return [(False, node)]


def lengths(node: Node) -> tuple[int, int | None]:
    """How many characters a text has, at least and at most."""
    match node:
        case Chars():
            return 1, 1
        case Cat(parts):
            found = [lengths(part) for part in parts]
            highs = [high for _, high in found]
            return sum(low for low, _ in found), None if None in highs else sum(high or 0 for high in highs)
        case Alt(parts):
            found = [lengths(part) for part in parts]
            highs = [high for _, high in found]
            return min(low for low, _ in found), None if None in highs else max(high or 0 for high in highs)
        case Rep(part, low, high):
            least, most = lengths(part)
            return least * low, 0 if high == 0 or most == 0 else None if high is None or most is None else most * high
    return 0, 0


def limited(node: Node, low: int, high: int | None) -> Node | None:
    """The texts of `low` … `high` characters; None where that is not simple."""
    least, most = lengths(node)
    if least >= low and (high is None or (most is not None and most <= high)):
        return node
    match node:
        case Rep(Chars() as one, begin, end):
            last = end if high is None else high if end is None else min(high, end)
            return Rep(one, max(begin, low), last) if last is None or max(begin, low) <= last else None
        case Rep(one, 0, 1) if not isinstance(one, Chars):
            inner = limited(one, low, high)
            return inner if low > 0 or inner is None else Alt((Cat(), inner))
        case Rep(Alt() | Cat() as one, begin, end) if lengths(one) == (1, 1):
            return limited(Rep(Chars(_set_of(one)), begin, end), low, high)
        case Alt(parts):
            some = [found for part in parts if (found := limited(part, low, high)) is not None]
            return Alt(tuple(some)) if some else None
        case Cat(parts):
            return _limited_one(parts, low, high)
    return None


def _limited_one(parts: tuple[Node, ...], low: int, high: int | None) -> Node | None:
    """Where one part alone has no fixed length, that part is limited to what the others leave."""
    free = [index for index, part in enumerate(parts) if len(set(lengths(part))) > 1]
    if len(free) != 1:
        return None
    taken = sum(lengths(part)[0] for index, part in enumerate(parts) if index != free[0])
    if high is not None and high < taken:
        return None
    part = limited(parts[free[0]], max(0, low - taken), None if high is None else high - taken)
    return None if part is None else Cat((*parts[: free[0]], part, *parts[free[0] + 1 :]))


def _set_of(node: Node) -> Ranges:
    match node:
        case Chars(ranges):
            return ranges
        case Alt(parts):
            return union(*map(_set_of, parts))
        case Cat(parts):
            return next(_set_of(part) for part in parts if lengths(part) == (1, 1))
    return ()


def expression(node: Node, rules: Rules) -> str:
    """The same as GBNF, in the spelling of a JSON string. Sets of characters become rules, each once: what is shared is
    followed once."""
    match node:
        case Chars(ranges):
            return _in_json(ranges, rules)
        case Cat(parts):
            return _joined(parts, rules) or '""'
        case Alt(parts):
            return "(" + " | ".join(expression(part, rules) for part in parts) + ")"
        case Rep(part, low, high):
            return f"({expression(part, rules)}){counted(low, high)}"
    raise AssertionError("an anchor is left")


def _joined(parts: tuple[Node, ...], rules: Rules) -> str:
    found, text = [], ""
    for part in parts:
        if isinstance(part, Chars) and len(part.ranges) == 1 and part.ranges[0][0] == part.ranges[0][1]:
            text += _json_character(part.ranges[0][0])
            continue
        if part == Cat():
            continue
        found += [literal(text)] if text else []
        text = ""
        found.append(expression(part, rules))
    return " ".join([*found, literal(text)] if text else found)


def counted(low: int, high: int | None) -> str:
    """How often, as GBNF has it behind an element."""
    match low, high:
        case 0, None:
            return "*"
        case 1, None:
            return "+"
        case 0, 1:
            return "?"
        case _:
            return f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"


def _json_character(code: int) -> str:
    if code in _SHORT:
        return "\\" + _SHORT[code]
    return f"\\u{code:04x}" if code < 0x20 or code == 0x7F else chr(code)


def _in_json(ranges: Ranges, rules: Rules) -> str:
    """One character of a set, escaped where JSON wants it, and nowhere else."""
    special = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F))
    plain = without(ranges, special)
    parts = [character_class(plain)] if plain else []
    is_large = len(parts) > 0 and sum(high - low for low, high in plain) > MAX_NAMED
    escaped = [
        code
        for low, high in special
        for code in range(low, high + 1)
        if any(a <= code <= b for a, b in ranges) and (code in _SHORT or not is_large)
    ]
    if short := "".join(sorted(_SHORT[code] for code in escaped if code in _SHORT)):
        letters = tuple((ord(letter), ord(letter)) for letter in short)
        parts.append(f"{literal(chr(0x5C))} {character_class(letters)}")
    parts += [literal(_json_character(code)) for code in escaped if code not in _SHORT]
    return parts[0] if len(parts) == 1 and plain else rules.add("chars", " | ".join(parts))
