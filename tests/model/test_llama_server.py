"""A few of llama-server's own tests against a gateway before a worker; `make llama-server-tests` runs all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.llama_server import source
from tests.support import ROOT

SHORT = (
    "test_tokenize_detokenize or test_tokenize_with_pieces or test_n_probs_stream or test_completion_with_tokens_input "
    "or test_chat_completion_with_timings_per_token or test_context_size_exceeded"
)


def test_some_of_llama_servers_own_tests_pass(tmp_path: Path) -> None:
    if not source.is_there():
        pytest.skip("the source of llama-server's tests is not here: `make llama-server-tests` fetches it")
    files = [f"unit/test_{name}.py" for name in ("tokenize", "completion", "chat_completion")]
    command = [sys.executable, "-m", "tests.llama_server", *files, "-k", SHORT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "7 of the 7 that apply pass" in done.stdout
