from __future__ import annotations

from pathlib import Path

import pytest

from tests.trees import plant
from workers.machine.memory import (
    RESERVE_BYTES,
    DoesNotFit,
    DraftSize,
    KvShape,
    available_bytes,
    check_memory,
    plan_memory,
)

TINYLLAMA = KvShape(22, 22528, 2048, 32000, 32, 5632)
GIB, MIB = 2**30, 2**20


def check(available: int, num_ctx: int = 8192) -> int:
    plan = check_memory(
        TINYLLAMA,
        weight_bytes=636_795_168,
        num_ctx=num_ctx,
        num_ubatch=256,
        max_outputs=32,
        flash_attention=True,
        available=available,
    )
    return plan.total


def test_the_kv_cache_counts_as_measured() -> None:
    plan = plan_memory(TINYLLAMA, weight_bytes=0, num_ctx=1000, num_ubatch=256, max_outputs=32, flash_attention=True)
    assert plan.kv == pytest.approx(23e6, rel=0.03)


def test_what_fits_is_planned() -> None:
    assert check(8 * GIB) < 1.2 * GIB


def test_a_refusal_names_the_largest_context_that_would_fit() -> None:
    with pytest.raises(DoesNotFit, match="the largest context that fits is") as caught:
        check(GIB, num_ctx=100_000)
    largest = caught.value.max_ctx
    assert 0 < largest < 100_000
    check(GIB, num_ctx=largest)
    with pytest.raises(DoesNotFit):
        check(GIB, num_ctx=largest + 256)


def test_a_machine_too_small_for_the_weights_is_told_so() -> None:
    with pytest.raises(DoesNotFit, match="no context fits"):
        check(GIB // 4)


def test_the_plan_is_told_by_its_parts_and_without_what_may_be_parked() -> None:
    plan = check_memory(
        TINYLLAMA,
        weight_bytes=463 * 2**20,
        num_ctx=1024,
        num_ubatch=256,
        max_outputs=32,
        flash_attention=True,
        available=16 * GIB,
        offload_cache=None,
    )
    told = plan.describe()
    assert told.startswith(f"planned={round((plan.total - plan.offload_cache) / 2**20)}MiB (weights=463MiB kv=22MiB ")
    assert told.endswith(f"parked conversations up to {round(plan.offload_cache / 2**20)}MiB more")
    assert "grammars 71MiB more once there is one" in told
    assert plan.total == plan.weights + plan.kv + plan.compute + plan.process + plan.offload_cache
    assert plan.offload_cache > 3 * GIB
    assert f"kept free {round(plan.reserve / 2**20)}MiB" in told


def test_what_is_kept_free_is_no_part_of_what_is_predicted() -> None:
    total = check(8 * GIB)
    plan = plan_memory(
        TINYLLAMA, weight_bytes=636_795_168, num_ctx=8192, num_ubatch=256, max_outputs=32, flash_attention=True
    )
    assert total == plan.total == plan.needed - RESERVE_BYTES
    assert check(plan.needed) == total
    with pytest.raises(DoesNotFit, match="kept free 64"):
        check(plan.needed - 1)


def test_a_draft_model_is_planned_told_and_refused_with_what_it_takes() -> None:
    draft = DraftSize(KvShape(24, 12288, 896, 151_936, 14, 4864, num_merges=151_387), 400 * MIB)
    options = {"weight_bytes": 986 * MIB, "num_ubatch": 256, "max_outputs": 32, "flash_attention": True}
    alone = plan_memory(TINYLLAMA, num_ctx=8192, **options)  # type: ignore[arg-type]
    both = plan_memory(TINYLLAMA, num_ctx=8192, draft=draft, **options)  # type: ignore[arg-type]
    # Weights, 8,192 cells of 12 KiB, 46 MiB of vocabulary, logits.
    assert both.draft == pytest.approx((400 + 96 + 46 + 37) * MIB, rel=0.05)
    assert both.total == alone.total + both.draft
    assert f" draft={round(both.draft / MIB)}MiB), kept free" in both.describe()
    assert "draft" not in alone.describe()
    with pytest.raises(DoesNotFit, match=r"draft model \d+, parking") as caught:
        check_memory(TINYLLAMA, num_ctx=8192, draft=draft, available=both.needed - 1, **options)  # type: ignore[arg-type]
    largest = caught.value.max_ctx
    assert 4096 < largest < 8192
    check_memory(TINYLLAMA, num_ctx=largest, draft=draft, available=both.needed - 1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("window", "state", "parked", "expected"),
    [
        (0, 0, GIB, 0),
        # Six a slot, for eight slots, of 512 tokens of 15 KiB: more than their share of little, and all of it of much.
        (512, 0, 8 * MIB, 2 * MIB),
        (512, 0, 4 * GIB, 6 * 8 * 512 * 15 * 1024),
        (0, 4 * MIB, 4 * GIB, 6 * 8 * 4 * MIB),
    ],
)
def test_checkpoints_have_a_share_of_what_may_be_parked_by_their_kind(
    window: int, state: int, parked: int, expected: int
) -> None:
    shape = KvShape(18, 3072, 640, 1024, 4, 2048, window, 15 * 1024 if window else 0, state)
    plan = plan_memory(
        shape, weight_bytes=0, num_ctx=8192, num_ubatch=256, max_outputs=32, flash_attention=True, offload_cache=parked
    )
    assert plan.checkpoints == expected
    assert ("for checkpoints" in plan.describe()) == bool(expected)


def test_a_vocabulary_takes_memory_by_its_tokens_and_merges() -> None:
    # By PSS of a process that has only loaded it: Qwen2.5's, with merges, and Gemma 3's, without.
    qwen, gemma = (
        KvShape(1, 0, 1, tokens, 1, 1, num_merges=merges) for tokens, merges in [(151_936, 151_387), (262_144, 0)]
    )
    base = KvShape(1, 0, 1, 0, 1, 1).process_bytes
    assert qwen.process_bytes - base == pytest.approx(45.8 * MIB, rel=0.05)
    assert gemma.process_bytes - base == pytest.approx(40.8 * MIB, rel=0.05)


@pytest.mark.parametrize(("num_vocab", "measured"), [(1_536, 51 * MIB), (262_144, 225 * MIB)])
def test_what_grammars_take_besides_is_told_as_measured(num_vocab: int, measured: int) -> None:
    shape = KvShape(22, 22528, 2048, num_vocab, 32, 5632)
    plan = plan_memory(shape, weight_bytes=0, num_ctx=1024, num_ubatch=256, max_outputs=32, flash_attention=True)
    assert plan.grammars == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4 * GIB),
        ({"memory.max": "max", "memory.current": "5"}, 4 * GIB),
        ({"memory.max": str(2 * GIB), "memory.current": str(GIB)}, GIB),
        ({"memory/memory.limit_in_bytes": str(3 * GIB), "memory/memory.usage_in_bytes": str(GIB)}, 2 * GIB),
    ],
)
def test_the_cgroups_limit_counts_where_it_is_lower(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {4 * GIB // 1024} kB\n")
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert available_bytes(tmp_path, tmp_path / "cgroup") == expected


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        # limit − (current − (file − shmem))
        ("pod_page_cache_v2", 2 * GIB - (3 * GIB // 2 - (7 * GIB // 5 - 100 * MIB))),
        ("pod_page_cache_v1", 2 * GIB - (3 * GIB // 2 - (7 * GIB // 5 - 100 * MIB))),
        # The slice has 800 MiB, of which 300 − (50 − 10) are used; the unit would have 964.
        ("systemd_unit", 540 * MIB),
    ],
)
def test_page_cache_is_free_and_the_tightest_group_counts(tmp_path: Path, tree: str, expected: int) -> None:
    root = plant(tree, tmp_path)
    assert available_bytes(root / "proc", root / "sys/fs/cgroup") == expected


@pytest.mark.parametrize(
    "groups", ["0::/../../elsewhere", "0::/not/there", "nonsense", "", "1:name=systemd:/x\n0::/unit\n", "\x00::::"]
)
def test_a_path_that_leads_nowhere_leaves_the_mounts_own_limit(tmp_path: Path, groups: str) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "cgroup/unit").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: many kB\n")
    (tmp_path / "proc/self/cgroup").write_text(groups)
    (tmp_path / "cgroup/memory.max").write_text(str(GIB))
    (tmp_path / "cgroup/memory.current").write_text(str(GIB // 4))
    (tmp_path / "cgroup/memory.stat").write_text("file\nfile x\nanon 5\n")
    assert available_bytes(tmp_path / "proc", tmp_path / "cgroup") == GIB - GIB // 4
