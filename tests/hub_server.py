"""A hub or mirror on the loopback that speaks what huggingface_hub and broker/hub.py ask, and misbehaves on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

COMMIT = "a" * 40
REPOSITORY = "turnpike/test-GGUF"
FILE = "model.Q4_0.gguf"


@dataclass(frozen=True)
class Cut:
    """Send so many bytes, then hang up."""

    after: int


@dataclass(frozen=True)
class Refuse:
    """Answer with this status."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)


class Zeros:
    """So many zero bytes, as a sequence that takes no memory."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        return bytes(len(range(*part.indices(self._size))))


@dataclass
class Hub:
    """What it has, what it will do to the next downloads, and what it did."""

    content: bytes | Zeros
    sha256: str
    url: str = ""
    faults: deque[Cut | Refuse] = field(default_factory=deque)
    knows_ranges: bool = True
    num_requests: int = 0
    num_downloads: int = 0
    num_bytes_sent: int = 0
    others: dict[str, bytes] = field(default_factory=dict)
    """What its repository has besides FILE."""

    @property
    def files(self) -> dict[str, tuple[bytes | Zeros, str]]:
        """Content and SHA-256 by name."""
        others = {name: (content, hashlib.sha256(content).hexdigest()) for name, content in self.others.items()}
        return {FILE: (self.content, self.sha256), **others}


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.hub.num_requests += 1
        if self.path.startswith("/api/"):
            self._describe()
        else:
            self._download()

    def _describe(self) -> None:
        if f"/api/models/{REPOSITORY}" not in self.path:
            return self._refuse(Refuse(404, {"X-Error-Code": "RepoNotFound"}))
        if self.hub.faults:
            fault = self.hub.faults.popleft()
            assert isinstance(fault, Refuse)
            return self._refuse(fault)
        siblings: list[dict[str, object]] = [{"rfilename": "README.md", "size": 9}]
        for name, (content, sha256) in self.hub.files.items():
            lfs = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append({"rfilename": name, "size": len(content), "lfs": lfs})
        body = json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, fault: Refuse) -> None:
        self.send_response(fault.status)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _download(self) -> None:
        # A mirror's path too: whatever digest it names, this one gives what it has.
        name = self.path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")
        if name not in self.hub.files and not self.path.startswith("/sha256/"):
            return self._refuse(Refuse(404, {"X-Error-Code": "RevisionNotFound"}))
        content = self.hub.files.get(name, (self.hub.content, ""))[0]
        self.hub.num_downloads += 1
        fault = self.hub.faults.popleft() if self.hub.faults else None
        if isinstance(fault, Refuse):
            return self._refuse(fault)
        size = len(content)
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if self.hub.knows_ranges else None
        start = int(found[1]) if found else 0
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        end = size if fault is None else min(size, start + fault.after)
        for at in range(start, end, 1 << 20):
            data = content[at : min(at + (1 << 20), end)]
            self.wfile.write(data)
            self.hub.num_bytes_sent += len(data)
        if fault is not None:
            self.close_connection = True


@contextmanager
def serving(content: bytes | Zeros, sha256: str | None = None) -> Iterator[Hub]:
    """The hub, on a port of its own."""
    if sha256 is None:
        assert isinstance(content, bytes)
        sha256 = hashlib.sha256(content).hexdigest()
    hub = Hub(content, sha256)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
