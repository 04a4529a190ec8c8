"""Texts of the formats of JSON Schema, as patterns: what they take, Python and the `jsonschema` package take too."""

from __future__ import annotations

_MONTHS = (  # the 29th of February is no date in most years
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"[1-9][0-9]{{3}}-{_MONTHS}"
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?"
_ZONE = "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = f"{_LABEL}(?:\\.{_LABEL}){{0,4}}"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_HEX = "[0-9a-f]"
_URI_PART = "[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2}"
_URI = (  # of at most 2,000 characters
    f"[a-z][a-z0-9+.-]{{0,19}}://{_HOST}(?::[1-9][0-9]{{0,3}})?(?:/(?:{_URI_PART}){{0,40}}){{0,10}}"
    f"(?:\\?(?:{_URI_PART}|[/?]){{0,80}})?(?:#(?:{_URI_PART}|[/?]){{0,40}})?"
)
_COUNT = "[0-9]{1,9}"
_DURATION_TIME = f"T(?:{_COUNT}H(?:{_COUNT}M(?:{_COUNT}S)?)?|{_COUNT}M(?:{_COUNT}S)?|{_COUNT}S)"
_DURATION_DATE = f"(?:{_COUNT}D|{_COUNT}M(?:{_COUNT}D)?|{_COUNT}Y(?:{_COUNT}M(?:{_COUNT}D)?)?)"

PATTERNS = {
    "date": _DATE,
    "time": _CLOCK + _ZONE,
    "date-time": f"{_DATE}T{_CLOCK}{_ZONE}",
    "duration": f"P(?:{_DURATION_DATE}(?:{_DURATION_TIME})?|{_DURATION_TIME}|{_COUNT}W)",
    "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    "email": f"[A-Za-z0-9_+-]+(?:\\.[A-Za-z0-9_+-]+)*@{_LABEL}(?:\\.{_LABEL}){{1,4}}",
    "hostname": _HOST,
    "ipv4": f"{_BYTE}(?:\\.{_BYTE}){{3}}",
    "ipv6": "(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,5})?::(?:[0-9a-f]{1,4})?",
    "uri": _URI,
    "byte": "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
}
PATTERNS["uri-reference"] = PATTERNS["iri"] = PATTERNS["iri-reference"] = PATTERNS["url"] = PATTERNS["uri"]
PATTERNS["idn-email"], PATTERNS["idn-hostname"] = PATTERNS["email"], PATTERNS["hostname"]

INTEGERS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1), "uint32": (0, 2**32 - 1)}
INTEGERS |= {"uint64": (0, 2**64 - 1), "int8": (-128, 127), "uint8": (0, 255), "int16": (-(2**15), 2**15 - 1)}

UNHELD = frozenset({"regex", "json-pointer", "relative-json-pointer", "uri-template", "base64url", "json-string"})
"""Formats that say what a text must look like, and that no pattern here can hold an answer to. All other names are
annotations, as JSON Schema has it: `entity_id`, `password`, `markdown`."""
