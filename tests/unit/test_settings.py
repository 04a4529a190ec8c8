from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from broker.declaring import flag, setting_names
from broker.errors import SettingsError
from broker.messages import Sampling
from broker.process import EXIT_USAGE
from broker.settings import BrokerSettings, CommonSettings, Count, LogLevel, Port, QueueSettings, load
from producers.settings import AskSettings, DemoSettings, GatewaySettings, LoadSettings
from telemetry.settings import SidecarSettings
from turnpike.cli.main import main
from turnpike.cli.parsers import parser_of
from turnpike.cli.reading import read
from turnpike.cli.tree import TURNPIKE
from workers.boards.settings import BoardSettings, WorkersSettings
from workers.settings import WorkerSettings


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


class Bounded(Struct, frozen=True, kw_only=True):
    port: Port = 1
    is_on: bool = False
    level: LogLevel = "INFO"
    seconds: float | None = None
    count: Count | None = None


@pytest.mark.parametrize(
    ("text", "value"), [("yes", True), ("On", True), ("1", True), ("true", True), ("no", False), ("OFF", False)]
)
def test_yes_and_no_are_understood(text: str, value: bool) -> None:
    assert load(Bounded, flags={}, environment={"TURNPIKE_IS_ON": text}).is_on is value


def test_choices_are_taken_in_any_case_and_nothing_is_not_set() -> None:
    environment = {"TURNPIKE_LEVEL": "warning", "TURNPIKE_SECONDS": "", "TURNPIKE_PORT": ""}
    assert load(Bounded, flags={}, environment=environment) == Bounded(level="WARNING")


def test_what_is_wrong_is_said_in_words_and_names_the_flag_as_it_is_typed() -> None:
    environment = {"TURNPIKE_IS_ON": "maybe", "TURNPIKE_LEVEL": "verbose", "TURNPIKE_SECONDS": "quick"}
    with pytest.raises(SettingsError) as caught:
        load(Bounded, flags={"port": 70000, "count": 0}, environment=environment)
    assert sorted(caught.value.problems) == [
        "--count: must be at least 1",
        "--port: must be at most 65535",
        "TURNPIKE_IS_ON: 'maybe' is neither true nor false",
        "TURNPIKE_LEVEL: 'verbose' is none of DEBUG, INFO, WARNING, ERROR, CRITICAL",
        "TURNPIKE_SECONDS: 'quick' is no number",
    ]


def test_what_is_no_number_is_no_seconds() -> None:
    with pytest.raises(SettingsError, match="--seconds: must be a number"):
        load(Bounded, flags={"seconds": math.nan}, environment={})


def test_a_workers_silence_has_an_end() -> None:
    for seconds in (math.inf, 1e300):
        with pytest.raises(SettingsError, match="--ack-wait-seconds: must be at most"):
            load(BrokerSettings, flags={"ack_wait_seconds": seconds}, environment={})


def test_how_tokens_are_chosen_may_stand_in_the_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "turnpike.toml"
    file.write_text('temperature = 0.7\nmax_tokens = 9\nstop = ["\\n", "a,b"]\n')
    found: AskSettings = load(AskSettings, flags={"top_k": 3}, environment={"TURNPIKE_SEED": "7"}, file=file)
    assert found.sampling() == Sampling(max_tokens=9, temperature=0.7, top_k=3, seed=7, stop=("\n", "a,b"))
    assert load(AskSettings, flags={}, environment={}).sampling() == Sampling()


def test_how_tokens_cannot_be_chosen_is_said_of_every_flag() -> None:
    with pytest.raises(SettingsError) as caught:
        load(AskSettings, flags={"max_tokens": 0, "top_p": 1.5, "min_p": -1.0}, environment={}).sampling()
    assert caught.value.problems == [
        "--max-tokens: must be at least 1",
        "--top-p: must be at most 1.0",
        "--min-p: must be at least 0.0",
    ]


@pytest.mark.parametrize("name", ["threads", "threads_batch"])
def test_more_threads_than_cores_are_refused_and_none(name: str) -> None:
    most = len(os.sched_getaffinity(0))
    flag = "--" + name.replace("_", "-")

    def settings(value: int) -> WorkerSettings:
        return load(WorkerSettings, flags={name: value}, environment={})

    with pytest.raises(SettingsError, match=rf"{flag}: must be at most \d+, the cores"):
        settings(most + 1).check()
    with pytest.raises(SettingsError, match=f"{flag}: must be at least 1"):
        settings(0).check()
    settings(most).check()


@pytest.mark.parametrize(
    "path", [("broker",), ("broker", "ensure"), ("user", "add"), ("models", "list"), ("dead", "list")]
)
def test_flags_count_wherever_they_stand_before_the_last_word(path: tuple[str, ...]) -> None:
    more = {"user": ["carol"]}.get(path[0], [])
    for at in range(len(path) + 1):
        words = [*path[:at], "--data-dir", "/x", "--tls-ca", "/ca", *path[at:], *more]
        command, said = read(TURNPIKE, words)
        found = said.load(command.options)
        assert said.path == " ".join(path)
        assert (found.data_dir, found.tls_ca) == ("/x", "/ca"), words


def test_what_was_said_last_wins_and_lists_add_up() -> None:
    words = ["broker", "--url", "a", "--model", "m", "--max-queued-turns", "5", "ensure", "--url", "b", "--model", "n"]
    _, said = read(TURNPIKE, words)
    found = said.load(QueueSettings)
    assert (found.url, found.model, found.max_queued_turns) == ("b", ("m", "n"), 5)
    assert said.path == "broker ensure"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("broker --port 5 ensure", "--port is nothing to `broker ensure`"),
        ("broker --tls-cert x secret --out y", "--tls-cert is nothing to `broker secret`"),
    ],
)
def test_a_flag_that_a_subcommand_does_not_know_is_no_silence(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == EXIT_USAGE
    assert said in capsys.readouterr().err


def test_the_list_of_settings_calls_no_flag_a_setting_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0
    out = capsys.readouterr().out
    assert "share only (ask, chat)\n# top_p =\n" in out
    assert "# path =" not in out, "an argument of `turnpike eval`, which no variable and no file can say"


def test_the_list_of_settings_is_a_file_of_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0
    listed = {
        line.partition(" = ")[0].removeprefix("# ").removesuffix(" =") for line in capsys.readouterr().out.splitlines()
    }
    every = setting_names(one.options for _, one in TURNPIKE.walk())
    assert every <= listed
    assert {"temperature", "max_tokens", "kv_dir", "tls_ca"} <= every


@pytest.mark.parametrize("content", ["model = ", b"\xff\xfe"])
def test_a_broken_file_is_named(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError, match=r"broken\.toml"):
        load(Example, flags={"model": "m"}, environment={}, file=file)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("worker", WorkersSettings),
        ("board", BoardSettings),
        ("gateway", GatewaySettings),
        ("ask", AskSettings),
        ("chat", AskSettings),
        ("load", LoadSettings),
        ("demo", DemoSettings),
        ("sidecar", SidecarSettings),
    ],
)
def test_every_setting_of_a_command_has_its_flag(command: str, kind: type[CommonSettings]) -> None:
    (found,) = (one for path, one in TURNPIKE.walk() if path == command)
    assert setting_names([kind]) == setting_names([found.options])
    shown = parser_of(found, command).format_help()
    assert [name for name in setting_names([kind]) if flag(name) not in shown] == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cancel_after_seconds": 0.0}, "--cancel-after-seconds"),
        ({"duration_seconds": float("nan")}, "--duration-seconds"),
        ({"num_turns": 0}, "--num-turns"),
        ({"slo_ttft_seconds": float("inf")}, "--slo-ttft-seconds"),
        ({"sweep": "nan:10", "slo_ttft_seconds": 1.0}, "--sweep"),
        ({"sweep": "1:inf", "slo_ttft_seconds": 1.0}, "--sweep"),
        ({"model": "a=inf,b=1"}, "--model"),
    ],
)
def test_a_load_without_a_measure_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        LoadSettings(**{"model": "m", **settings}).check()
    assert said in str(caught.value)
