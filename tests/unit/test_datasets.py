from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from broker import codec
from broker.catalogue import Locked, write_lock
from broker.errors import TurnpikeError
from broker.messages import Turn
from producers.data.datasets import SHIPPED, Conversation, DatasetError, load_conversations
from producers.data.rows import summary
from producers.load.run import header
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


def read(path: Path, **options: Any) -> tuple[list[Conversation], list[str]]:
    """The conversations, and what was left out as `line: reason`."""
    left_out: list[DatasetError] = []
    found = load_conversations(path, left_out=left_out, **options)
    return found, [f"{one.line}: {one.reason}" for one in left_out]


@pytest.mark.parametrize(
    ("rows", "problems"),
    [
        ([message("x", "nowhere", "assistant")], ["7: its parent 'nowhere' is not in the file"]),
        (
            [message("x", "y", "assistant"), message("y", "x", "prompter")],
            ["7: it is its own ancestor", "8: it is its own ancestor"],
        ),
        ([FLAT[2]], ["7: its message_id occurs twice"]),
        ([message("x", "e", "robot")], ["7: lacks or garbles a field: role is 'robot', none of prompter, assistant"]),
        ([message("x", "e", "assistant") | {"text": None}], ["7: lacks or garbles a field: text is None"]),
        ([message("x", "e", "assistant") | {"text": None, "deleted": True}], []),
        ([message("x", "e", "assistant") | {"message_id": [1]}], ["7: lacks or garbles a field: message_id is [1]"]),
        ([message("x", "e", "assistant") | {"parent_id": {}}], ["7: its parent {} is not in the file"]),
    ],
)
def test_a_message_that_fits_in_no_tree_is_left_out_and_named(
    tmp_path: Path, rows: list[dict[str, Any]], problems: list[str]
) -> None:
    (found,), left_out = read(write(tmp_path / "x.jsonl", [*FLAT, *rows]))
    assert [m.content for m in found.messages] == ["text a", "text b1", "text c", "text d", "text e"]
    assert left_out == problems


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        ({"text": 5}, "a reply in it: text is 5"),
        ({"role": "tool"}, "a reply in it: role is 'tool', none of prompter, assistant"),
        ({"replies": "none"}, "a reply in it: replies are 'none'"),
        ({"rank": "first"}, None),
        ({"rank": float("nan")}, None),
    ],
)
def test_a_garbled_reply_costs_what_hangs_on_it(tmp_path: Path, odd: dict[str, Any], problem: str | None) -> None:
    rows = [row | odd if row["message_id"] == "b0" else row for row in [*FLAT, message("z", "b0", "prompter")]]
    nodes = {row["message_id"]: {"replies": [], **row} for row in rows}
    for row in nodes.values():
        if row["parent_id"] and isinstance(nodes[row["parent_id"]]["replies"], list):
            nodes[row["parent_id"]]["replies"].append(row)
    (found,), left_out = read(write(tmp_path / "x.jsonl", [{"prompt": nodes["a"]}]))
    assert [m.content for m in found.messages] == ["text a", "text b1", "text c", "text d", "text e"]
    assert left_out == ([f"1: {problem}"] if problem else [])


GOOD = {"id": "good", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
OPENAI = {"id": "good", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"conversations": [{"from": "tool", "value": "x"}]}, "`from` is 'tool', none of human, user"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, r"`from` is \['human'\], none of"),
        ({"conversations": [{"value": "x"}]}, "`role` is None, none of"),
        ({"conversations": [{"from": "human", "value": None}]}, "its message 1 has null where a text should be"),
        ({"conversations": [{"from": "human"}]}, "its message 1 has null where a text should be"),
        ({"conversations": [{"from": "human", "value": 7}]}, "its message 1 has 7 where a text should be"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "no message of it is the user's"),
        ({"conversations": None}, "its messages are no list"),
        ({"conversations": ["hello"]}, "its message 1 is no object"),
        ({"messages": [{"role": "function", "content": "x"}]}, "`role` is 'function', none of"),
        ({"messages": [{"role": "user", "content": []}]}, r"its message 1 has \[\] where a text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "its message 1 has a part that is no te",
        ),
        ({"messages": []}, "no message of it is the user's"),
        ({"prompt": "a string"}, "is no OpenAssistant"),
        ([1], "is not a JSON object"),
        (None, "is not a JSON object"),
    ],
)
def test_one_odd_row_costs_one_row(tmp_path: Path, row: Any, problem: str) -> None:
    path = tmp_path / "x.jsonl"
    for good in (GOOD, OPENAI):
        for place in (1, 2):
            rows = [row, good] if place == 1 else [good, row]
            path.write_text("".join(json.dumps(one) + "\n" for one in rows))
            (found,), (left_out,) = read(path, min_turns=1)
            assert (found.id, [m.content for m in found.messages]) == ("good", ["q", "a"])
            assert re.match(f"{place}: {problem}", left_out)
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DatasetError, match=r"x\.jsonl: no conversation: 1 row is left out: x\.jsonl:1: ") as caught:
        load_conversations(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"not json", "is not JSON: Expecting value"),
        (b'{"id": "cut", "conversations": [{"fr', "is not JSON: "),
        (b'{"id": "\xff\xfe"}', "is not UTF-8: invalid start byte"),
        (b"[" * 200_000, "is not JSON: nested too deeply"),
        (b"1" * 5000, "is not JSON: Exceeds the limit"),
        (b"\x00\x01\x02", "is not JSON: "),
    ],
)
def test_a_line_that_is_no_json_costs_one_line(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "x.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\n".join([good, line, good, b""]))
    found, (left_out,) = read(path, min_turns=1)
    assert len(found) == 2
    assert left_out.startswith(f"2: {problem}")


def test_half_an_emoji_is_replaced_and_the_whole_ones_stay(tmp_path: Path) -> None:
    text = (
        '{"id": "\\ud83d", "conversations": [{"from": "human", "value": "cut \\ud83d, whole \\ud83d\\ude00 \\udc00"}]}'
    )
    for name, content in (("x.json", f"[{text}]"), ("x.jsonl", f"{text}\n")):
        (tmp_path / name).write_text(content)
        (found,), left_out = read(tmp_path / name, min_turns=1)
        assert (found.id, left_out) == ("\ufffd", [])
        assert found.messages[0].content == "cut \ufffd, whole \U0001f600 \ufffd"
        assert codec.encode(Turn("t", "c", found.messages))
    (found,), _ = read(
        write(tmp_path / "y.jsonl", [message("a", None, "prompter") | {"text": "cut \ud83d"}]), min_turns=1
    )
    assert found.messages[0].content == "cut \ufffd"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, encoding: str) -> None:
    rows = [*SHARED, {"id": "s3", "conversations": [{"from": "human", "value": "a\u2028b\u0085c ü 🎉"}]}]
    texts = {"x.json": json.dumps(rows, ensure_ascii=False, indent=1), "y.jsonl": ""}
    texts["y.jsonl"] = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    for name, text in texts.items():
        for path, content in ((tmp_path / name, text.encode(encoding)), (tmp_path / f"{name}.gz", b"")):
            path.write_bytes(content or gzip.compress(text.encode(encoding)))
            found, left_out = read(path, min_turns=1)
            assert ([one.id for one in found], left_out) == (["s1", "s2", "s3"], [])
            assert found[2].messages[0].content == "a\u2028b\u0085c ü 🎉"


def test_an_array_with_a_broken_byte_loses_the_row_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(json.dumps([GOOD, GOOD | {"id": "@"}]).encode().replace(b"@", b"\xff"))
    (found,), left_out = read(tmp_path / "x.json", min_turns=1)
    assert (found.id, left_out) == ("good", ["2: is not UTF-8"])


def test_whatever_byte_of_a_gzip_is_damaged_it_is_one_line_or_what_is_left(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(json.dumps(GOOD).encode() + b"\n" + json.dumps(OPENAI).encode() + b"\n"))
    path = tmp_path / "x.jsonl.gz"
    refusals = []
    for at in range(len(whole)):
        for flip in (0x01, 0x80):
            damaged = bytearray(whole)
            damaged[at] ^= flip
            path.write_bytes(damaged)
            try:
                read(path, min_turns=1)
            except DatasetError as error:
                refusals.append(str(error))
    assert len(refusals) > len(whole)
    assert all(one.startswith(str(path)) and "\n" not in one for one in refusals)


def test_content_parts_are_joined_with_a_line_end(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "the best book?"}]
    (found,), _ = read(write(tmp_path / "x.jsonl", [{"messages": [{"role": "user", "content": parts}]}]), min_turns=1)
    assert found.messages[0].content == "What is\nthe best book?"


def test_a_bad_row_of_a_parquet_costs_one_row(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    names = pyarrow.array([b"good", b"\xff\xfe", b"too"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    said = pyarrow.array([GOOD["conversations"]] * 2 + [None])
    parquet.write_table(pyarrow.table({"id": names, "conversations": said}), tmp_path / "x.parquet")
    (found,), left_out = read(tmp_path / "x.parquet", min_turns=1)
    assert (found.id, len(left_out)) == ("good", 2)
    assert left_out[0].startswith("2: ")
    assert left_out[1] == "3: its messages are no list"


def test_what_is_left_out_is_counted_and_the_first_few_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [OPENAI, *[{"messages": None}] * 5])
    selection = select(LoadSettings(model="m", dataset=str(path), min_turns=1))
    assert [one.id for one in selection.conversations] == ["good"]
    assert summary(selection.left_out) == (
        "5 rows are left out: x.jsonl:2: its messages are no list; x.jsonl:3: its messages are no list; "
        "x.jsonl:4: its messages are no list; and 2 more"
    )
    assert header(LoadSettings(model="m", run="r"), selection, []).dataset["num_left_out"] == 5


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


@pytest.mark.parametrize("rank", [10**400, -(10**400), math.nan, math.inf, "first", None, [1]])
def test_a_rank_that_is_none_costs_its_place_and_not_the_file(tmp_path: Path, rank: object) -> None:
    reply = {"text": "odd", "role": "assistant", "rank": rank}
    good = {"text": "good", "role": "assistant", "rank": -(10**401)}
    tree = {"message_id": "a", "text": "hi", "role": "prompter", "lang": "en", "replies": [reply, good]}
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"prompt": tree}) + "\n")
    (found,) = load_conversations(path, min_turns=2)
    assert [one.content for one in found.messages] == ["hi", "good"]
