"""A chat whose model calls tools and thinks: what is shown, what is asked, what is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker import codec
from broker.messages import Turn
from tests.integration.conftest import StartWorker
from tests.support import ROOT
from tests.terminal import INTERRUPTED, Bench, Queued, output
from tests.tool_fakes import READERS, ScriptedEngine, called

TOOLS = str(ROOT / "examples" / "python" / "tools.py")
LIGHT = called("switch_lamp", room="attic", on=True, percent=40)
SHOWN = '[calls switch_lamp(room="attic", on=true, percent=40)]'
DIM, PLAIN = "\x1b[2m", "\x1b[22m"


async def tool_messages(queued: Queued, number: int) -> list[str]:
    """Results in the last of so many turns."""
    turn = codec.decode((await last(queued, number)).data, Turn)
    return [one.content for one in turn.messages if one.role == "tool"]


async def last(queued: Queued, number: int):  # type: ignore[no-untyped-def]
    for _ in range(number - 1):
        await queued.one()
    return await queued.one()


async def test_a_call_is_shown_and_run_once_somebody_says_so(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    engine = ScriptedEngine(LIGHT, "It is lit.", called("read_temperature", room="kitchen"), "So be it.", "We talk on.")
    async with start_worker(engine, readers=READERS), bench.terminal("chat", "m", "--tools", TOOLS) as chat:
        await chat.until_it_prompts()
        chat.type("light\n")
        await chat.until_it_says("run it? [y/N]")
        assert SHOWN in chat.said
        chat.type("y\n")
        await chat.until_it_says("It is lit.")
        assert "[switch_lamp: the lamp in the attic is on at 40 %]" in chat.said
        assert await tool_messages(queued, 2) == ["the lamp in the attic is on at 40 %"]
        await chat.until_it_prompts()
        mark = len(chat.said)
        chat.type("which?\n")
        await chat.until_it_says("run it? [y/N]", behind=mark)
        assert '[calls read_temperature(room="kitchen")]' in chat.said
        chat.type("\n")
        await chat.until_it_says("So be it.")
        assert (await tool_messages(queued, 2))[1] == "error: the user did not allow this call"
        chat.type("and?\n")
        await chat.until_it_says("We talk on.")
        chat.type("\x04")
        assert await chat.ends() == 0


async def test_what_was_typed_before_a_call_was_shown_allows_nothing(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    async with (
        start_worker(ScriptedEngine(LIGHT, "So be it."), readers=READERS),
        bench.terminal("chat", "m", "--tools", TOOLS) as chat,
    ):
        await chat.until_it_prompts()
        chat.type("light\ny\n")
        await chat.until_it_says("run it? [y/N]")
        assert "[typed before the question, and no answer to it: y]" in chat.said
        chat.type("n\n")
        await chat.until_it_says("So be it.")
    assert await tool_messages(queued, 2) == ["error: the user did not allow this call"]


async def test_an_end_of_input_at_the_question_runs_nothing_and_ends_the_chat(
    bench: Bench, start_worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "t.py").write_text(f"def f():\n    open({str(tmp_path / 'ran')!r}, 'w')\n")
    async with (
        start_worker(ScriptedEngine(called("f"), "As you like."), readers=READERS),
        bench.terminal("chat", "m", "--tools", str(tmp_path / "t.py")) as chat,
    ):
        await chat.until_it_prompts()
        chat.type("go\n")
        await chat.until_it_says("run it? [y/N]")
        chat.type("\x04")
        assert await chat.ends() == 0
    assert not (tmp_path / "ran").exists()


async def test_an_interrupt_stops_a_tool_and_the_chat_goes_on(
    bench: Bench, start_worker: StartWorker, tmp_path: Path, queued: Queued
) -> None:
    (tmp_path / "t.py").write_text("import asyncio\n\nasync def endless():\n    await asyncio.Event().wait()\n")
    async with (
        start_worker(ScriptedEngine(called("endless"), "Going on."), readers=READERS),
        bench.terminal("chat", "m", "--tools", str(tmp_path / "t.py"), "--yes") as chat,
    ):
        await chat.until_it_prompts()
        chat.type("go\n")
        await chat.until_it_says("[calls endless()]")
        chat.type("\x03")
        await chat.until_it_says("[endless: error: the call was cancelled]")
        await chat.until_it_prompts()
        chat.type("and now?\n")
        await chat.until_it_says("[stop: ")
        assert "Going on." in chat.said
        assert await tool_messages(queued, 2) == ["error: the call was cancelled"]
        assert await chat.leaves() == INTERRUPTED


async def test_in_a_script_calls_run_only_where_all_are_allowed(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker(ScriptedEngine(LIGHT, "Well."), readers=READERS):
        code, said, notes = await output(bench, "chat", "m", "--tools", TOOLS, stdin=b"light\n")
        assert (code, said) == (0, "Well.\n")
        assert SHOWN in notes
        assert "nobody is here to be asked (--yes" in notes
        assert "[switch_lamp: error: the user did not allow this call]" in notes
        code, said, notes = await output(bench, "chat", "m", "--tools", TOOLS, "--yes", stdin=b"light\n")
        assert (code, said) == (0, "Well.\n")
        assert "[switch_lamp: the lamp in the attic is on at 40 %]" in notes


async def test_a_model_that_calls_on_and_on_is_stopped_and_said_so(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker(ScriptedEngine(called("read_temperature", room="kitchen")), readers=READERS):
        code, _, notes = await output(bench, "chat", "m", "--tools", TOOLS, "--yes", stdin=b"go\n")
    assert code == 1
    assert "after 8 rounds the model still calls tools (read_temperature)" in notes
    assert "the conversation is kept as far as it came" in notes


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        ("def f(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import asyncio\n_x = 1\ndef _hidden(): ...\n", "it has no functions"),
        ("def f(*all): ...", "f cannot be a tool: its parameter 'all' cannot be given by name"),
    ],
    ids=["missing", "syntax", "raises", "empty", "no-tool"],
)
async def test_a_file_without_tools_is_told_before_anything_is_asked(
    content: str | None, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from turnpike.cli.main import main

    path = tmp_path / "t.py"
    if content is not None:
        path.write_text(content)
    assert main(["chat", "m", "--tools", str(path)]) == 1
    assert problem in capsys.readouterr().err


THINKS = "<think>\nIt is dark.\n</think>Light it."


async def test_thoughts_are_dim_at_a_terminal(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker(ScriptedEngine(THINKS), readers=READERS):
        async with bench.terminal("ask", "m", "Dark?") as asked:
            assert await asked.ends() == 0
        text = asked.said.replace("\r", "")
        assert f"{DIM}It is dark.{PLAIN}\nLight it.\n[stop: " in text or f"{DIM}It is dark.\n{PLAIN}Light it.\n" in text
        assert "of them thoughts" in text
        async with bench.terminal("chat", "m") as chat:
            await chat.until_it_prompts()
            chat.type("Dark?\n")
            await chat.until_it_says("Light it.")
            chat.type("\x04")
            assert await chat.ends() == 0
        assert f"{DIM}It is dark." in chat.said


async def test_a_pipe_has_the_answer_and_json_the_thoughts_too(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker(ScriptedEngine(THINKS), readers=READERS):
        _, said, _ = await output(bench, "ask", "m", "Dark?")
        assert said == "Light it.\n"
        _, said, _ = await output(bench, "ask", "m", "Dark?", "--json")
        end = json.loads(said)
        assert (end["text"], end["reasoning"].strip()) == ("Light it.", "It is dark.")


@pytest.mark.parametrize(("given", "meant"), [("on", "on"), ("off", "off"), ("300", 300), ("0", 0)])
async def test_whether_it_thinks_is_said_by_a_flag(
    bench: Bench, start_worker: StartWorker, queued: Queued, given: str, meant: object
) -> None:
    async with start_worker(ScriptedEngine(THINKS), readers=READERS):
        code, _, _ = await output(bench, "ask", "m", "Dark?", "--thinking", given)
    turn = codec.decode((await queued.one()).data, Turn)
    assert (code, turn.sampling.thinking) == (0, meant)
