"""A matchers' process without a model: its vocabulary is the bytes. `python -m tests.byte_matcher [--max-seconds=S] FD`."""

from __future__ import annotations

import socket
import sys

from tests.follow import Bytes
from workers.grammars.matcher_server import serve

if __name__ == "__main__":
    *flags, descriptor = sys.argv[1:]
    limits = {"max_seconds": float(one.partition("=")[2]) for one in flags}
    serve(Bytes(), socket.socket(fileno=int(descriptor)), **limits)
