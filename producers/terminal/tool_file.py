"""A file of Python functions that a model may call: each public one that is written there is a tool."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from broker.errors import TurnpikeError
from broker.functions import tool_of

MODULE = "turnpike_tools"


class ToolFileError(TurnpikeError):
    """A file whose functions cannot be had."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"--tools {path}: {reason}")


def functions_of(path: Path) -> list[Callable[..., object]]:
    """The file's public functions, in its order. It is run as a script would be: it may import its neighbours.

    Raises ToolFileError where it cannot be run or has none, NoTool for one that cannot be a tool.
    """
    # By this loader whatever the file's name ends with.
    loader = importlib.machinery.SourceFileLoader(MODULE, str(path))
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(MODULE, loader, origin=str(path)))
    sys.path.insert(0, str(path.absolute().parent))
    sys.modules[MODULE] = module  # where dataclasses look for their types
    try:
        loader.exec_module(module)
    except OSError as error:
        raise ToolFileError(path, error.strerror or str(error)) from None
    except Exception as error:
        raise ToolFileError(path, f"{type(error).__name__}: {error}") from error
    found: list[Callable[..., object]] = [
        one
        for name, one in vars(module).items()
        if inspect.isfunction(one) and one.__module__ == MODULE and not name.startswith("_")
    ]
    if not found:
        raise ToolFileError(path, "it has no functions")
    for one in found:
        tool_of(one)
    return found
