"""One bad row costs one row, and is counted and named."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from broker import codec
from broker.messages import Turn
from producers.data.datasets import Conversation, DatasetError, load_conversations
from producers.data.rows import summary
from producers.load.run import header
from producers.load.selection import select
from producers.settings import LoadSettings
from tests.unit.test_datasets import FLAT, SHARED, message, write


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
        ({"conversations": [{"from": "robot", "value": "x"}]}, "`from` is 'robot', none of human, user"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "its message 1 has no tool_call_id"),
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


@pytest.mark.parametrize("rank", [10**400, -(10**400), math.nan, math.inf, "first", None, [1]])
def test_a_rank_that_is_none_costs_its_place_and_not_the_file(tmp_path: Path, rank: object) -> None:
    reply = {"text": "odd", "role": "assistant", "rank": rank}
    good = {"text": "good", "role": "assistant", "rank": -(10**401)}
    tree = {"message_id": "a", "text": "hi", "role": "prompter", "lang": "en", "replies": [reply, good]}
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"prompt": tree}) + "\n")
    (found,) = load_conversations(path, min_turns=2)
    assert [one.content for one in found.messages] == ["hi", "good"]
