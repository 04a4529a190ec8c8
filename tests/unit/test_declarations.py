"""One declaration of a setting makes its flag, its variable, its key in the file, its default, its help and its row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest

from broker.declaring import Argument, Field, Setting, declared
from broker.errors import SettingsError
from broker.settings import CommonSettings, Count
from tests.support import ROOT
from turnpike.cli.command import Command, command
from turnpike.cli.listing import as_markdown, as_toml, meanings
from turnpike.cli.parsers import parser_of
from turnpike.cli.reading import read
from turnpike.cli.tree import TURNPIKE


class Brewing(CommonSettings, frozen=True, kw_only=True):
    """One setting, and one argument of each kind."""

    num_cups: Annotated[Count, Setting("cups at once")] = 7
    beans: Annotated[str, Argument("which ones", is_positional=True)]
    is_decaf: Annotated[bool, Argument("without", flag="--decaf")] = False


def do_nothing(options: CommonSettings) -> int:
    return 0


BREW = command("brew", "coffee", "pot brew arabica", Brewing, do_nothing)
RINSE = command("rinse", "no coffee", "pot rinse", CommonSettings, do_nothing)
POT = Command("pot", "a pot", "pot brew arabica", commands=(BREW, RINSE))


def brewing(*words: str) -> Brewing:
    _, said = read(POT, ["brew", *words])
    return said.load(Brewing)


def test_a_setting_is_declared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert brewing("arabica").num_cups == 7, "the default"
    file = tmp_path / "pot.toml"
    file.write_text("num_cups = 2\n")
    assert brewing("arabica", "--config", str(file)).num_cups == 2, "the file's key"
    monkeypatch.setenv("TURNPIKE_NUM_CUPS", "3")
    assert brewing("arabica", "--config", str(file)).num_cups == 3, "the variable"
    assert brewing("arabica", "--config", str(file), "--num-cups", "4").num_cups == 4, "the flag"
    assert "cups at once (default 7)" in parser_of(BREW, "brew").format_help()
    found = meanings(POT)
    assert "# cups at once (brew)\n# num_cups = 7\n" in as_toml(found) + "\n"
    assert "| `--num-cups` | `TURNPIKE_NUM_CUPS` | `7` | brew | cups at once |" in as_markdown(found)


def test_an_argument_is_said_by_the_caller_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert brewing("arabica", "--decaf") == Brewing(beans="arabica", is_decaf=True)
    assert not {"beans", "is_decaf"} & set(meanings(POT))
    monkeypatch.setenv("TURNPIKE_BEANS", "robusta")
    with pytest.raises(SettingsError, match="TURNPIKE_BEANS: unknown setting"):
        brewing("arabica")


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNPIKE_NUM_CUPZ", "3")
    with pytest.raises(SettingsError) as caught:
        brewing("--num-cups", "none", "--decaff", "--log-level", "loud")
    assert caught.value.problems == [
        "unrecognized arguments: --decaff (did you mean --decaf?)",
        "TURNPIKE_NUM_CUPZ: unknown setting (did you mean num_cups?)",
        "--log-level: 'loud' is none of DEBUG, INFO, WARNING, ERROR, CRITICAL",
        "--num-cups: 'none' is no whole number",
        "BEANS is missing",
    ]


def fields() -> list[tuple[str, Field]]:
    found = [(path, field) for path, one in TURNPIKE.walk() for field in (*declared(one.options), *one.fields)]
    return sorted(found, key=lambda one: one[1].name)


def test_everything_that_can_be_said_says_what_it_is() -> None:
    assert [f"{path}: {field.name}" for path, field in fields() if not field.declared.help] == []


def test_a_flag_has_a_value_with_every_command_or_with_none() -> None:
    """So it can be told from a command's name wherever it stands."""
    flags: dict[str, set[bool]] = {}
    for _, field in fields():
        if not field.is_positional:
            flags.setdefault(field.flag, set()).add(field.is_switch)
    assert [flag for flag, kinds in flags.items() if len(kinds) > 1] == []


def test_a_shared_setting_tells_each_commands_own_meaning() -> None:
    found = meanings(TURNPIKE)
    assert {one.commands: one.default for one in found["num_conversations"]} == {("load",): 50, ("demo",): 4}
    assert ("eval",) in {one.commands for one in found["model"]}
    (node,) = found["node"]
    assert set(node.commands) == {"worker", "board", "gateway", "sidecar", "models serve"}


def test_the_documented_settings_are_the_declared_ones() -> None:
    """`turnpike settings --markdown > docs/settings.md` makes it anew."""
    assert (ROOT / "docs/settings.md").read_text() == as_markdown(meanings(TURNPIKE)) + "\n"
