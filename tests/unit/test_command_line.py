"""What is typed, and what the command makes of it: flags wherever they stand, help, completion."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys

import pytest

import turnpike
from broker.process import EXIT_USAGE
from tests.support import ROOT
from turnpike.cli.command import Command
from turnpike.cli.main import main
from turnpike.cli.reading import read
from turnpike.cli.tree import TURNPIKE

EVERY = list(TURNPIKE.walk())
IDS = [path or "turnpike" for path, _ in EVERY]


@pytest.mark.parametrize(("path", "command"), EVERY, ids=IDS)
def test_every_command_explains_itself_with_an_example(
    path: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*path.split(), "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: turnpike {path}".rstrip())
    assert f"example: {command.example}" in out
    for one in command.commands:
        assert one.name in out
        assert one.help.split()[0] in out


@pytest.mark.parametrize(("path", "command"), EVERY, ids=IDS)
def test_every_example_is_understood(path: str, command: Command) -> None:
    words = shlex.split(command.example.removeprefix("sudo ").partition(" >")[0])
    if words[0] != "turnpike":  # the shell's `eval` of it
        words = shlex.split(words[1].strip("$()"))
    found, said = read(TURNPIKE, words[1:])
    assert said.path.startswith(path), "an example is of the command itself, or of one in its group"
    said.load(found.options, *found.beside)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("--log-level DEBUG worker", "worker"),
        ("--url nats://u:p@h:1 ask m hello", "ask"),
        ("--url=nats://u:p@h:1 ask m hello", "ask"),
        ("--model m broker ensure", "broker ensure"),
        ("--num-ctx 512 install-service worker", "install-service worker"),
        ("--json top", "top"),
    ],
)
def test_what_is_said_before_a_command_is_said_to_it(words: str, path: str) -> None:
    _, said = read(TURNPIKE, words.split())
    assert said.path == path
    assert said.problems == ()
    assert len(said.flags) == (3 if path == "ask" else 1)


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        ("--num-slots 5 ask m hello", ["--num-slots is nothing to `ask`"]),
        ("wroker", ["wroker: unknown command (did you mean worker?)"]),
        ("dead frobnicate", ["dead frobnicate: unknown command, none of list, show, replay, purge"]),
        ("ask m hello --max_tokens 5", ["unrecognized arguments: --max_tokens (did you mean --max-tokens?)"]),
        ("ask m hello --Max-Tokens=5", ["unrecognized arguments: --Max-Tokens (did you mean --max-tokens?)"]),
        ("--max_tokens 5 ask m hello", ["unrecognized arguments: --max_tokens (did you mean --max-tokens?)"]),
        ("dead shwo", ["dead shwo: unknown command (did you mean show?)"]),
        ("--lgo-level DEBUG worker", ["unrecognized arguments: --lgo-level (did you mean --log-level?)"]),
        ("worker --num-slotz 4", ["unrecognized arguments: --num-slotz (did you mean --num-slots?)"]),
        ("worker --url", ["--url: expected one argument"]),
        ("worker more", ["unrecognized arguments: more"]),
        ("load --continue a.jsonl --part 1", ["--part is nothing to `load --continue`"]),
        ("cancel --all --turn x", ["--turn, --conversation and --all: which turns? one of the three is wanted"]),
        ("dead show", ["NUMBER is missing"]),
        (
            "install-service worker --keys k --num-ctx many",
            ["--keys: nothing to a worker", "--num-ctx: 'many' is no whole number"],
        ),
        ("experiment", ["PLAN is missing", "--out is missing"]),
        (
            "worker --num-ctx 1 --kv-type q4 --num-slotz 4",
            [
                "unrecognized arguments: --num-slotz (did you mean --num-slots?)",
                "--kv-type: 'q4' is none of f16, q8_0",
                "--num-ctx: must be at least 256",
            ],
        ),
    ],
)
def test_what_is_not_understood_is_said_and_never_passed_over(
    words: str, problems: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == EXIT_USAGE
    assert capsys.readouterr().err.splitlines() == [f"turnpike: {one}" for one in problems]


@pytest.mark.parametrize("words", ["", "models", "--log-level DEBUG dead"])
def test_a_group_alone_asks_which_command(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == EXIT_USAGE
    assert "which command?" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "path"), [("help", ""), ("help worker", "worker"), ("models help", "models")])
def test_help_is_a_word_too(words: str, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: turnpike {path}".strip())


@pytest.mark.parametrize("module", ["broker.points", "telemetry.grafana", "workers.llama.random_model"])
def test_a_module_that_writes_a_file_asks_for_its_name(module: str) -> None:
    command = [sys.executable, "-m", module]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout) == (EXIT_USAGE, "")
    assert found.stderr.startswith(f"usage: python -m {module} ")


def test_a_text_may_begin_as_a_flag_behind_two_dashes() -> None:
    _, said = read(TURNPIKE, ["ask", "--max-tokens", "5", "demo", "--", "--why?"])
    assert said.flags == {"max_tokens": "5", "model": "demo", "text": "--why?"}


@pytest.mark.parametrize("words", ["settings", "models list", "user add carol"])
def test_the_log_level_is_heard_by_every_command(words: str, tmp_path: object) -> None:
    code = (
        "import logging; from turnpike.cli.main import main; "
        f"main({['--log-level', 'debug', *words.split(), '--data-dir', str(tmp_path)]!r}); "
        "print(logging.getLogger().level)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.splitlines()[-1] == str(logging.DEBUG)


def test_python_runs_the_package_by_its_name_and_by_its_path(tmp_path: object) -> None:
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
    by_name = [sys.executable, "-m", "turnpike", "--version"]
    by_path = [sys.executable, str(ROOT / "turnpike"), "--version"]
    for command in (by_name, by_path):
        found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=str(tmp_path), env=environment)
        assert found.stdout == f"turnpike {turnpike.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_understands_its_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for path, one in EVERY:
        assert all(word in script for word in path.split())
        flags = {field.flag for field in one.fields if not field.is_positional}
        assert shell == "tcsh" or all(flag in script for flag in flags), "which completes but two words there"
    if shutil.which(shell) is not None:
        assert subprocess.run([shell, "-n"], input=script, text=True, capture_output=True).stderr == ""


def test_bash_completes_commands_flags_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    def completed(*words: str) -> set[str]:
        typed = shlex.join(words)
        more = (
            f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _shtab_turnpike; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        found = subprocess.run(["bash", "-c", f"{script}\n{more}"], capture_output=True, text=True, check=True)
        return set(found.stdout.split())

    assert completed("turnpike", "wor") == {"worker"}
    assert completed("turnpike", "dead", "re") == {"replay"}
    assert "--num-ctx" in completed("turnpike", "worker", "--num")
    assert completed("turnpike", "completion", "z") == {"zsh"}
    assert completed("turnpike", "worker", "--kv-type", "q") == {"q8_0"}


def test_help_imports_nothing_that_it_does_not_show() -> None:
    code = "import sys; from turnpike.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    heavy = ("asyncio", "nats", "rich", "msgpack", "numpy", "shtab", "prompt_toolkit", "subprocess")
    code += f"print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.splitlines()[-1] == "[]"


def test_what_a_program_needs_has_its_name_in_the_package() -> None:
    for name in turnpike.__all__:
        assert getattr(turnpike, name) is not None
    assert set(turnpike.__all__) <= set(dir(turnpike))
    with pytest.raises(AttributeError):
        _ = turnpike.Nothing  # type: ignore[attr-defined]
