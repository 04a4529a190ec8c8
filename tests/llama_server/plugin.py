"""A plugin for pytest in the folder of llama-server's tests: what they start is ours, and what becomes of each is
written down. Their own `utils.py` stays as it is, but for what starts and stops a server, the models that it would
fetch, and `match_regex`: words of a model that is not there cannot be asked for."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.llama_server import models
from tests.llama_server.counts import recount
from tests.llama_server.serving import Systems
from tests.llama_server.verdicts import Verdicts, test_id

OUTCOMES = "TP_LLAMA_SERVER_OUTCOMES"
"""The file that takes them, a JSON object a line."""

GENERATING = ("completion", "completions", "/infill")
"""Paths of what llama-server generates, but for those whose bodies have other names."""
LIMITS = ("n_predict", "max_tokens", "max_completion_tokens")

_systems: Systems | None = None
_folder = tempfile.TemporaryDirectory(prefix="turnpike-templates-")
_verdicts = Verdicts.read()
_is_fresh = False
_their_match_regex: Callable[[str, str], bool]


def systems() -> Systems:
    global _systems
    if _systems is None:
        _systems = Systems()
    return _systems


def start(self: Any, timeout_seconds: float = 0.0) -> None:
    """Instead of `ServerProcess.start`."""
    try:
        behind = models.behind(self, Path(_folder.name))
    except models.NoModel as error:
        pytest.skip(f"no model: {error}")
    before = self.server_port if getattr(self, "ready", False) else None  # a test may go on with the first address
    self.server_port = systems().port_of(behind, models.door(self), before, is_fresh=_is_fresh)
    self.ready = True


def stop(self: Any) -> None:
    """Instead of `ServerProcess.stop`: it is kept for the next one."""


def with_flags(their: Callable[..., Any]) -> Callable[..., Any]:
    """Instead of what sends a request: what llama-server's command line says of all of them, and no flag of ours does,
    is said in each that leaves it open."""

    def send(self: Any, method: str, path: str, data: Any = None, *more: Any, **options: Any) -> Any:
        if method == "POST" and isinstance(data, dict) and path.endswith(GENERATING):
            said = {"temperature": self.temperature, "seed": self.seed}
            if self.n_predict and not any(name in data for name in LIMITS):
                said[LIMITS[0]] = self.n_predict
            if self.debug:
                said["verbose"] = True
            data = {name: value for name, value in said.items() if name not in data} | data
        found = their(self, method, path, data, *more, **options)
        if hasattr(found, "headers"):  # their names have no case, and a dictionary's have
            found.headers = {name.title(): value for name, value in found.headers.items()}
        return found

    return send


def match_regex(regex: str, text: str) -> bool:
    """Instead of the suite's: the model that would say it is another one here."""
    return bool(text) if not _is_itself() else _their_match_regex(regex, text)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Before their conftest.py takes all names of their utils.py."""
    sys.modules.setdefault("wget", types.ModuleType("wget"))  # nothing is fetched
    sys.path.insert(0, os.getcwd())
    global _their_match_regex
    utils = importlib.import_module("utils")
    _their_match_regex = utils.match_regex
    utils.ServerProcess.start = start
    utils.ServerProcess.stop = stop
    for name in ("make_request", "make_stream_request"):
        setattr(utils.ServerProcess, name, with_flags(getattr(utils.ServerProcess, name)))
    utils.ServerPreset.load_all = staticmethod(lambda: None)
    utils.download_file = lambda url, output_file_path=None: url  # type: ignore[attr-defined]
    utils.match_regex = match_regex  # type: ignore[attr-defined]


def _is_itself() -> bool:
    """Whether the model that most tests ask for is there."""
    return models.model_of(models.STORIES, None).is_itself


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (reason := _verdicts.why_not(test_id(item.nodeid))) is not None:
            item.add_marker(pytest.mark.skip(reason=f"does not apply: {reason}"))
        elif isinstance(item, pytest.Function) and hasattr(item, "callspec") and not _is_itself():
            recount(item.originalname, item.callspec.params)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    global _is_fresh
    _is_fresh = _verdicts.is_fresh(test_id(item.nodeid))
    yield


_seen: dict[str, dict[str, Any]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    found = _seen.setdefault(report.nodeid, {"test": report.nodeid, "outcome": "passed", "why": "", "seconds": 0.0})
    found["seconds"] += report.duration
    if report.outcome != "passed":
        found["outcome"] = report.outcome
        found["why"] = _why(report)
    if report.when == "teardown" and (path := os.environ.get(OUTCOMES)):
        with Path(path).open("a") as file:
            file.write(json.dumps(found) + "\n")


def _why(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longrepr)[:400]


def pytest_unconfigure() -> None:
    if _systems is not None:
        _systems.close()
    _folder.cleanup()
