"""A conversation without a terminal: what is asked, how it is kept, which lines are commands."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import sys
import termios
from pathlib import Path

import pytest

from broker.messages import Message, ToolCall
from producers.chat import orders
from producers.chat.conversation import Conversation
from producers.chat.saved import NotSaved, load, save
from producers.terminal.printing import Printer

TALK = (
    Message("user", "Is it dark?\n\nLook."),
    Message("assistant", "", (ToolCall("c1", "brightness", '{"room": "attic"}'),), reasoning="I must look."),
    Message("tool", "3 lux", tool_call_id="c1"),
    Message("assistant", "Yes: 3 lux — dark."),
)


def test_the_system_message_comes_first_and_stays_when_all_else_begins_anew() -> None:
    talk = Conversation("m", system="Be brief.")
    first, asked = talk.id, talk.asking("Hello")
    assert asked == (Message("system", "Be brief."), Message("user", "Hello"))
    talk.keep([*asked, Message("assistant", "Hi.")])
    talk.tell("Be long.")
    assert list(talk.messages) == [Message("system", "Be long."), Message("user", "Hello"), Message("assistant", "Hi.")]
    talk.begin_anew()
    assert list(talk.messages) == [Message("system", "Be long.")]
    assert talk.num_questions == 0
    assert talk.id != first, "workers know by it what they have computed"


def test_what_is_saved_comes_back_and_is_what_the_api_takes(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    save(Conversation("tiny", system="Be brief.", said=TALK), path)
    body = json.loads(path.read_text())
    assert (body["model"], body["messages"][0]) == ("tiny", {"role": "system", "content": "Be brief."})
    assert body["messages"][2]["tool_calls"][0]["function"] == {
        "name": "brightness",
        "arguments": '{"room": "attic"}',
    }
    found = load(path)
    assert (found.model, found.system, found.said) == ("tiny", "Be brief.", TALK)
    save(found, path)
    assert load(path).said == TALK, "a conversation may be overwritten"
    assert [one.name for one in tmp_path.iterdir()] == ["talk.json"]


def test_what_others_wrote_is_loaded_as_far_as_it_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    rows = [
        {"role": "developer", "content": "Be brief.", "name": "x"},
        {"role": "user", "content": parts, "id": 7},
        {"role": "assistant", "content": "Hi.", "refusal": None},
        {"role": "user", "content": "And nobody answered this"},
    ]
    path.write_text(json.dumps(rows))
    found = load(path)
    assert (found.model, found.system) == ("", "Be brief.")
    assert found.said == (Message("user", "Hel\nlo"), Message("assistant", "Hi."))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[connection]\nurl = 1\n", "it is not JSON"),
        ('{"messages": 3}', "it is not JSON with a list of messages"),
        ('[{"role": "robot", "content": "x"}]', "the role 'robot'"),
        ('[{"role": "assistant", "content": 3}]', "3 where a text should be"),
        ('[{"role": "tool", "content": "x", "tool_call_id": "c"}, {"role": "assistant"}]', "the result of no call"),
    ],
)
def test_a_file_that_is_no_conversation_is_neither_loaded_nor_overwritten(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    with pytest.raises(NotSaved) as caught:
        load(path)
    assert reason in str(caught.value) or "Expecting value" in str(caught.value)
    with pytest.raises(NotSaved, match="it is left as it is"):
        save(Conversation("m", said=TALK), path)
    assert path.read_text() == text


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotSaved, match="No such file"):
        load(tmp_path / "nothing.json")
    with pytest.raises(NotSaved, match="No such file"):
        save(Conversation("m"), tmp_path / "nowhere" / "x.json")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "..", ""])
def test_a_name_that_no_file_can_have_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotSaved):
        load(tmp_path / name)
    with pytest.raises(NotSaved):
        save(Conversation("m"), tmp_path / name)


@pytest.mark.parametrize(
    ("text", "name", "argument"),
    [
        ("/help", "help", ""),
        ("/", "help", ""),
        ("/new", "new", ""),
        ("/system Be brief.", "system", "Be brief."),
        ("/system Be brief.\nAnd kind.", "system", "Be brief.\nAnd kind."),
        ("/save  a b.json ", "save", "a b.json"),
        ("/quit", "exit", ""),
    ],
)
def test_a_line_that_begins_with_a_commands_name_is_one(text: str, name: str, argument: str) -> None:
    found = orders.parsed(text)
    assert found is not None
    assert (found[0].name, found[1]) == (name, argument)


@pytest.mark.parametrize("text", ["help", "/etc/passwd has a line", "/new\nand more", " /new", "//comment", "1/2 is?"])
def test_any_other_text_is_a_message(text: str) -> None:
    assert orders.parsed(text) is None


def test_what_may_have_been_meant_is_told() -> None:
    with pytest.raises(orders.UnknownOrder, match=r"there is no /sytem \(did you mean system\?\): /help lists"):
        orders.parsed("/sytem Be brief.")


def test_help_tells_of_no_key_that_a_plain_line_has_not() -> None:
    assert {"Tab", "^D"} <= dict(orders.help_rows(has_editor=True)).keys()
    plain = dict(orders.help_rows(has_editor=False))
    assert "^D" in plain
    assert not plain.keys() & {"Tab", "Alt-Enter", "Up, ^R"}


def test_a_note_folds_between_words_where_the_terminal_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        Printer(is_plain=True).note("the turn waits for a worker; /a/path/longer/than/a/line")
    said = os.read(ours, 1000).decode().splitlines()
    os.close(ours)
    assert said == ["[the turn waits for", "a worker;", "/a/path/longer/than/a/line]"]


def test_words_complete_commands_files_and_models() -> None:
    words = orders.words(lambda: ["demo", "tiny"])
    assert "/system" in words("")
    assert words("/save ") == words("/load ") == ["FILE"]
    assert words("/model ") == ["demo", "tiny"]
    assert words("/new ") == words("what is ") == []
