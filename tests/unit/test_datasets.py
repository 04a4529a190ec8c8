from __future__ import annotations

import gzip
import hashlib
import json
import re
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from broker.catalogue import Locked, write_lock
from broker.errors import TurnpikeError
from producers.data.datasets import SHIPPED, DatasetError, load_conversations
from producers.load.selection import select
from producers.settings import LoadSettings


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


def words(text: str) -> list[str]:
    """Nearly what a tokenizer makes of it."""
    return re.findall(r"\w+|[^\w\s]", text)


def repeated(answer: list[str], prompt: list[str], length: int = 4) -> float:
    """The share of an answer's runs of so many words that its prompt has too."""
    there = set(zip(*(prompt[start:] for start in range(length)), strict=False))
    runs = list(zip(*(answer[start:] for start in range(length)), strict=False))
    return sum(run in there for run in runs) / len(runs)


def test_thirty_tasks_are_shipped_whose_answers_repeat_their_texts() -> None:
    tasks = load_conversations("editing")  # as a run asks for them: of five turns
    assert Counter(task.id.partition("-")[0] for task in tasks) == {"edit": 10, "extract": 10, "quote": 10}
    questions = [task.messages[0].content for task in tasks]
    texts = [question.partition("\n\n")[2] for question in questions]
    assert len(set(questions)) == len(set(texts)) == 30
    for task, text in zip(tasks, texts, strict=True):
        assert [message.role for message in task.messages] == ["user", "assistant"]
        assert 80 <= len(words(text)) <= 250, task.id  # 80 to 400 tokens
        answer = words(task.messages[1].content)
        assert len(answer) > 20, task.id
        assert repeated(answer, words(text)) > 0.75, task.id


def test_a_run_takes_the_tasks_without_being_asked_for_short_ones() -> None:
    selection = select(LoadSettings(model="m", dataset="editing"))
    assert len(selection.conversations) == selection.num_found == 30
    assert len(select(LoadSettings(model="m", dataset="tools")).conversations) == 12


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


def test_parquet_holds_the_same_messages(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(FLAT), path)
    assert load_conversations(path) == load_conversations(write(tmp_path / "x.jsonl", FLAT))
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DatasetError, match=r"x\.parquet: "):
        load_conversations(path)


SHARED = [
    {"id": "s1", "conversations": [{"from": "human", "value": f"q{n}"} for n in range(5)]},
    {"id": "s2", "conversations": [{"from": "gpt", "value": "left over"}, {"from": "human", "value": "q"}]},
]


def test_sharegpt_is_an_array_or_lines(tmp_path: Path) -> None:
    array = tmp_path / "x.json"
    array.write_text(json.dumps(SHARED, indent=1))
    for path in (array, write(tmp_path / "x.jsonl", SHARED)):
        long, short = load_conversations(path, min_turns=1)
        assert [m.content for m in long.messages] == ["q0", "q1", "q2", "q3", "q4"]
        assert [(m.role, m.content) for m in short.messages] == [("user", "q")], (
            "an answer without a question is left out"
        )
        assert [one.id for one in load_conversations(path, min_turns=5)] == ["s1"]


def test_made_up_conversations_have_their_lengths() -> None:
    text = "synthetic:prompt=200/50,answer=20/5,turns=4,count=200,seed=3"
    found = load_conversations(text)
    assert found == load_conversations(text)
    assert found != load_conversations(text.replace("seed=3", "seed=4"))
    assert len(found) == 200
    assert {one.num_user_turns for one in found} == {4}
    for role, mean, deviation in (("user", 200, 50), ("assistant", 20, 5)):
        lengths = [len(m.content.split()) for one in found for m in one.messages if m.role == role]
        assert statistics.mean(lengths) == pytest.approx(mean, rel=0.03)
        assert statistics.stdev(lengths) == pytest.approx(deviation, rel=0.1)


@pytest.mark.parametrize("text", ["synthetic:words=3", "synthetic:turns=0", "synthetic:prompt=10", "synthetic:count=x"])
def test_made_up_conversations_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(DatasetError, match="synthetic"):
        load_conversations(text)


def test_a_thread_stays_in_its_language(tmp_path: Path) -> None:
    rows = [
        message("a", None, "prompter"),
        message("b0", "a", "assistant", 0, lang="de"),
        message("b1", "a", "assistant", 1),
        message("c", "b1", "prompter", 0),
    ]
    (found,) = load_conversations(write(tmp_path / "x.jsonl", rows), min_turns=2)
    assert [m.content for m in found.messages] == ["text a", "text b1", "text c"]


def test_a_data_set_of_the_hub_is_the_file_that_the_lock_names(tmp_path: Path) -> None:
    content = write(tmp_path / "x.jsonl", FLAT).read_bytes()
    locked = Locked("o/x", "0" * 40, "x.jsonl", hashlib.sha256(content).hexdigest(), len(content), "dataset")
    write_lock(tmp_path / "lock", {"talks": locked})
    options = LoadSettings(
        model="m", dataset="hub:talks", lock_file=str(tmp_path / "lock"), models_dir=str(tmp_path / "files")
    )
    with pytest.raises(TurnpikeError, match="turnpike models pull talks"):
        select(options)
    path = locked.path_in(tmp_path / "files", "talks")
    path.parent.mkdir()
    path.write_bytes(content)
    selection = select(options)
    (conversation,) = selection.conversations
    assert (selection.num_found, len(conversation.messages)) == (1, 5)
    with pytest.raises(TurnpikeError, match="nothing"):
        select(LoadSettings(model="m", dataset="hub:nothing", lock_file=str(tmp_path / "lock")))
