"""What a board finds of the files that are here: what each model would take and could, and why one cannot be loaded."""

from __future__ import annotations

import random
import shutil
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import gguf
import msgspec
import pytest

from broker.catalogue import Locked, UnknownModel, write_lock
from broker.discovery import INFILL, OF_RELEASE
from broker.messages.boards import ModelFile
from workers.boards.file_facts import FileFacts, facts_of_files
from workers.boards.offers import Offer, Offers, shared_out
from workers.boards.settings import BoardSettings
from workers.gguf_header import read_header
from workers.infill_marks import TOKENS_KEY, has_infill_marks
from workers.machine.memory import MemoryPlan
from workers.model_file import ModelFileError, header
from workers.models import DEMO

MIB = 2**20


def locked_copies(folder: Path, *names: str) -> BoardSettings:
    """A lock file with copies of the shipped model under these names."""
    models = folder / "models"
    models.mkdir()
    found = {}
    for name in names:
        locked = Locked("o/r", "c" * 40, "m.gguf", DEMO.sha256, DEMO.path.stat().st_size)
        shutil.copyfile(DEMO.path, locked.path_in(models, name))
        found[name] = locked
    write_lock(folder / "lock", found)
    return BoardSettings(lock_file=str(folder / "lock"), models_dir=str(models), num_ctx=1024)


def file_of(settings: BoardSettings, name: str) -> Path:
    (found,) = Path(settings.models_dir).glob(f"{name}-*")
    return found


def test_all_that_are_locked_and_here_are_offered_with_their_plan(tmp_path: Path) -> None:
    settings = locked_copies(tmp_path, "a", "b", "gone")
    file_of(settings, "gone").unlink()
    found = Offers(settings).look(4096 * MIB)
    assert sorted(found) == ["a", "b"]
    plan = found["a"].plan
    assert plan is not None
    assert plan.weights < DEMO.path.stat().st_size < plan.weights + MIB
    assert found["a"].planned_bytes == plan.total
    # Both fit side by side, and what all may keep of conversations is a share of the whole.
    assert sum(one.planned_bytes for one in found.values()) <= 4096 * MIB
    assert plan.offload_cache == 4096 * MIB // 4 // 2


def test_what_a_named_model_lacks_is_said(tmp_path: Path) -> None:
    settings = locked_copies(tmp_path, "a", "missing", "cut", "wrong")
    file_of(settings, "missing").unlink()
    cut = file_of(settings, "cut")
    cut.write_bytes(cut.read_bytes()[:-5])
    wrong = file_of(settings, "wrong")
    wrong.write_bytes(b"x" * wrong.stat().st_size)
    named = BoardSettings(
        model=("a", "missing", "cut", "wrong", "demo"),
        lock_file=settings.lock_file,
        models_dir=settings.models_dir,
        num_ctx=1024,
    )
    found = Offers(named).look(4096 * MIB)
    assert {name: one.plan is not None for name, one in found.items()} == {
        "a": True,
        "missing": False,
        "cut": False,
        "wrong": False,
        "demo": True,
    }
    assert "turnpike models pull missing" in found["missing"].reason
    assert "are locked" in found["cut"].reason
    assert wrong.name in found["wrong"].reason


def test_no_damaged_header_costs_more_than_its_own_model(tmp_path: Path) -> None:
    settings = locked_copies(tmp_path, "good", "odd")
    path, chance = file_of(settings, "odd"), random.Random(7)
    whole = path.read_bytes()
    reasons = set()
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(4, 1500)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        path.write_bytes(content)
        found = Offers(settings).look(512 * MIB)
        assert found["good"].plan is not None
        assert found["odd"].planned_bytes >= 0
        reasons.add(found["odd"].reason.partition(path.name)[2])
    assert len(reasons) > 3


def test_what_nobody_has_thought_of_costs_its_own_model_and_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = locked_copies(tmp_path, "a", "odd")
    is_odd = True

    def look_into(paths: Sequence[Path], model: str, settings: BoardSettings) -> FileFacts:
        if model == "odd" and is_odd:
            raise ZeroDivisionError("division by zero")
        return facts_of_files(paths, model, settings)

    offers = Offers(settings, look_into)
    found = offers.look(1024 * MIB)
    assert found["a"].plan is not None
    assert (
        found["odd"].reason == f"{file_of(settings, 'odd').name} is not understood: ZeroDivisionError: division by zero"
    )
    is_odd = False
    assert offers.look(1024 * MIB)["odd"].plan is None, "the file is the same"
    monkeypatch.setattr("workers.boards.offers.AGAIN_SECONDS", 0.0)
    assert offers.look(1024 * MIB)["odd"].plan is not None, "it may have been something else: a draft model, say"


def test_a_header_with_millions_of_empty_texts_is_not_walked_through(tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"x", 9, 8, 1 << 40))
        file.truncate(1 << 32)  # all of it texts without a letter
    started = time.process_time()
    with pytest.raises(ModelFileError, match="tells of too many values"):
        header(path)
    assert time.process_time() - started < 5


def test_what_a_worker_would_have_and_could_is_told_by_the_file(tmp_path: Path) -> None:
    settings = BoardSettings(num_ctx=1024, num_slots=3)
    found = facts_of_files([DEMO.path], "m", settings)
    assert (found.num_ctx, found.num_slots, found.can) == (1024, 3, ("chat", "raw", "score", "tools", *OF_RELEASE))
    assert found.file == ModelFile("llama", "Q8_0", 3_836_672, 256, "", DEMO.path.stat().st_mtime)
    long = BoardSettings(num_ctx=4096, deterministic=True)
    assert facts_of_files([DEMO.path], "m", long).num_ctx == 2048, "what it was trained for"
    assert facts_of_files([DEMO.path], "m", long).num_slots == 1
    content = DEMO.path.read_bytes()
    template = str(header(DEMO.path).values["tokenizer.chat_template"])
    thinking = tmp_path / "thinking.gguf"
    thinking.write_bytes(content.replace(template.encode(), "{# </think> #}".ljust(len(template.encode())).encode()))
    assert facts_of_files([thinking], "m", settings).can == ("chat", "raw", "score", "tools", *OF_RELEASE, "thinking")
    none = tmp_path / "none.gguf"
    none.write_bytes(content.replace(b"tokenizer.chat_template", b"tokenizer.chat_temp_ate"))
    assert facts_of_files([none], "m", settings).can is None, "its vocabulary may have ChatML's tokens"
    asked = BoardSettings(chat_template="chatml")
    assert facts_of_files([none], "m", asked).can == ("chat", "raw", "score", "tools", *OF_RELEASE)


def test_a_vocabulary_with_the_marks_around_a_gap_tells_that_its_model_fills_it(tmp_path: Path) -> None:
    content, marks = DEMO.path.read_bytes(), (b"<PRE>", b"<SUF>", b"<MID>")
    at, end = header(DEMO.path).places[TOKENS_KEY]
    at += 12
    changed: list[slice] = []
    while len(changed) < len(marks) and at < end:
        (length,) = struct.unpack_from("<Q", content, at)
        if length == len(marks[0]):
            changed.append(slice(at + 8, at + 8 + length))
        at += 8 + length
    path = tmp_path / "infill.gguf"
    for place, mark in zip(changed, marks, strict=True):
        assert INFILL not in (facts_of_files([path if path.exists() else DEMO.path], "m", BoardSettings()).can or ())
        content = content[: place.start] + mark + content[place.stop :]
        path.write_bytes(content)
    assert facts_of_files([path], "m", BoardSettings()).can == ("chat", "raw", "score", "tools", *OF_RELEASE, INFILL)


@pytest.mark.parametrize(
    ("names", "is_told"),
    [
        (("fim_pre", "fim_suf", "fim_mid"), True),
        (("prefix", "suffix", "middle"), True),
        (("fim_pre", "suffix", "fim_mid"), True),
        (("fim_pre", "fim_suf"), False),
    ],
)
def test_marks_that_the_header_names_count_whatever_they_are_spelled_like(
    tmp_path: Path, names: tuple[str, ...], is_told: bool
) -> None:
    for number, expected in ((1, is_told), (2, False)):  # of two tokens
        writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
        writer.add_token_list(["a", "b"])
        for name in names:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        head = read_header(tmp_path / "m.gguf")
        assert has_infill_marks(tmp_path / "m.gguf", head) is expected


def test_a_file_is_looked_into_again_only_when_it_is_another(tmp_path: Path) -> None:
    settings = locked_copies(tmp_path, "a", "b")
    looked: list[str] = []

    def look_into(paths: Sequence[Path], model: str, settings: BoardSettings) -> FileFacts:
        looked.append(model)
        return facts_of_files(paths, model, settings)

    offers = Offers(settings, look_into)
    first = offers.look(1024 * MIB)
    assert offers.look(1024 * MIB) == first
    assert sorted(looked) == ["a", "b"]
    path = file_of(settings, "b")
    path.write_bytes(path.read_bytes())
    second = offers.look(1024 * MIB)
    assert sorted(looked) == ["a", "b", "b"]
    assert second["a"] == first["a"]
    assert second["b"].stamp != first["b"].stamp


def offer(model: str, num_bytes: int) -> Offer:
    plan = MemoryPlan(num_bytes, 0, 0, process=0)
    return Offer(model, f"sha-{model}", ((model, num_bytes, 0),), num_bytes, plan)


def test_what_is_too_large_for_the_board_says_so(tmp_path: Path) -> None:
    found = shared_out({"small": offer("small", 100 * MIB), "large": offer("large", 900 * MIB)}, 500 * MIB)
    assert found["small"].plan is not None
    assert found["large"].plan is None
    assert "takes 900 MiB, and this board has 500 MiB" in found["large"].reason


def test_conversations_share_what_is_kept_for_them() -> None:
    sizes = {name: offer(name, 100 * MIB) for name in "abcdefgh"}
    found = shared_out(sizes, 800 * MIB)
    # Six of eight fit beside a quarter for conversations, and those with their parts fill the board.
    assert {one.plan.offload_cache for one in found.values() if one.plan} == {200 * MIB // 6}
    assert 6 * found["a"].planned_bytes <= 800 * MIB
    asked = shared_out(sizes, 800 * MIB, 5 * MIB)
    assert {one.planned_bytes for one in asked.values()} == {105 * MIB}
    tight = shared_out({"a": offer("a", 790 * MIB)}, 800 * MIB)
    assert tight["a"].planned_bytes == 800 * MIB


def test_a_name_that_nobody_has_locked_is_told_with_what_may_have_been_meant(tmp_path: Path) -> None:
    settings = locked_copies(tmp_path, "llama", "qwen")
    wrong = msgspec.structs.replace(settings, model=("llama", "lama"))
    with pytest.raises(UnknownModel, match=r"lama is not in .*, which has: llama, qwen \(did you mean llama\?\)"):
        Offers(wrong).look(512 * MIB)


def test_of_all_that_are_locked_what_is_left_out_is_told_with_the_reason(tmp_path: Path) -> None:
    settings = locked_copies(tmp_path, "a", "gone", "cut")
    file_of(settings, "gone").unlink()
    cut = file_of(settings, "cut")
    cut.write_bytes(cut.read_bytes()[:-5])
    offers = Offers(settings)
    found = offers.look(512 * MIB)
    assert {name: one.plan is not None for name, one in found.items()} == {"a": True, "cut": False}
    assert list(offers.left_out) == ["gone"]
    assert "turnpike models pull gone" in offers.left_out["gone"]
    tight = Offers(settings).look(10 * MIB)
    assert "this board has 10 MiB for models" in tight["a"].reason
