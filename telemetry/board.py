"""The board: every temperature (an NVMe drive's too), fans, throttling, watts, wear of cards. By sysfs; by `vcgencmd`
where the firmware has no file. What is used of CPU, memory, disks and network: `telemetry/resources.py`.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from broker import points
from broker.messages import Point
from telemetry.files import Sources, as_number, number, text

VCGENCMD_TIMEOUT_SECONDS = 2.0
FIRMWARE_EVERY_SECONDS = 5.0
"""How often `vcgencmd` is forked, where it must be."""
THROTTLED_FILES = ("sys/devices/platform/soc/*firmware/get_throttled", "sys/devices/platform/*/*firmware/get_throttled")
THROTTLED_BITS = ("undervoltage", "frequency_capped", "throttled", "soft_temperature_limit")
SINCE_BOOT = 16
CELSIUS = (-55.0, 200.0)
"""What silicon can have; a Pi's zone now and then says -650,789."""
RPM = (0.0, 50_000.0)
"""A counter that is not connected says 65,535."""
WATTS = (0.0, 2_000.0)
LIFE = (1.0, 11.0)
"""Tenths, and 11 for "over"."""
PRE_END_OF_LIFE = (1, 2, 3)
"""Normal, warning, urgent."""
DEFINED_BITS = 32

_RAIL = re.compile(r"^\s*(?P<rail>\w+)_(?P<kind>[AV])\s+(?:current|volt)(?:\(\d+\))?=(?P<value>[0-9.]+)[AV]", re.M)
_THROTTLED = re.compile(r"^(?:throttled=)?(?:0x)?([0-9a-fA-F]+)$")


def pmic_watts(output: str) -> float | None:
    """The sum of volts × amperes of all rails of `vcgencmd pmic_read_adc` that have both; None when none has.

    The board's own total is higher: rails without a sensor, and what the regulators lose, are not in it.
    """
    volts, amperes = dict[str, float](), dict[str, float]()
    for match in _RAIL.finditer(output):
        into = volts if match["kind"] == "V" else amperes
        with contextlib.suppress(ValueError):
            into[match["rail"]] = float(match["value"])
    rails = volts.keys() & amperes.keys()
    return sum(volts[rail] * amperes[rail] for rail in rails) if rails else None


def throttled_bits(output: str) -> int | None:
    """From `throttled=0x50005` of vcgencmd, or the bare hexadecimal number of the sysfs file."""
    match = _THROTTLED.match(output.strip())
    bits = int(match[1], 16) if match else -1
    # All ones is an error that was read as a number.
    return bits if 0 <= bits < (1 << DEFINED_BITS) - 1 else None


class Vcgencmd:
    """The Raspberry Pi's firmware by its command, asked at most every few seconds as each answer is a fork."""

    def __init__(self, command: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = shutil.which(command) if command else None
        self._clock = clock
        self._asked_at = dict[str, float]()

    def ask(self, *arguments: str) -> str | None:
        """Its answer; None where it is not to be had, or was asked just now."""
        if self._path is None:
            return None
        now = self._clock()
        if now - self._asked_at.get(arguments[0], -FIRMWARE_EVERY_SECONDS) < FIRMWARE_EVERY_SECONDS:
            return None
        self._asked_at[arguments[0]] = now
        try:
            done = subprocess.run(
                [self._path, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=VCGENCMD_TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None


class Board:
    """The sensors under `root`, looked for once: a board does not grow any."""

    def __init__(self, root: Path, node: str, vcgencmd: Vcgencmd, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._sources = Sources()
        self._vcgencmd = vcgencmd
        self._clock = clock
        self._temperatures = _temperatures(root)
        self._fans = _fans(root)
        self._coolers = [
            folder
            for folder in _glob(root, "sys/class/thermal/cooling_device*")
            if "fan" in (text(folder / "type") or "")
        ]
        self._throttled_file = next((path for glob in THROTTLED_FILES for path in _glob(root, glob)), None)
        self._rapl = [
            folder
            for folder in _glob(root, "sys/class/powercap/intel-rapl:*")
            if (text(folder / "name") or "").startswith("package")
        ]
        self._joules: dict[Path, tuple[float, int]] = {}
        self._cards = _glob(root, "sys/block/mmcblk*")
        self.watts: float | None = None
        """What the node drew as of the last sample that knew."""
        self.is_estimated = False
        self.celsius: float | None = None
        """The hottest sensor's."""
        self.is_throttled: bool | None = None

    def points(self, now: int) -> list[Point | None]:
        """All that this board tells, at `now`, nanoseconds since the epoch; of each source by itself."""
        self.celsius = None
        return self._sources.points(
            (
                ("temperatures", lambda: self._heat(now)),
                ("fans", lambda: self._turning(now)),
                ("throttling", lambda: [self._throttling(now)]),
                ("pmic", lambda: [self._pmic(now)]),
                ("rapl", lambda: [self._drawn(now)]),
                ("wear", lambda: self._wear(now)),
            )
        )

    def _heat(self, now: int) -> list[Point | None]:
        found = [
            points.TEMPERATURE.point(now, self._tags(sensor=sensor), {"celsius": _within(CELSIUS, number(path), 1e-3)})
            for sensor, path in self._temperatures.items()
        ]
        self.celsius = max((float(one.fields["celsius"]) for one in found if one is not None), default=None)
        return found

    def _turning(self, now: int) -> list[Point | None]:
        found = [
            points.FAN.point(now, self._tags(fan=fan), {"rpm": _within(RPM, number(path))})
            for fan, path in self._fans.items()
        ]
        for folder in self._coolers:
            state, most = number(folder / "cur_state"), number(folder / "max_state")
            level = state / most if state is not None and most is not None and 0 <= state <= most != 0 else None
            found.append(
                points.FAN.point(now, self._tags(fan=text(folder / "type") or folder.name), {"level_ratio": level})
            )
        return found

    def _tags(self, **tags: str) -> dict[str, str]:
        return {"node": self._node, **tags}

    def _throttling(self, now: int) -> Point | None:
        output = text(self._throttled_file) if self._throttled_file else self._vcgencmd.ask("get_throttled")
        bits = throttled_bits(output) if output else None
        if bits is None:
            return None
        self.is_throttled = bool(bits >> THROTTLED_BITS.index("throttled") & 1)
        fields: dict[str, int | bool] = {"bits": bits}
        for bit, name in enumerate(THROTTLED_BITS):
            fields[name] = bool(bits >> bit & 1)
            fields[f"{name}_since_boot"] = bool(bits >> bit + SINCE_BOOT & 1)
        return points.THROTTLING.point(now, self._tags(), fields)

    def _pmic(self, now: int) -> Point | None:
        output = self._vcgencmd.ask("pmic_read_adc")
        watts = _within(WATTS, None if output is None else pmic_watts(output))
        if watts is None:
            return None
        self.watts, self.is_estimated = watts, True
        return points.POWER.point(now, self._tags(source="pmic"), {"watts": watts, "is_estimated": True})

    def _drawn(self, now: int) -> Point | None:
        drawn = [watts for folder in self._rapl if (watts := self._rapl_watts(folder)) is not None]
        if not drawn:
            return None
        self.watts, self.is_estimated = sum(drawn), False
        return points.POWER.point(now, self._tags(source="rapl"), {"watts": self.watts, "is_estimated": False})

    def _rapl_watts(self, folder: Path) -> float | None:
        """The mean since the last call, by the package's counter of microjoules, which wraps."""
        microjoules, now = number(folder / "energy_uj"), self._clock()
        if microjoules is None:
            return None
        before = self._joules.get(folder)
        self._joules[folder] = now, microjoules
        if before is None or now <= before[0]:
            return None
        drawn = microjoules - before[1]
        if drawn < 0:
            drawn += number(folder / "max_energy_range_uj") or 0
        # A counter that began anew looks like one that wrapped.
        return _within(WATTS, drawn, 1e-6 / (now - before[0]))

    def _wear(self, now: int) -> list[Point | None]:
        found = []
        for card in self._cards:
            lives = [_within(LIFE, as_number(part, 16)) for part in (text(card / "device/life_time") or "").split()]
            # Tenths of the life used, as JEDEC's eMMC 5.0 has it; 0 is "not defined".
            used = max((life for life in lives if life is not None), default=0) / 10
            level = number(card / "device/pre_eol_info", 16)
            level = level if level in PRE_END_OF_LIFE else None
            fields = {"used_ratio": used or None, "pre_end_of_life": level}
            found.append(points.WEAR.point(now, self._tags(device=card.name), fields))
        return found


def _within(limits: tuple[float, float], value: float | None, unit: float = 1.0) -> float | None:
    """The value in other units; None for what cannot be, as of a sensor that is not connected."""
    return value * unit if value is not None and limits[0] <= value * unit <= limits[1] else None


def _glob(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern))


def _temperatures(root: Path) -> dict[str, Path]:
    """By the sensor's name, a number behind it where several share one."""
    found = dict[str, Path]()
    for zone in _glob(root, "sys/class/thermal/thermal_zone*"):
        _add(found, text(zone / "type") or zone.name, zone / "temp")
    for path in _glob(root, "sys/class/hwmon/hwmon*/temp*_input"):
        _add(found, _monitored(path, "_input"), path)
    return found


def _fans(root: Path) -> dict[str, Path]:
    found = dict[str, Path]()
    for path in _glob(root, "sys/class/hwmon/hwmon*/fan*_input"):
        _add(found, _monitored(path, "_input"), path)
    return found


def _monitored(path: Path, suffix: str) -> str:
    """`nvme/Composite`: the chip's name and the input's label."""
    stem = path.name.removesuffix(suffix)
    return f"{text(path.parent / 'name') or path.parent.name}/{text(path.parent / f'{stem}_label') or stem}"


def _add(into: dict[str, Path], name: str, path: Path) -> None:
    number_of = 2
    unique = name
    while unique in into:
        unique, number_of = f"{name}-{number_of}", number_of + 1
    into[unique] = path
