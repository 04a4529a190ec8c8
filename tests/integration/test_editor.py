"""A line that is typed at a real terminal: edited, over several lines, pasted, remembered; ^C and ^D wherever."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from broker import codec
from broker.messages import Message, Turn
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.terminal import INTERRUPTED, Bench, Command, Queued
from tests.tool_fakes import READERS, ScriptedEngine, called

UP, TAB, ALT_ENTER, LEFT = "\x1b[A", "\t", "\x1b\r", "\x1b[D"
PASTED, PASTE_ENDS = "\x1b[200~", "\x1b[201~"
CTRL_C, CTRL_D = "\x03", "\x04"


@asynccontextmanager
async def chat(bench: Bench, *more: str) -> AsyncIterator[Command]:
    """At its prompt, with a folder of its own for what it keeps."""
    async with bench.terminal("chat", "m", "--data-dir", str(bench.folder / "data"), *more) as command:
        await command.until_it_prompts()
        yield command


async def sent(queued: Queued) -> tuple[Message, ...]:
    return codec.decode((await queued.one()).data, Turn).messages


async def answered(command: Command, text: str) -> None:
    """Types it, and waits for the prompt behind its answer."""
    command.type(text + "\r")
    await command.until_it_says("[stop: ", behind=command._typed)
    await command.until_it_prompts()


async def test_a_line_is_edited_and_what_was_typed_is_remembered_to_the_next_time(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    async with start_worker():
        async with chat(bench) as one:
            await answered(one, f"frist{LEFT * 3}\x08{LEFT}\x1b[C{LEFT}\x04i\x1b[F!")
            text = (await sent(queued))[-1].content
            one.type(CTRL_D)
            assert await one.ends() == 0
        history = bench.folder / "data" / "chat-history"
        assert history.stat().st_mode & 0o077 == 0, "for its writer's eyes only"
        async with chat(bench) as other:
            await answered(other, UP)
            assert (await sent(queued))[-1].content == text


async def test_bytes_that_are_no_text_are_typed_as_such_and_a_history_that_is_gone_ends_nothing(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    async with start_worker(), chat(bench) as one:
        shutil.rmtree(bench.folder / "data")
        await answered(one, "caf\udce9 au lait")
        assert (await sent(queued))[-1].content == "caf\ufffd au lait"


async def test_several_lines_and_what_is_pasted_are_one_message(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    async with start_worker(), chat(bench) as one:
        await answered(one, f"first{ALT_ENTER}second\\\rthird")
        assert (await sent(queued))[-1].content == "first\nsecond\nthird"
        await answered(one, f"{PASTED}/save is no command here\r\nbut a text\x03\n{PASTE_ENDS}of three lines")
        assert (await sent(queued))[-1].content == "/save is no command here\nbut a text\x03\nof three lines"
        assert one.process.returncode is None, "a ^C within what is pasted is no key"


async def test_what_is_typed_or_pasted_while_an_answer_comes_is_the_next_message(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    async with start_worker() as running, chat(bench) as one:
        running.engine.gate.clear()
        one.type("first\r")
        await sent(queued)
        one.type(f"{PASTED}second\nof two lines{PASTE_ENDS}!\r")
        running.engine.gate.set()
        assert (await sent(queued))[-1].content == "second\nof two lines!"
        shown = one.said[one.said.index("first") :].partition("[stop: ")[0]
        assert "second" not in shown, "it is not shown between the answer's lines"


async def test_an_interrupt_clears_the_line_and_two_of_them_or_an_end_of_input_leave(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    async with start_worker():
        async with chat(bench) as one:
            one.type(f"never mind{CTRL_C}")
            await one.until_it_prompts()
            assert "again" not in one.said
            await answered(one, "hello")
            assert (await sent(queued))[-1].content == "hello"
            one.type(f"{PASTED}pasted\nlines{PASTE_ENDS}{CTRL_C}")
            await one.until_it_prompts()
            assert await one.interrupted() == INTERRUPTED
        async with chat(bench) as other:
            assert await other.leaves() == INTERRUPTED
        async with chat(bench) as third:
            third.type(f"x{CTRL_D}\x7f{CTRL_D}")
            assert await third.ends() == 0


async def test_an_end_of_input_between_an_answer_and_the_prompt_leaves(bench: Bench, start_worker: StartWorker) -> None:
    """The terminal reads by lines for that moment, and gives a ^D of then as a zero to who reads on by characters."""
    async with start_worker(), bench.terminal("chat", "m") as chat:
        await chat.until_it_prompts()
        chat.type("hello\n")
        await chat.until_it_says("echo hello")
        await chat.until_it_prompts()
        chat.type("kept\x00")
        chat.type("\x03\x00")
        assert await chat.ends() == 0


async def test_an_interrupt_keeps_what_came_of_an_answer(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    async with start_worker(FakeEngine(answer="x" * 400, token_seconds=0.02)), chat(bench) as one:
        one.type("go on\r")
        await one.until_it_says("xxx")
        one.type(CTRL_C)
        await one.until_it_prompts()
        assert re.search(r"\[(cancelled: |stopped: its end)", one.said)
        one.type("and?\r")
        await sent(queued)
        kept = (await sent(queued))[1]
    assert kept.role == "assistant"
    assert 3 <= len(kept.content) < 400


async def test_an_interrupt_at_the_question_runs_nothing_and_the_chat_goes_on(
    bench: Bench, start_worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "t.py").write_text(f"def f():\n    open({str(tmp_path / 'ran')!r}, 'w')\n")
    engine = ScriptedEngine(called("f"), "As you like.")
    async with start_worker(engine, readers=READERS), chat(bench, "--tools", str(tmp_path / "t.py")) as one:
        one.type("go\r")
        await one.until_it_says("run it? [y/N]")
        one.type(CTRL_C)
        await one.until_it_prompts()
        await answered(one, "and now?")
        assert "As you like." in one.said
    assert not (tmp_path / "ran").exists()


async def test_commands_are_listed_completed_and_refused(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker(), chat(bench) as one:
        one.type("/he" + TAB + "\r")
        await one.until_it_says("begins anew; the system message stays")
        await one.until_it_prompts()
        one.type("/sve x\r")
        await one.until_it_says("[there is no /sve (did you mean save?): /help lists what there is")
        await one.until_it_prompts()
        one.type("/save\r")
        await one.until_it_says("[which file? /save FILE]")
        await one.until_it_prompts()
        one.type("/save ~nobody-here/x.json\r")
        await one.until_it_says("[~nobody-here/x.json: No such file or directory]")
        await one.until_it_prompts()
        one.type("/model ~nobody-here/x.gguf\r")
        await one.until_it_says("[model file ~nobody-here/x.gguf: there is no such file]")
        await one.until_it_prompts()
        one.type("/exit\r")
        assert await one.ends() == 0


async def test_a_conversation_is_told_begun_anew_saved_and_loaded(
    bench: Bench, start_worker: StartWorker, queued: Queued, tmp_path: Path
) -> None:
    path = tmp_path / "talk.json"
    async with start_worker(), chat(bench) as one:
        one.type("/system Be brief.\r")
        await one.until_it_says("[system: Be brief.]")
        await one.until_it_prompts()
        await answered(one, "the first")
        assert await sent(queued) == (Message("system", "Be brief."), Message("user", "the first"))
        one.type(f"/save {path}\r")
        await one.until_it_says("[saved 1 question and what was answered in")
        await one.until_it_prompts()
        one.type("/new\r")
        await one.until_it_says("[a new conversation; the system message stays]")
        await one.until_it_prompts()
        await answered(one, "the second")
        assert await sent(queued) == (Message("system", "Be brief."), Message("user", "the second"))
        one.type(f"/load {path}\r")
        await one.until_it_says("[1 question from")
        await one.until_it_prompts()
        await answered(one, "the third")
        assert [text.content for text in await sent(queued)] == [
            "Be brief.",
            "the first",
            "echo the first",
            "the third",
        ]
    assert [row["role"] for row in json.loads(path.read_text())["messages"]] == ["system", "user", "assistant"]


async def test_another_model_goes_on_with_the_conversation(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    await bench.server.ensure(["m", "n"])
    async with start_worker(), start_worker(model="n", name="w2"), chat(bench) as one:
        await answered(one, "first")
        await sent(queued)
        one.type("/model nobody\r")
        await one.until_it_says("[model 'nobody' is not served here")
        await one.until_it_prompts()
        one.type("/model n\r")
        await one.until_it_says("[talking to n]")
        await one.until_it_prompts()
        await answered(one, "second")
        turn = await queued.one()
        assert turn.subject.split(".")[1] == "n"
        assert [text.content for text in codec.decode(turn.data, Turn).messages] == ["first", "echo first", "second"]


async def test_a_full_context_is_explained_with_what_to_do(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(num_ctx=64)), chat(bench) as one:
        one.type("x" * 200 + "\r")
        await one.until_it_says("[the conversation is longer than the model's context: /new begins anew (/save FILE")
        await one.until_it_says("--num-ctx]")
        await one.until_it_prompts()
        one.type("x" * 20 + "\r")
        await one.until_it_says("[the answer was cut as the model's context is full: /new begins anew")


async def test_an_answer_is_rendered_at_a_terminal_unless_it_is_to_be_plain(
    bench: Bench, start_worker: StartWorker
) -> None:
    async with start_worker(FakeEngine(answer="A **bold** word\n\n- and `code`")):
        async with chat(bench) as one:
            await answered(one, "hello")
        assert "\x1b[1mbold\x1b[0m" in one.said
        assert " • " in one.said
        async with chat(bench, "--plain") as other:
            await answered(other, "hello")
        assert "A **bold** word\r\n\r\n- and `code`" in other.said


async def test_what_an_answer_holds_moves_no_cursor(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(answer="a\x1b]0;title\x07b")), chat(bench) as one:
        await answered(one, "hello")
    assert "a\ufffd]0;title\ufffdb" in one.said
