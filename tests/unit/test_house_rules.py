"""Every file is one subject, every object whole from its constructor, every public name says what it is.

Each list of exceptions has its reasons and may only shrink: what is not needed any more is refused too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from broker import priorities
from tests.house import (
    FOLDERS,
    MODULES,
    circles,
    imported,
    imported_at_once,
    long_functions,
    module_name,
    name_of,
    named_paths,
    python_files,
    set_from_outside,
    texts,
    tree_of,
    undocumented,
)
from tests.support import ROOT

MAX_FILE_LINES = 400
MAX_DIALECT_LINES = 300
MAX_FUNCTION_LINES = 60
LONG_FILES: dict[str, str] = {}
"""File → why it is one subject all the same."""
LONG_FUNCTIONS: dict[str, str] = {}
"""`file: function` → why."""
LATE_CIRCLES = {"turnpike.cli.listing turnpike.cli.tree": "a command of the tree lists the tree"}
"""Modules, joined by spaces, that reach each other through an import inside of a function or for types → why."""
_LIBRARY = "an option of a library's object, which has no other way"
_SEQUENCE = "a sequence is the engine thread's: each part of a round writes its own fields"
SET_FROM_OUTSIDE = {
    "broker/logs.py: record": _LIBRARY,
    "broker/nats_client.py: parser": _LIBRARY,
    "broker/transport.py: self._io_writer.transport.get_protocol()": _LIBRARY,
    "workers/engine/accounts.py: self._engine": "their number is the engine's to have and the loop's to choose",
    "workers/engine/active.py: sequence": _SEQUENCE,
    "workers/engine/calibration.py: engine": "each number of threads is tried",
    "workers/engine/drafting.py: sequence": _SEQUENCE,
    "workers/engine/polling.py: engine": "each way to wait is tried",
    "workers/engine/outputs.py: active": "what was sampled and scored so far",
    "workers/engine/outputs.py: sequence": _SEQUENCE,
    "workers/engine/scheduler.py: sequence": _SEQUENCE,
    "workers/engine/seating.py: self._slots[seat.slot]": "what a copy or a restored state has made of a slot",
    "workers/engine/seating.py: sequence": _SEQUENCE,
    "workers/engine/seating.py: victim": "preempted",
    "workers/grammars/schemas/shapes.py: shape": "a bound of the module's own record, by its name",
    "workers/llama/thread_pools.py: parameters": _LIBRARY,
    "workers/machine/thread_count.py: engine": "how its threads wait is chosen there",
    "workers/llama/aborts.py: setter": _LIBRARY,
    "workers/llama/context.py: batch": _LIBRARY,
    "workers/llama/context.py: parameters": _LIBRARY,
    "workers/llama/context.py: self._batch": _LIBRARY,
    "workers/llama/embedding.py: parameters": _LIBRARY,
    "workers/llama/loaded_file.py: parameters": _LIBRARY,
    "workers/llama/random_model.py: parameters": _LIBRARY,
    "workers/prompts/provenance.py: Sourced": "a method for each of str's",
    "workers/prompts/provenance.py: change": "a method for each of str's",
    "producers/terminal/markdown.py: child": _LIBRARY,
    "producers/terminal/markdown.py: shown": _LIBRARY,
    "producers/http_server.py: self._answering": _LIBRARY,
    "telemetry/database.py: found": _LIBRARY,
    "telemetry/influx.py: self.client.api_client": _LIBRARY,
    "telemetry/resources.py: psutil": _LIBRARY,
    "turnpike/cli/parsers.py: action": _LIBRARY,
    "turnpike/cli/reading.py: action": _LIBRARY,
}
"""`file: whose attributes` → why somebody else assigns them."""
PRIORITIES = {
    "broker/priorities.py": "their place",
    "broker/jetstream.py": "JetStream's own word for messages that are asked for at once",
    "workers/prompts/template.py": "a filter of Jinja",
}
"""Where the priorities' names are typed, or are another's."""
OUR_SUBJECTS = {"broker/subjects.py": "their place", "broker/permissions.py": "what each role may, as patterns"}
JETSTREAM_SUBJECTS = OUR_SUBJECTS | {"broker/jetstream.py": "the place of the server's own"}
_OURS = re.compile(r"(turn|live|reply|end|cancel|dead|held|telemetry|replay|kv|node|run)\.")
_JETSTREAM = re.compile(r"\$JS\b|\$KV\b|(STREAM|CONSUMER|DIRECT)\.[A-Z]")


def hold(found: set[str], exceptions: Mapping[str, str]) -> None:
    """What is found is what is allowed, neither more nor less."""
    assert sorted(found - exceptions.keys()) == [], "against the rule"
    assert sorted(exceptions.keys() - found) == [], "an exception that nobody needs any more: take it out of its list"
    assert all(exceptions.values())


# --- Circles ---------------------------------------------------------------------------------------------------------


def test_no_module_imports_itself_in_a_circle() -> None:
    known = frozenset(map(module_name, MODULES))
    at_once = {module_name(path): imported_at_once(tree_of(path), known) & known for path in MODULES}
    assert [sorted(circle) for circle in circles(at_once)] == []
    at_all = {module_name(path): imported(tree_of(path), known) & known for path in MODULES}
    hold({" ".join(sorted(circle)) for circle in circles(at_all)}, LATE_CIRCLES)


def test_a_circle_is_seen_through_submodules_and_not_where_it_is_for_types_alone() -> None:
    def tree(text: str) -> ast.Module:
        return ast.parse(text)

    known = frozenset({"a", "a.b", "a.c"})
    late = "if TYPE_CHECKING:\n    import a.b\ndef f():\n    from a import b"
    assert imported_at_once(tree("from a import b, x"), known) == {"a.b", "a"}
    assert imported_at_once(tree(f"import a.c\n{late}"), known) == {"a.c"}
    assert imported_at_once(tree("class A:\n    try:\n        import a.c\n    except ImportError:\n        pass")) == {
        "a.c"
    }
    assert imported(tree(f"import a.c\n{late}"), known) == {"a.b", "a.c"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}, "e": {"a"}}) == [{"b", "c"}, {"d"}]


# --- One subject a file, one job a function ------------------------------------------------------------------------


def test_a_file_is_read_in_five_minutes() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in python_files(*FOLDERS)}
    hold({name for name, lines in lengths.items() if lines > MAX_FILE_LINES}, LONG_FILES)


def test_a_dialects_module_is_shorter() -> None:
    """A dialect is read by who knows its API and nothing of the gateway."""
    folders = ("openai", "anthropic", "ollama", "native")
    modules = [path for name in folders for path in (ROOT / "producers/gateway" / name).rglob("*.py")]
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in modules}
    assert len(lengths) > 40
    assert {name: lines for name, lines in lengths.items() if lines >= MAX_DIALECT_LINES} == {}


def test_a_function_fits_on_a_page() -> None:
    hold(
        {
            f"{name_of(path)}: {function}"
            for path in python_files(*FOLDERS)
            for function in long_functions(tree_of(path), MAX_FUNCTION_LINES)
        },
        LONG_FUNCTIONS,
    )


def test_a_long_function_is_found_wherever_it_is() -> None:
    tree = ast.parse(
        "@x\nclass A:\n    async def b(self):\n        def c():\n            1\n            2\n        c()\n"
    )
    assert long_functions(tree, 2) == {"A.b": 5, "A.b.c": 3}
    assert long_functions(tree, 5) == {}


# --- Public names say what they are ----------------------------------------------------------------------------------


def test_every_public_name_has_a_docstring() -> None:
    assert {name: found for path in MODULES if (found := undocumented(tree_of(path))) and (name := name_of(path))} == {}


def test_what_is_public_and_says_nothing_is_found() -> None:
    silent = """
class A:
    def __init__(self): ...
    def said(self):
        "So."
    def silent(self):
        def inner(): ...
    @property
    def shown(self): ...
    @shown.setter
    def shown(self, value): ...
    def _own(self): ...
    class Inner: ...
class _B:
    def b(self): ...
if True:
    async def c(): ...
"""
    assert undocumented(ast.parse(silent)) == ["module", "A", "A.silent", "A.shown", "A.Inner", "c"]


# --- Whole from the constructor --------------------------------------------------------------------------------------


def test_nothing_is_set_on_an_object_from_outside() -> None:
    hold(
        {f"{name_of(path)}: {owner}" for path in MODULES for owner in set_from_outside(tree_of(path))}, SET_FROM_OUTSIDE
    )


def test_who_sets_what_is_not_its_own_is_found() -> None:
    text = """
class Record:
    field: int
class Object:
    given: int
    def __init__(self, record):
        self.a, self.b.c = 1, 2
        record.field = 3
        record.given = 4
        x.y[0].z += 5
        del d.e
        setattr(f, name, 6)
        object.__setattr__(self, "g", 7)
        h[0] = i.j == 8
    @classmethod
    def other(cls):
        k = cls(record)
        k.given = l.given = 9
"""
    assert set_from_outside(ast.parse(text)) == {"self.b", "record", "x.y[0]", "d", "f", "l"}


# --- Made, never typed -----------------------------------------------------------------------------------------------


def test_priorities_and_subjects_are_made_in_their_one_place() -> None:
    for path in MODULES:
        name, typed = name_of(path), set(texts(tree_of(path)))
        if name not in PRIORITIES:
            assert typed & set(priorities.LANES) == set(), f"{name}: broker/priorities.py names them"
        if name not in JETSTREAM_SUBJECTS:
            assert sorted(filter(_JETSTREAM.match, typed)) == [], f"{name}: broker/jetstream.py makes them"
        if name not in OUR_SUBJECTS:
            assert sorted(filter(_OURS.match, typed)) == [], f"{name}: broker/subjects.py makes them"


def test_what_is_typed_by_hand_is_found() -> None:
    typed = set(texts(ast.parse('"""turn.x"""\nx = "batch"\ny = f"$JS.API.{z}.batch"\nz = ["turn.>"]\n"""field"""')))
    assert typed == {"batch", "turn.>", "$JS.API.", ".batch"}
    typed |= {"STREAM.INFO.x", "STREAM", "$KV.a", "see $JS.API"}
    assert set(filter(_JETSTREAM.match, typed)) == {"$JS.API.", "STREAM.INFO.x", "$KV.a"}
    assert set(filter(_OURS.match, typed | {"turns.x", "a turn.", "kv."})) == {"turn.>", "kv."}


# --- The map ---------------------------------------------------------------------------------------------------------


def test_the_map_names_what_is_there() -> None:
    there = {
        f"/{name_of(path)}" + ("/" if path.is_dir() else "")
        for folder in (*FOLDERS, "docs", "experiments", "k3s", ".github", ".ci")
        for path in (ROOT / folder).rglob("*")
    }
    for page in ("docs/where.md", "ARCHITECTURE.md", "CONTRIBUTING.md"):
        named = named_paths((ROOT / page).read_text())
        assert len(named) > 10, page
        missing = {path for path in named if not (ROOT / path).exists()}
        if page != "docs/where.md":  # elsewhere a folder is named once, and its files by their names
            missing = {path for path in missing if not any(one.endswith(f"/{path}") for one in there)}
        assert sorted(missing) == [], f"{page} names what is not there"


def test_paths_are_known_from_words() -> None:
    page = "`a/b.py`, `a/b.py x`, `c/`, `Makefile`, `a.b`, `x/y`, `git add a.py`, `d.py: e`, `F.g`, a/e.py, `a/*.py`"
    assert named_paths(page) == {"a/b.py", "c/", "Makefile", "d.py"}
