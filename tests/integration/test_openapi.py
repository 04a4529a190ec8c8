"""schemathesis makes requests of all kinds from the gateway's own document: no 5xx, no hang, no surprise."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from tests.gateway import StartGateway
from tests.integration.conftest import StartWorker
from tests.support import ROOT

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


@pytest.mark.timeout(180)
async def test_it_keeps_to_its_openapi_document(start_worker: StartWorker, start_gateway: StartGateway) -> None:
    async with start_worker(), start_gateway() as url:
        command = [str(ROOT / ".venv/bin/schemathesis"), "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS)]
        command += ["--exclude-path-regex", "^/(chat|messages|models|responses)"]  # the same again, without /v1
        command += [
            "--phases",
            "fuzzing,stateful",
            "--max-examples",
            "8",
            "--request-timeout",
            "20",
            "--seed",
            "1",
            "--no-color",
        ]
        found = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd="/tmp")
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
