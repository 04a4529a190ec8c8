"""By which names a gateway that wants no key may be asked for. Pure but for the machine's own name.

A website's owner may have its name stand for an address of somebody else's machine (DNS rebinding): to the browser
the gateway is then the website itself, and no rule about origins holds. What gives it away is the name in `Host`. An
address is no name, and names that no public name server tells are nobody's website.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

ANY = "*"
RESERVED = (".localhost", ".internal", ".home.arpa")
"""Nobody can have a name below these (RFC 6761, ICANN 2024, RFC 8375); `host.docker.internal` is how containers ask for
their host."""


def is_known(host: str, named: Sequence[str]) -> bool:
    """Whether a `Host` header is an address, a name of this machine or of its own network, or one of the named:
    `chat.example`, `.example` for all below it, `*`. A header that is missing is: no browser leaves it out."""
    if not host or ANY in named:
        return True
    if not (name := name_of(host)):
        return False
    if _is_address(name) or "." not in name or name.endswith(RESERVED) or name in _own():
        return True
    return any(name.endswith(one) if one.startswith(".") else name == one for one in map(str.lower, named))


def name_of(host: str) -> str:
    """Of a `Host` header, in small letters and without its port; "" where it is none."""
    if re.fullmatch(r"[\w.:\[\]-]{1,255}", host) is None:
        return ""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower().removesuffix(".")
    except ValueError:  # brackets that hold no address
        return ""


def _own() -> tuple[str, str]:
    """As the machine calls itself, and as its neighbours do without a name server (mDNS)."""
    name = socket.gethostname().lower()
    return name, f"{name.partition('.')[0]}.local"


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False
