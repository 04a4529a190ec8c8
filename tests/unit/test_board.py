"""Boards that are not here, from trees of their files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from broker.messages import FieldValue, Point
from telemetry.board import Board, Vcgencmd, pmic_watts, throttled_bits
from telemetry.cgroup import Cgroup
from telemetry.files import Sources
from telemetry.resources import Resources
from tests.trees import plant

PMIC = """\
 3V7_WL_SW_A current(0)=0.09759860A
   3V3_SYS_A current(1)=0.07319893A
   1V8_SYS_A current(2)=0.17665340A
  DDR_VDD2_A current(3)=0.02537563A
    VDD_CORE_A current(7)=1.91358000A
 3V7_WL_SW_V volt(8)=3.70654200V
   3V3_SYS_V volt(9)=3.31135000V
   1V8_SYS_V volt(10)=1.80036200V
  DDR_VDD2_V volt(11)=1.10989000V
    VDD_CORE_V volt(15)=0.87845900V
       EXT5V_V volt(24)=5.14640000V
        BATT_V volt(25)=0.00000000V
"""
"""`vcgencmd pmic_read_adc` in the format of the Pi 5's firmware, with fewer rails. Composed."""


@pytest.fixture(autouse=True)
def own_proc() -> Iterator[None]:
    yield
    psutil.PROCFS_PATH = "/proc"


def by_name(found: list[Point | None]) -> dict[tuple[str, ...], dict[str, FieldValue]]:
    """Fields by measurement and the tags behind the node."""
    return {
        (one.measurement, *(value for tag, value in one.tags.items() if tag != "node")): one.fields
        for one in found
        if one is not None
    }


def firmware(folder: Path, **answers: str) -> Vcgencmd:
    """A `vcgencmd` that says these things."""
    script = folder / "vcgencmd"
    cases = "".join(f"{name}) cat <<'END'\n{answer.rstrip()}\nEND\n;;\n" for name, answer in answers.items())
    script.write_text(f'#!/bin/sh\necho "$1" >>{folder}/asked\ncase "$1" in\n{cases}*) exit 1;;\nesac\n')
    script.chmod(0o755)
    return Vcgencmd(str(script))


def test_a_pi_5_with_cooler_and_drive(tmp_path: Path) -> None:
    root = plant("pi5", tmp_path / "root")
    resources = Resources(root, "pi", tmp_path)
    board = Board(root, "pi", firmware(tmp_path, get_throttled="throttled=0x0", pmic_read_adc=PMIC))
    resources.points(0)
    stat = root / "proc/stat"
    stat.write_text(stat.read_text().replace("cpu0 100000 50 15000 800000", "cpu0 100060 50 15020 800020"))
    found = by_name([*resources.points(1), *board.points(1)])
    ratios = {"busy_ratio": 0.8, "user_ratio": 0.6, "system_ratio": 0.2, "iowait_ratio": 0.0}
    assert found["cpu", "0"] == pytest.approx(ratios | {"frequency_hertz": 2.4e9})
    assert found["cpu", "all"]["frequency_hertz"] == 2.4e9
    assert found["system",] == {
        "load1": 3.52, "load5": 2.10, "load15": 1.05, "uptime_seconds": 93784.25, "num_cores": 4
    }  # fmt: skip
    assert found["memory",]["available_bytes"] == 6541312 * 1024
    assert found["memory",]["swap_used_bytes"] == (524272 - 510000) * 1024
    assert {key for key in found if key[0] == "disk"} == {("disk", "mmcblk0")}
    assert found["disk", "mmcblk0"] == {
        "read_bytes": 4000000 * 512, "written_bytes": 2000000 * 512, "busy_seconds": 60.0
    }  # fmt: skip
    assert {key for key in found if key[0] == "network"} == {("network", "eth0")}
    assert found["network", "eth0"]["num_errors"] == 4
    assert found["pressure", "node", "cpu"] == {
        "some_ratio": 0.125, "some_seconds": 81.0, "full_ratio": 0.0, "full_seconds": 0.0
    }  # fmt: skip
    assert found["temperature", "cpu-thermal"] == {"celsius": 61.7}
    assert found["temperature", "nvme/Composite"] == {"celsius": 43.85}
    assert found["fan", "pwmfan/fan1"] == {"rpm": 3187.0}
    assert found["fan", "pwm-fan"] == {"level_ratio": 0.5}
    assert found["throttling",]["bits"] == 0
    watts = 0.09759860 * 3.706542 + 0.07319893 * 3.31135 + 0.1766534 * 1.800362 + 0.02537563 * 1.10989
    watts += 1.91358 * 0.878459
    assert found["power", "pmic"] == {"watts": pytest.approx(watts), "is_estimated": True}
    assert not any(key[0] == "wear" for key in found), "an SD card tells nothing of its wear"


def test_the_firmwares_command_is_forked_every_few_seconds_at_most(tmp_path: Path) -> None:
    root = plant("pi5", tmp_path / "root")
    now = 100.0
    command = firmware(tmp_path, get_throttled="throttled=0x0", pmic_read_adc=PMIC)
    command._clock = lambda: now
    board = Board(root, "pi", command)
    for _ in range(20):
        now += 0.5
        board.points(1)
    assert (tmp_path / "asked").read_text().split().count("pmic_read_adc") == 2


def test_a_pi_4_that_throttles_says_so_without_a_fork(tmp_path: Path) -> None:
    board = Board(plant("pi4_throttled", tmp_path), "pi", Vcgencmd(None))
    found = by_name(board.points(1))
    assert found["throttling",] == {
        "bits": 0x50005,
        "undervoltage": True,
        "frequency_capped": False,
        "throttled": True,
        "soft_temperature_limit": False,
        "undervoltage_since_boot": True,
        "frequency_capped_since_boot": False,
        "throttled_since_boot": True,
        "soft_temperature_limit_since_boot": False,
    }
    assert found["wear", "mmcblk0"] == {"used_ratio": 0.3, "pre_end_of_life": 1}
    assert found["temperature", "cpu-thermal"] == {"celsius": 82.3}


@pytest.mark.parametrize(
    ("output", "bits"),
    [("throttled=0x50005\n", 0x50005), ("50005\n", 0x50005), ("0", 0), ("error=1", None), ("", None)],
)
def test_both_formats_of_the_throttled_bits(output: str, bits: int | None) -> None:
    assert throttled_bits(output) == bits


def test_rails_without_a_current_or_a_voltage_are_left_out() -> None:
    assert pmic_watts("EXT5V_V volt(24)=5.1V\n") is None
    assert pmic_watts("") is None
    assert pmic_watts("A_A current(0)=2.0A\nA_V volt(1)=1.5V\nB_A current(2)=9A\n") == 3.0


def test_rapl_is_a_mean_and_its_counter_wraps(tmp_path: Path) -> None:
    root = plant("x86_rapl_cgroup_v2", tmp_path)
    now = 10.0
    board = Board(root, "x", Vcgencmd(None), clock=lambda: now)
    assert ("power", "rapl") not in by_name(board.points(1))
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    counter.write_text(str(int(counter.read_text()) + 24_000_000 - 262_143_328_850))
    now += 2.0
    assert by_name(board.points(2))["power", "rapl"] == {"watts": 12.0, "is_estimated": False}
    assert {key[1] for key in by_name(board.points(3)) if key[0] == "temperature"} == {
        "coretemp/Package id 0",
        "coretemp/Package id 0-2",
    }


def test_a_cgroup_v2_of_a_pod(tmp_path: Path) -> None:
    found = by_name(Cgroup(plant("pi5", tmp_path), "self").points(1, "pi", "w", "pod"))
    assert found["cgroup", "pod", "w"] == {
        "cpu_seconds": 120.5,
        "throttled_seconds": 0.75,
        "cpu_limit_cores": 3.5,
        "memory_bytes": 1503238553,
        "memory_limit_bytes": 4 * 2**30,
        "num_oom_kills": 1,
    }
    assert found["pressure", "pod", "memory"]["some_ratio"] == 0.0125


def test_a_cgroup_without_limits_has_none(tmp_path: Path) -> None:
    fields = Cgroup(plant("x86_rapl_cgroup_v2", tmp_path), "self").fields()
    assert (fields["cpu_limit_cores"], fields["memory_limit_bytes"]) == (None, None)
    assert fields["cpu_seconds"] == 5.0


def test_a_cgroup_v1(tmp_path: Path) -> None:
    root = plant("vm_cgroup_v1", tmp_path)
    group = Cgroup(root, "self")
    assert not group.is_v2
    fields = group.fields()
    assert fields["memory_limit_bytes"] is None
    assert float(fields["cpu_seconds"] or 0) > 1000
    assert int(fields["memory_bytes"] or 0) > 2**20
    (root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("150000")
    (root / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("1000000")
    fields = group.fields()
    assert (fields["cpu_limit_cores"], fields["memory_limit_bytes"]) == (1.5, 1000000)


def test_what_a_board_lacks_is_absent(tmp_path: Path) -> None:
    root = plant("vm_cgroup_v1", tmp_path)
    found = by_name([*Resources(root, "vm").points(1), *Board(root, "vm", Vcgencmd(None)).points(1)])
    assert {key[0] for key in found} == {"cpu", "system", "memory", "disk", "network", "pressure"}
    assert "frequency_hertz" not in found.get(("cpu", "0"), {})


def test_a_cgroup_path_does_not_lead_out_of_its_mount(tmp_path: Path) -> None:
    root = plant("pi5", tmp_path)
    (root / "proc/self/cgroup").write_text("0::/../../../proc\n")
    assert Cgroup(root, "self").fields()["cpu_seconds"] == 4615.0


def test_a_core_that_is_offline_has_no_point_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    root = plant("pi4_core_offline", tmp_path)
    resources = Resources(root, "pi")
    first = by_name(resources.points(0))
    assert first["cpu", "3"] == pytest.approx(
        {"busy_ratio": 0.4, "user_ratio": 0.4, "system_ratio": 0.0, "iowait_ratio": 0.0, "frequency_hertz": 1.5e9}
    ), "the first time since boot"
    stat = root / "proc/stat"
    stat.write_text(
        stat.read_text().replace("cpu1 200 0 0 800", "cpu1 300 0 0 800").replace("cpu3 400 0 0 600", "cpu3 400 0 0 700")
    )
    found = by_name(resources.points(1))
    cores = {key[1]: fields for key, fields in found.items() if key[0] == "cpu"}
    assert cores.keys() == {"all", "0", "1", "3"}
    assert "busy_ratio" not in cores["0"], "it was not told anything new"
    assert (cores["1"]["busy_ratio"], cores["3"]["busy_ratio"]) == (1.0, 0.0)
    assert (cores["3"]["frequency_hertz"], cores["all"]["frequency_hertz"]) == (1.5e9, 1.7e9)
    assert found["system",]["num_cores"] == 3
    stat.write_text(stat.read_text().replace("cpu3", "cpu2 50 0 0 50 0 0 0 0 0 0\ncpu3"))
    back = by_name(resources.points(2))
    assert back["cpu", "2"] == {"frequency_hertz": 0.6e9}, "a core that comes back has no sample before"


def test_an_odd_line_costs_what_it_tells(tmp_path: Path) -> None:
    root = plant("lxc_odd_files", tmp_path)
    found = by_name([*Resources(root, "n", tmp_path).points(1), *Board(root, "n", Vcgencmd(None)).points(1)])
    assert {key for key in found if key[0] == "disk"} == {("disk", "sda"), ("disk", "cciss!c0d0")}
    assert found["disk", "sda"] == {"read_bytes": 22 * 512, "written_bytes": 55 * 512, "busy_seconds": 0.077}
    assert found["system",] == {"load1": 0.42, "load15": 0.6, "num_cores": 1}
    assert found["memory",]["available_bytes"] == 3011200 * 1024
    assert found["network", "eth0"] == {
        "received_bytes": 5_000_000, "sent_bytes": 3_000_000, "num_errors": 4, "num_dropped": 6
    }  # fmt: skip
    assert {key for key in found if key[0] == "cpu"} == {("cpu", "all"), ("cpu", "0")}
    assert {key: fields for key, fields in found.items() if key[0] == "pressure"} == {
        ("pressure", "node", "cpu"): {"some_ratio": 0.015, "some_seconds": 2.0}
    }
    assert found["temperature", "cpu-thermal"] == {"celsius": pytest.approx(48.312)}


def test_a_load_that_is_no_number_costs_itself(tmp_path: Path) -> None:
    root = plant("pi5", tmp_path)
    (root / "proc/loadavg").write_text("nan 1e999 0.5 1/2 3\n")
    system = by_name(Resources(root, "n", tmp_path).points(1))["system",]
    assert {name for name in system if name.startswith("load")} == {"load15"}
    assert "num_cores" in system


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"9" * 6000, b"-1\n", b"nan inf 1e999\n", b"a:b:c\n" * 3])
@pytest.mark.parametrize("tree", ["pi5", "pi4_throttled", "x86_rapl_cgroup_v2", "vm_cgroup_v1", "systemd_unit"])
def test_whatever_stands_in_a_file_the_other_sources_are_told(tmp_path: Path, tree: str, content: bytes) -> None:
    def sample() -> set[str]:
        resources, board = Resources(root, "n", tmp_path), Board(root, "n", Vcgencmd(None))
        resources.points(0)
        return {
            key[0]
            for key in by_name(
                [*resources.points(1), *board.points(1), *Cgroup(root, "self").points(1, "n", "w", "pod")]
            )
        }

    root = plant(tree, tmp_path / "root")
    whole = sample()
    for path in sorted(one for one in root.rglob("*") if one.is_file()):
        kept = path.read_bytes()
        path.write_bytes(content)
        assert len(whole - sample()) <= 1, path
        path.write_bytes(kept)


def test_a_source_that_fails_is_told_once_and_the_others_are_asked(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> list[Point | None]:
        raise PermissionError(13, "Permission denied")

    sources = Sources()
    for _ in range(3):
        assert sources.points([("a", fails), ("b", lambda: [None]), ("c", lambda: [None])]) == [None, None]
    (said,) = (record.getMessage() for record in caplog.records)
    assert said == "source failed name=a error=PermissionError: [Errno 13] Permission denied"


def test_what_no_silicon_can_have_is_absent(tmp_path: Path) -> None:
    board = Board(plant("pi3_wild_sensors", tmp_path), "pi", Vcgencmd(None))
    found = by_name(board.points(1))
    assert found == {
        ("temperature", "nct7802/temp2"): {"celsius": 41.5},
        ("fan", "nct7802/fan3"): {"rpm": 0.0},
        ("wear", "mmcblk1"): {"used_ratio": 0.2},
    }
    assert (board.celsius, board.is_throttled, board.watts) == (41.5, None, None)
    (tmp_path / "sys/class/hwmon/hwmon0/temp2_input").unlink()
    board.points(2)
    assert board.celsius is None


def test_what_a_container_does_not_show_is_absent_and_not_zero(tmp_path: Path) -> None:
    found = by_name(Resources(plant("container_without_vmstat", tmp_path), "n").points(1))
    assert found["memory",] == {"total_bytes": 2 * 2**30}
    assert found["system",] == {"load1": 0.42, "uptime_seconds": 12.5, "num_cores": 1}
    assert not any(key[0] in ("disk", "pressure") for key in found)


def test_pages_have_the_size_of_this_kernels(tmp_path: Path) -> None:
    memory = by_name(Resources(plant("pi4_core_offline", tmp_path), "n").points(1))["memory",]
    assert (memory["swapped_in_bytes"], memory["swapped_out_bytes"]) == (
        3 * os.sysconf("SC_PAGE_SIZE"),
        7 * os.sysconf("SC_PAGE_SIZE"),
    )


def test_the_limits_of_a_unit_are_the_tightest_of_its_own_and_its_slices(tmp_path: Path) -> None:
    fields = Cgroup(plant("systemd_unit", tmp_path), "self").fields()
    assert (fields["memory_limit_bytes"], fields["cpu_limit_cores"]) == (800 * 2**20, 1.5)
    assert (fields["memory_bytes"], fields["cpu_seconds"]) == (100 * 2**20, 5.0)


@pytest.mark.parametrize("output", ["EXT5V_V volt(24)=5.1.4V\nEXT5V_A current(1)=1A\n", "3V_A current(0)=1e9A\n"])
def test_a_rail_that_is_garbled_is_left_out(output: str) -> None:
    assert pmic_watts(output) is None
