"""A matchers' process without a model: its vocabulary is the bytes.

`python -m tests.byte_matcher [MAX_SECONDS] FD`
"""

from __future__ import annotations

import socket
import sys

from tests.follow import Bytes
from workers.grammars.matcher_server import serve

if __name__ == "__main__":
    *seconds, descriptor = sys.argv[1:]
    serve(Bytes(), socket.socket(fileno=int(descriptor)), *map(float, seconds))
