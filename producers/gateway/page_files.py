"""The page's files, each with its media type and an ETag: what a browser has is asked for again, and not sent again."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

PAGE = Path(__file__).parent / "page"
INDEX = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
    "": "text/plain; charset=utf-8",  # the licences of what others wrote
}
"""By a file's ending: no file of the page has another, and the system's own table is not asked."""
HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'self'",
            "img-src 'self' data:",
            "object-src 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
MIN_ZIPPED_BYTES = 1024
"""Below that a packet is a packet."""


@dataclass(frozen=True)
class PageFile:
    """One file as it is sent."""

    media_type: str
    etag: str
    plain: bytes
    zipped: bytes | None
    """Where that is shorter."""

    @classmethod
    def of(cls, path: Path) -> PageFile:
        """Reads it."""
        plain = path.read_bytes()
        zipped = gzip.compress(plain, mtime=0) if len(plain) >= MIN_ZIPPED_BYTES else plain
        digest = hashlib.sha256(plain).hexdigest()[:32]
        return cls(MEDIA_TYPES[path.suffix], f'W/"{digest}"', plain, zipped if len(zipped) < len(plain) else None)

    def answer(self, asked: Headers) -> Response:
        """All of it, or that the browser has it already."""
        headers = HEADERS | {"ETag": self.etag}
        if self.etag in (one.strip() for one in asked.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=headers)
        if self.zipped is not None and "gzip" in asked.get("accept-encoding", ""):
            return Response(self.zipped, headers=headers | {"Content-Encoding": "gzip"}, media_type=self.media_type)
        return Response(self.plain, headers=headers, media_type=self.media_type)


class PageFiles:
    """All files of the page's folder, read once: no path is made of what a browser asks for."""

    def __init__(self, folder: Path = PAGE) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): PageFile.of(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }

    def routes(self) -> list[Route]:
        """One for each, and the page itself at `/`."""
        files = [Route(f"/{name}", self._answer, methods=["GET"]) for name in self._files]
        return [Route("/", self._answer, methods=["GET"]), *files]

    async def _answer(self, request: HttpRequest) -> Response:
        return self._files[request.url.path.lstrip("/") or INDEX].answer(request.headers)
