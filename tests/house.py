"""The house as its tests see it: the modules, and what can be read from their syntax trees."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support import ROOT

PACKAGES = ("broker", "workers", "producers", "telemetry", "turnpike")
FOLDERS = (*PACKAGES, "benchmarks", "examples", "tests", "tools")
"""Where there is Python."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> list[Path]:
    """Of these folders, without what a package manager put there."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if "node_modules" not in path.parts]


def name_of(path: Path) -> str:
    """As it is named in the repository: `broker/client.py`."""
    return str(path.relative_to(ROOT))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Its syntax tree, parsed once."""
    return ast.parse(path.read_text())


MODULES = python_files(*PACKAGES)


# --- Imports ---------------------------------------------------------------------------------------------------------


def module_name(path: Path) -> str:
    """By which it is imported: `broker.client`, and `broker` for its __init__.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST, known: frozenset[str] = frozenset()) -> set[str]:
    """Modules that are imported anywhere below; `from package import module` counts as the module where it is known."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import: {ast.unparse(node)}"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names}
            found |= inner & known
            if inner - known:
                found.add(module)
    return found


@functools.cache
def imports_of(path: Path) -> set[str]:
    """Modules that are imported anywhere in a file, looked for once."""
    return imported(tree_of(path))


def imported_at_once(tree: ast.Module, known: frozenset[str] = frozenset()) -> set[str]:
    """What is imported when the module is: not inside of functions, and not for types alone."""
    found = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, Function | ast.Lambda):
                continue
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                waiting += node.orelse
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found |= imported(ast.Module([node], []), known)
            else:
                waiting.append(node)
    return found


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that reach each other, and modules that import themselves."""
    reached = {name: _reached(name, imports) for name in imports}
    found: list[set[str]] = []
    for name in sorted(imports):
        if name in reached[name] and not any(name in circle for circle in found):
            found.append({name} | {other for other in reached[name] if name in reached.get(other, ())})
    return found


def _reached(name: str, imports: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        new = imports.get(waiting.pop(), set()) - seen
        seen |= new
        waiting += new
    return seen


# --- Sizes and docstrings --------------------------------------------------------------------------------------------


def long_functions(tree: ast.Module, limit: int) -> dict[str, int]:
    """Lines of functions and methods over the limit, decorators not counted, by name within the module."""
    found = {}
    for name, node in _definitions(tree):
        if isinstance(node, Function):
            assert node.end_lineno is not None
            if (lines := node.end_lineno - node.lineno + 1) > limit:
                found[name] = lines
    return found


def _definitions(node: ast.AST, before: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            yield f"{before}{child.name}", child
            yield from _definitions(child, f"{before}{child.name}.")
        else:
            yield from _definitions(child, before)


def undocumented(tree: ast.Module) -> list[str]:
    """Public classes, functions and methods without a docstring, and `module` where that has none."""
    return ([] if ast.get_docstring(tree) else ["module"]) + list(_undocumented(tree.body, ""))


def _undocumented(body: list[ast.stmt], before: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from _undocumented(node.body + node.orelse, before)
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(one).rpartition(".")[2] for one in node.decorator_list}
        if not ast.get_docstring(node) and not decorators & {"overload", "setter"}:
            yield before + node.name
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node.body, f"{before}{node.name}.")


# --- What is typed by hand -------------------------------------------------------------------------------------------


def texts(tree: ast.Module) -> Iterator[str]:
    """Every string, and every constant piece of an f-string, that is not a docstring."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


# --- Objects that are changed from outside ---------------------------------------------------------------------------


def set_from_outside(tree: ast.Module) -> set[str]:
    """Whose attributes are assigned: all but `self` and `cls`, what a class method has just made of `cls`, and records
    of the module's own, known by their fields."""
    fields, made = set(_fields(tree)), set(_made_of_cls(tree))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls") and node.attr not in fields and (owner, node.lineno) not in made:
                found.add(owner)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr", "object.__setattr__"):
            found.add(ast.unparse(node.args[0]))
    return found - {"self"}


def _made_of_cls(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names that are `cls(…)` in a function, with the lines of that function."""
    for function in ast.walk(tree):
        if not isinstance(function, Function) or not function.args.args or function.args.args[0].arg != "cls":
            continue
        assert function.end_lineno is not None
        for node in ast.walk(function):
            value = node.value if isinstance(node, ast.Assign) else None
            if isinstance(value, ast.Call) and ast.unparse(value.func) in ("cls", "cls.__new__"):
                assert isinstance(node, ast.Assign)
                lines = range(function.lineno, function.end_lineno + 1)
                yield from ((ast.unparse(target), line) for target in node.targets for line in lines)


def _fields(tree: ast.Module) -> Iterator[str]:
    """Of records: classes whose fields are declared in their body, and which have no `__init__`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and not any(
            isinstance(one, Function) and one.name == "__init__" for one in node.body
        ):
            for one in node.body:
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                    yield one.target.id


# --- Documents -------------------------------------------------------------------------------------------------------


_SUFFIXES = "py|md|toml|json|jsonl|js|jsx|mjs|css|html|ya?ml|sh|c|lock|gguf|txt"
_PATH = re.compile(rf"`(Makefile|[\w.][\w./-]*?(?:/|\.(?:{_SUFFIXES})))(?=[`: ])")


def named_paths(markdown: str) -> set[str]:
    """Files and folders in backticks, a folder with its slash; what follows one in the same backticks is left out."""
    return set(_PATH.findall(markdown))
