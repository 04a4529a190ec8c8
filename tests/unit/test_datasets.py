from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from producers.datasets import SHIPPED, DatasetError, load_conversations


def message(name: str, parent: str | None, role: str, rank: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "message_id": name,
        "parent_id": parent,
        "text": f"text {name}",
        "role": role,
        "lang": "en",
        "rank": rank,
        **more,
    }


FLAT = [
    message("a", None, "prompter"),
    message("b1", "a", "assistant", 1),
    message("b0", "a", "assistant", 0),
    message("c", "b1", "prompter", 0),
    message("d", "c", "assistant", 0),
    message("e", "d", "prompter", 0),
]


def tree(rows: list[dict[str, Any]]) -> dict[str, Any]:
    nodes = {row["message_id"]: row | {"replies": []} for row in rows}
    for row in nodes.values():
        if row["parent_id"]:
            nodes[row["parent_id"]]["replies"].append(row)
    return {"message_tree_id": "a", "prompt": nodes["a"]}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
@pytest.mark.parametrize("rows", [FLAT, FLAT[::-1], [tree(FLAT)]], ids=["flat", "shuffled", "tree"])
def test_every_form_gives_the_same_thread(tmp_path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (conversation,) = load_conversations(write(tmp_path / name, rows), min_turns=5)
    assert [m.content for m in conversation.messages] == ["text a", "text b1", "text c", "text d", "text e"]
    assert [m.role for m in conversation.messages] == ["user", "assistant"] * 2 + ["user"]


def test_the_best_ranked_thread_is_taken_where_it_is_long_enough(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", FLAT)
    (conversation,) = load_conversations(path, min_turns=2)
    assert [m.content for m in conversation.messages] == ["text a", "text b0"]


def test_turns_can_be_counted_in_prompter_turns(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", FLAT)
    assert len(load_conversations(path, min_turns=3, unit="prompter")) == 1
    assert load_conversations(path, min_turns=4, unit="prompter") == []


def test_deleted_messages_and_other_languages_do_not_count(tmp_path: Path) -> None:
    rows = [row | {"deleted": row["message_id"] == "d"} for row in FLAT]
    assert load_conversations(write(tmp_path / "x.jsonl", rows), min_turns=5) == []
    assert load_conversations(write(tmp_path / "y.jsonl", FLAT), min_turns=5, language="de") == []


def test_fifty_conversations_of_five_turns_are_shipped() -> None:
    conversations = load_conversations(min_turns=5)
    assert len(conversations) == 50
    assert len({conversation.messages for conversation in conversations}) == 50
    for conversation in conversations:
        roles = [message.role for message in conversation.messages]
        assert roles == (["user", "assistant"] * len(roles))[: len(roles)]


def test_the_shared_trees_hold_as_many_threads_as_counted(oasst_trees: Path) -> None:
    assert len(load_conversations(oasst_trees, min_turns=5)) == 32
    assert load_conversations(oasst_trees, min_turns=5, unit="prompter") == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no lines"),
        ("{}\n", "no OpenAssistant"),
        ('{"prompt": {}}\nnot json\n', ":2: is not JSON"),
        ('{"message_id": "a", "role": "prompter"}\n', "lacks or garbles"),
        ("[1]\n", ":1: is not a JSON object"),
    ],
)
def test_a_bad_file_is_one_error_that_names_it(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(DatasetError, match=reason) as caught:
        load_conversations(path)
    assert str(path) in str(caught.value)


def test_a_truncated_gzip_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(SHIPPED.read_bytes())[:500])
    with pytest.raises(DatasetError, match=r"cut\.jsonl\.gz"):
        load_conversations(path)
    with pytest.raises(DatasetError, match="No such file"):
        load_conversations(tmp_path / "missing")
