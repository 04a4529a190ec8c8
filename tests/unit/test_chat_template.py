"""Which template a model gets, and that nothing stands in for one without a word."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from broker.catalogue import read_catalogue
from broker.errors import SettingsError
from workers.prompts.chat_template import MAX_BYTES, asked_for, builtin_names, builtin_template, catalogued, of_model
from workers.prompts.template import render
from workers.settings import WorkerSettings

OF_FILE = "{{ messages[0].content }}"


def has_all(text: str) -> bool:
    return True


def has_none(text: str) -> bool:
    return False


def test_what_was_asked_for_goes_before_the_files_and_that_before_what_stands_in(tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{{ 1 }}")
    assert of_model("gemma", OF_FILE, "chatml", has_all).text == builtin_template("gemma")
    assert of_model(str(own), OF_FILE, "chatml", has_all).text == "{{ 1 }}"
    assert of_model(None, OF_FILE, "chatml", has_all).text == OF_FILE
    assert of_model(None, None, "llama2-sys", has_all).text == builtin_template("llama2-sys")
    assert of_model(None, None, "", has_all).text == builtin_template("chatml")
    assert of_model(None, None, "", has_none).text == builtin_template("plain")
    assert of_model(None, "", "", lambda text: text == "<|im_start|>").is_plain


def test_what_stands_in_is_told_as_a_warning_and_what_was_chosen_is_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for given, of_file, is_token in ((None, OF_FILE, has_all), (None, None, has_all), (None, None, has_none)):
        of_model(given, of_file, "", is_token).tell()
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "WARNING"]
    assert [record.message for record in caplog.records] == [
        "template the file's",
        "template chatml, as the file has none and its vocabulary has ChatML's tokens; --chat-template names another",
        "template plain, `User:` and `Assistant:` on lines of their own, "
        "as the file has none and its vocabulary has not ChatML's tokens; "
        "--chat-template names another",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "neither a file nor one of .*chatml.*llama3"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff\xfe{", "is no text in UTF-8"),
        (b"x" * (MAX_BYTES + 1), "has over"),
    ],
)
def test_a_name_or_file_that_is_no_template_is_one_sentence(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "some.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=f"--chat-template: .*{reason}"):
        asked_for(str(path))


def test_a_folder_is_no_template(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--chat-template: .*directory"):
        asked_for(str(tmp_path))


def test_a_byte_order_mark_is_no_part_of_a_template(tmp_path: Path) -> None:
    path = tmp_path / "some.jinja"
    path.write_bytes(b"\xef\xbb\xbf{{ 1 }}")
    assert asked_for(str(path)).text == "{{ 1 }}"


def test_the_catalogue_names_templates_that_there_are() -> None:
    named = {token: entry.chat_template for token, entry in read_catalogue().items() if entry.chat_template}
    assert named
    assert set(named.values()) <= set(builtin_names())
    assert catalogued("llama-2-7b") == "llama2-sys"
    assert catalogued("unheard-of") == catalogued(None) == ""


def test_the_plain_form_is_what_the_documentation_says() -> None:
    said = [("system", "Be brief."), ("user", "Hello."), ("assistant", " Hi. "), ("user", "So?")]
    messages = [{"role": role, "content": content} for role, content in said]
    text = render(builtin_template("plain"), messages, bos_token="", eos_token="")["text"]
    assert text == "Be brief.\n\nUser:\nHello.\n\nAssistant:\nHi.\n\nUser:\nSo?\n\nAssistant:\n"


def test_a_worker_is_told_of_an_unknown_template_before_a_model_is_loaded() -> None:
    with pytest.raises(SettingsError, match="--chat-template: no-such is neither a file nor one of"):
        WorkerSettings(chat_template="no-such", data_dir="x").check()
    WorkerSettings(chat_template="gemma", data_dir="x").check()


@pytest.mark.parametrize(("said", "is_one"), [("none", True), ("today", True), ("2026-11-26", True), ("26 Nov", False)])
def test_the_date_of_templates_is_a_day_or_a_word(said: str, is_one: bool) -> None:
    settings = WorkerSettings(template_date=said, data_dir="x")
    if is_one:
        settings.check()
        return
    with pytest.raises(SettingsError, match="--template-date: must be none, today or a date"):
        settings.check()
