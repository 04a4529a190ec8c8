"""The process that matches grammars with a model's vocabulary: `python -m workers.llama.matcher_process MODEL FD`."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from workers.grammars.matcher_server import serve
from workers.llama.context import LlamaModel
from workers.sandbox import be_first_to_go


def main() -> None:
    """Serves until the other side of the socket FD closes."""
    be_first_to_go()  # before the vocabulary, which may be large, is read
    model = LlamaModel(Path(sys.argv[1]), vocab_only=True)
    serve(model.vocabulary, socket.socket(fileno=int(sys.argv[2])))


if __name__ == "__main__":
    main()
