"""INFLUX_URL: where the points are, for the sidecars that write them and the reports that read them."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

from broker.errors import TurnpikeError

DEFAULT_DATABASE = "turnpike"


@dataclass(frozen=True)
class InfluxAddress:
    """http://USER:PASSWORD@HOST:PORT/DATABASE; with InfluxDB 2 and 3 a token instead, and the database is a bucket."""

    url: str
    database: str = DEFAULT_DATABASE
    user: str = ""
    password: str = ""
    token: str | None = None
    org: str = "-"

    @classmethod
    def parse(cls, url: str, token: str | None = None, org: str | None = None) -> InfluxAddress:
        """Raises TurnpikeError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TurnpikeError(f"INFLUX_URL {url!r} is neither http://…, https://… nor file:…")
        database = parts.path.strip("/") or DEFAULT_DATABASE
        if not re.fullmatch(r"[A-Za-z0-9_-]+", database):
            raise TurnpikeError(f"INFLUX_URL: {database!r} is no name for a database: letters, digits, '_' and '-'")
        host = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "", "", ""))
        return cls(host, database, unquote(parts.username or ""), unquote(parts.password or ""), token, org or "-")

    @property
    def authorization(self) -> str | None:
        """The header's value: 1.x knows users, and those as HTTP does; 2 and 3 know tokens."""
        if self.token is not None:
            return f"Token {self.token}"
        if not self.user:
            return None
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return f"Basic {pair}"

    def __repr__(self) -> str:
        return f"InfluxAddress({self.url}/{self.database})"
