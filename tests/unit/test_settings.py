from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

import turnpike
from broker.errors import SettingsError
from broker.settings import CommonSettings, load
from producers.settings import DemoSettings, GatewaySettings, LoadSettings, RoutedSettings
from telemetry.settings import SidecarSettings
from workers.settings import WorkerSettings

BY_FILE_ONLY = {"mirror"}  # which `models pull` has


class Example(Struct, frozen=True, kw_only=True):
    model: str
    num_slots: int = 8
    budget: float = 0.25
    names: tuple[str, ...] = ()


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "turnpike.toml"
    file.write_text('model = "file"\nnum_slots = 1\nbudget = 0.5\n')
    environment = {"TURNPIKE_NUM_SLOTS": "2", "TURNPIKE_MODEL": "environment", "HOME": "/"}
    found = load(Example, flags={"model": "flag", "num_slots": None}, environment=environment, file=file)
    assert found == Example(model="flag", num_slots=2, budget=0.5)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "turnpike.toml"
    file.write_text("num_slotz = 3\n")
    environment = {"TURNPIKE_NUM_SLOTS": "many", "TURNPIKE_BUDGETT": "1"}
    with pytest.raises(SettingsError) as caught:
        load(Example, flags={"budget": "quick"}, environment=environment, file=file)
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    for fragment in (
        "num_slotz",
        "did you mean num_slots",
        "TURNPIKE_NUM_SLOTS",
        "BUDGETT",
        "--budget",
        "--model is missing",
    ):
        assert fragment in text


def test_a_list_in_the_environment_is_separated_by_commas() -> None:
    found = load(Example, flags={"model": "m"}, environment={"TURNPIKE_NAMES": "a,b"})
    assert found.names == ("a", "b")


def test_another_commands_settings_are_no_mistake() -> None:
    class Other(Struct):
        port: int = 1

    environment = {"TURNPIKE_PORT": "4"}
    assert load(Example, flags={"model": "m"}, environment=environment, known=[Other]).model == "m"


@pytest.mark.parametrize("content", ["model = ", b"\xff\xfe"])
def test_a_broken_file_is_named(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError, match=r"broken\.toml"):
        load(Example, flags={"model": "m"}, environment={}, file=file)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("worker", WorkerSettings),
        ("gateway", GatewaySettings),
        ("ask", RoutedSettings),
        ("chat", RoutedSettings),
        ("load", LoadSettings),
        ("demo", DemoSettings),
        ("sidecar", SidecarSettings),
    ],
)
def test_every_setting_of_a_command_has_its_flag(command: str, kind: type[CommonSettings]) -> None:
    (commands,) = (one for one in turnpike._parser()._actions if isinstance(one, argparse._SubParsersAction))
    flags = {action.dest for action in commands.choices[command]._actions}
    missing = {field.name for field in msgspec.structs.fields(kind)} - flags - BY_FILE_ONLY
    assert missing == set()
