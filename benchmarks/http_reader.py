"""The least that reads a stream over HTTP: sends a request, and takes the frames of what comes.

What a client of many talents computes for a request, on the same cores, would be measured as the gateway's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HEAD_END = b"\r\n\r\n"


class HttpReader:
    """Of one server: its connections are kept, and used again."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._host = urlsplit(url).hostname or ""
        self._port = urlsplit(url).port
        self._idle: list[Streams] = []

    async def post(
        self, path: str, body: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[bytes]:
        """The answer's body, in the pieces in which it comes."""
        content = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", f"Host: {self._host}:{self._port}", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(content)}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
        reader, writer = await self._connection()
        writer.write("\r\n".join(lines).encode() + HEAD_END + content)
        head = (await reader.readuntil(HEAD_END)).lower()
        is_right = head.startswith(b"http/1.1 200 ")
        _, _, length = head.partition(b"\r\ncontent-length:")
        if length:
            whole = await reader.readexactly(int(length.partition(b"\r\n")[0]))
            assert is_right, whole
            yield whole
        else:
            assert is_right, head
            while num_bytes := int(await reader.readuntil(b"\r\n"), 16):
                yield (await reader.readexactly(num_bytes + 2))[:-2]
            await reader.readexactly(2)
        self._idle.append((reader, writer))

    async def _connection(self) -> Streams:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)

    def close(self) -> None:
        """Closes all that are not in use."""
        for _, writer in self._idle:
            writer.close()
