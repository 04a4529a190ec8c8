"""schemathesis makes requests of all kinds from the gateway's own document: no 5xx, no hang, no surprise."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway import StartGateway
from tests.integration.conftest import StartWorker

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
# A turn that cannot end by its deadline is a 503, which a busy machine comes to; what nobody has is a 500 of Ollama's.
CONFIG = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "4xx", "503"]

[[operations]]
include-name = "POST /api/pull"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", "500", "503"]
"""
# Most of the time goes into making requests of large schemas: a few of each operation, of which there are 41.
OPTIONS = "--phases fuzzing,stateful --max-examples 5 --workers 2 --request-timeout 20 --seed 1 --no-color"


@pytest.mark.timeout(300)
async def test_it_keeps_to_its_openapi_document(
    start_worker: StartWorker, start_gateway: StartGateway, tmp_path: Path
) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run"]
    command += ["--checks", ",".join(CHECKS), *OPTIONS.split()]
    async with start_worker(), start_gateway() as url:
        command.append(f"{url}/openapi.json")
        found = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
