"""Numbers between bounds, as expressions of GBNF."""

from __future__ import annotations

import math
from decimal import Decimal

MAX_DIGITS = 16
"""Of a number without bounds: what a double keeps."""
MAX_EXACT = 15
"""Digits that a double tells from their neighbours: with more, one just below a bound would be read as that."""
MAX_LISTED = 1000
"""Multiples between bounds that are listed one by one."""
MAX_RESIDUES = 100

INTEGER = '"-"? ("0" | [1-9] [0-9]{0,15})'
NUMBER = f'{INTEGER} ("." [0-9]{{1,16}})? ([eE] [-+]? [0-9]{{1,2}})?'


def integer_range(low: int | None, high: int | None) -> str | None:
    """Integers from `low` to `high`, both within; None where there are none."""
    if low is None and high is None:
        return INTEGER
    if low is not None and high is not None and low > high:
        return None
    parts = []
    if low is None or low < 0:
        negative = _naturals(1 if high is None or high >= 0 else -high, None if low is None else -low)
        parts.append(f'"-" ({negative})')
    if high is None or high >= 0:
        parts.append(_naturals(max(low or 0, 0), high))
    return " | ".join(parts)


def _naturals(low: int, high: int | None) -> str:
    """From `low` ≥ 0 to `high`, without signs and leading zeros."""
    if high is None:
        first = str(low)
        longest = max(MAX_DIGITS, len(first) + 1)
        parts = [_from(first)] if low else ['"0" | [1-9]']
        parts.append(f"[1-9] [0-9]{{{len(first)},{longest - 1}}}")
        return " | ".join(parts)
    parts = []
    for length in range(len(str(low)), len(str(high)) + 1):
        begin = max(low, 10 ** (length - 1) if length > 1 else 0)
        parts.append(_same_length(str(begin), str(min(high, 10**length - 1))))
    return " | ".join(parts)


def _digit(low: int, high: int) -> str:
    return f'"{low}"' if low == high else f"[{low}-{high}]"


def _any(count: int) -> str:
    return "" if count == 0 else f" [0-9]{{{count}}}" if count > 1 else " [0-9]"


def _from(digits: str) -> str:
    """Texts of as many digits that are this one or greater."""
    return _same_length(digits, "9" * len(digits))


def _same_length(low: str, high: str) -> str:
    """Texts of digits between two of the same length."""
    if low == high:
        return f'"{low}"'
    at = next(index for index, (one, other) in enumerate(zip(low, high, strict=True)) if one != other)
    first, last, rest = int(low[at]), int(high[at]), len(low) - at - 1
    prefix = f'"{low[:at]}" ' if at else ""
    is_low_free, is_high_free = low[at + 1 :] == "0" * rest, high[at + 1 :] == "9" * rest
    parts = []
    if not is_low_free:
        parts.append(f'{prefix}"{first}" ({_from(low[at + 1 :])})')
    if (begin := first + (not is_low_free)) <= (end := last - (not is_high_free)):
        parts.append(prefix + _digit(begin, end) + _any(rest))
    if not is_high_free:
        parts.append(f'{prefix}"{last}" ({_same_length("0" * rest, high[at + 1 :])})')
    return " | ".join(parts)


def number_range(low: Decimal | None, high: Decimal | None, *, low_open: bool, high_open: bool) -> str | None:
    """Decimal numbers between two bounds, without exponents; `_open` leaves a bound out. None: there is none."""
    if low is None and high is None:
        return NUMBER
    if low is not None and high is not None and (low > high or (low == high and (low_open or high_open))):
        return None
    bounds = [bound for bound in (low, high) if bound is not None]
    digits = max(1, MAX_EXACT - max(len(str(abs(int(bound)))) for bound in bounds))
    digits = max(digits, *(len(_split(abs(bound))[1]) for bound in bounds))
    parts = []
    if low is None or low < 0:
        above_zero = high is None or high >= 0
        begin, begin_open = (Decimal(0), True) if above_zero or high is None else (-high, high_open)
        parts += [
            f'"-" ({one})' for one in _magnitudes(begin, begin_open, None if low is None else -low, low_open, digits)
        ]
    if high is None or high > 0 or (high == 0 and not high_open):
        begin, begin_open = (low, low_open) if low is not None and low >= 0 else (Decimal(0), False)
        parts += _magnitudes(begin, begin_open, high, high_open, digits)
    return " | ".join(parts) or None


def _split(value: Decimal) -> tuple[int, str]:
    """A magnitude's whole part, and the digits of its fraction."""
    whole = int(value)
    return whole, format(value - whole, "f").partition(".")[2].rstrip("0")


def _magnitudes(low: Decimal, low_open: bool, high: Decimal | None, high_open: bool, digits: int) -> list[str]:
    whole, fraction = _split(low)
    if high is None:
        return [f"({_naturals(whole + 1, None)}) {_some(digits)}", *_joined(whole, _above(fraction, low_open, digits))]
    last, last_fraction = _split(high)
    if whole == last:
        return _joined(whole, _within(fraction, low_open, last_fraction, high_open, digits))
    parts = _joined(whole, _above(fraction, low_open, digits))
    if whole + 1 <= last - 1:
        parts.append(f"({_naturals(whole + 1, last - 1)}) {_some(digits)}")
    return parts + _joined(last, _below(last_fraction, high_open, digits))


def _joined(whole: int, fractions: list[str]) -> list[str]:
    return [f'"{whole}" {one}'.rstrip() for one in fractions]


def _some(digits: int) -> str:
    return f'("." [0-9]{{1,{digits}}})?'


def _up_to(digits: int) -> str:
    return f" [0-9]{{0,{digits}}}" if digits > 0 else ""


def _above(fraction: str, is_open: bool, digits: int) -> list[str]:
    """Fractions, with their point, from this one on."""
    if not fraction and not is_open:
        return [_some(digits)]
    return [f'"." {one}' for one in _rest_above(fraction, is_open, digits)]


def _rest_above(fraction: str, is_open: bool, digits: int) -> list[str]:
    parts = []
    for at, digit in enumerate(map(int, fraction)):
        if digit < 9:
            prefix = f'"{fraction[:at]}" ' if at else ""
            parts.append(prefix + _digit(digit + 1, 9) + _up_to(digits - at - 1))
    left = digits - len(fraction)
    exact = f'"{fraction}"' if fraction else ""
    if not is_open:
        parts.append((exact + _up_to(left)).strip())
    elif left > 0:
        parts.append(f'{exact} "0"{{0,{left - 1}}} [1-9]{_up_to(left - 1)}'.strip())
    return parts


def _below(fraction: str, is_open: bool, digits: int) -> list[str]:
    """Fractions, with their point or without any, up to this one."""
    if not fraction:
        return [] if is_open else [f'("." "0"{{1,{digits}}})?']
    return ["", *(f'"." {one}' for one in _rest_below(fraction, is_open, digits))]


def _rest_below(fraction: str, is_open: bool, digits: int) -> list[str]:
    parts = []
    for at, digit in enumerate(map(int, fraction)):
        prefix = f'"{fraction[:at]}"' if at else ""
        if at:
            parts.append(prefix)
        if digit:
            parts.append(f"{prefix} {_digit(0, digit - 1)}{_up_to(digits - at - 1)}".strip())
    if not is_open:
        parts.append(f'"{fraction}" "0"{{0,{max(digits - len(fraction), 0)}}}')
    return parts


def _within(low: str, low_open: bool, high: str, high_open: bool, digits: int) -> list[str]:
    """Fractions between two, of the same whole part."""
    if not high:
        return [f'("." "0"{{1,{digits}}})?']
    length = max(len(low), len(high))
    one, other = low.ljust(length, "0"), high.ljust(length, "0")
    parts = [] if low_open else [f'"." "{low}"' if low else ""]
    if one == other:
        return parts
    at = next(index for index in range(length) if one[index] != other[index])
    prefix = f'"{one[:at]}" ' if at else ""
    first, last = int(one[at]), int(other[at])
    left = digits - at - 1
    parts += [f'"." {prefix}"{first}" {rest}' for rest in _rest_above(one[at + 1 :].rstrip("0"), low_open, left)]
    if first + 1 <= last - 1:
        parts.append(f'"." {prefix}{_digit(first + 1, last - 1)}{_up_to(left)}')
    rests = _rest_below(other[at + 1 :].rstrip("0"), high_open, left)
    if other[at + 1 :].rstrip("0"):
        rests.append("")
    return parts + [f'"." {prefix}"{last}" {rest}'.rstrip() for rest in rests]


def multiples(step: int, low: int | None, high: int | None) -> str | dict[str, str] | None:
    """Integers that `step` divides: an expression, or rules of which `m0` begins; None where they cannot be told."""
    if step == 1:
        return integer_range(low, high)
    if low is not None and high is not None:
        first, last = math.ceil(Decimal(low) / step), math.floor(Decimal(high) / step)
        if last - first >= MAX_LISTED:
            return None
        return " | ".join(f'"{number * step}"' for number in range(first, last + 1))
    if step > MAX_RESIDUES or low not in (None, 0) or high not in (None, 0):
        return None
    return _residues(step, "" if low == 0 else '"-" ' if high == 0 else '"-"? ')


def _residues(step: int, sign: str) -> dict[str, str]:
    """An automaton that keeps the remainder of the digits so far, and how many may still come: without an end to them a
    model that has begun to repeat itself would go on for ever."""
    rules: dict[str, str] = {}

    def name(left: int, residue: int) -> str:
        return f"r{left * step + residue}"

    def digits(chosen: range, residue: int, left: int) -> str:
        """Alternatives of the next digit, `left` of them behind it; none that no multiple begins with."""
        targets: dict[int, str] = {}
        for digit in chosen:
            target = (10 * residue + digit) % step
            targets[target] = targets.get(target, "") + str(digit)
        return " | ".join(
            f"[{those}] {name(left, target)}" for target, those in targets.items() if name(left, target) in rules
        )

    for left in range(MAX_DIGITS):
        for residue in range(step):
            parts = ['""'] if residue == 0 else []
            parts += [digits(range(10), residue, left - 1)] if left else []
            if found := " | ".join(filter(None, parts)):
                rules[name(left, residue)] = found
    rules["m0"] = f'"0" | {sign}({digits(range(1, 10), 0, MAX_DIGITS - 1)})'
    return rules
