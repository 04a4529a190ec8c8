"""The texts that a regular expression takes, as an expression of GBNF over the characters of a JSON string."""

from __future__ import annotations

import re

from workers.grammars.schemas.regex import ANYTHING, Alt, Anchor, Cat, Chars, Node, PatternRefused, Rep, parsed
from workers.grammars.schemas.rules import Ranges, Rules, SchemaRefused, character_class, literal, union, without

MAX_NAMED = 256
"""In a class of more characters than so many, nobody means the rare control characters."""

_SHORT = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\"}


def matches(pattern: str, text: str, path: str) -> bool:
    """Whether the pattern, of the schema at `path`, has a match in the text. Raises SchemaRefused."""
    try:
        parse(pattern)
        return re.search(pattern.replace("(?<", "(?P<"), text, re.ASCII) is not None
    except (PatternRefused, re.error) as error:
        raise SchemaRefused(path, f"pattern: {error}") from None


def parse(pattern: str) -> Node:
    """The texts that have a match, from beginning to end and without anchors. Raises PatternRefused."""
    bodies: dict[tuple[bool, bool], list[Node]] = {}
    for begins, rest in _anchored(parsed(pattern), is_end=False):
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


def raw_expression(node: Node, barred: Ranges) -> str:
    """The texts as they stand, without characters of `barred`. Raises SchemaRefused where none is left."""
    match node:
        case Chars(ranges):
            if not (left := without(ranges, barred)):
                raise SchemaRefused("", "a pattern with characters that cannot stand here")
            return character_class(left)
        case Cat(parts):
            return " ".join(raw_expression(part, barred) for part in parts) or '""'
        case Alt(parts):
            return "(" + " | ".join(raw_expression(part, barred) for part in parts) + ")"
        case Rep(part, low, high):
            return f"({raw_expression(part, barred)}){counted(low, high)}"
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
