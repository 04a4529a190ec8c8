from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker import hub
from broker.catalogue import Locked, Missing, WrongHash, verify
from broker.hub import DiskFull, HubError
from tests.hub_server import COMMIT, FILE, REPOSITORY, Cut, Hub, Refuse, serving

CONTENT = random.Random(0).randbytes(3_000_000)


@pytest.fixture
def server() -> Iterator[Hub]:
    with serving(CONTENT) as hub:
        yield hub


def locked(server: Hub, **other: object) -> Locked:
    fields = {"repository": REPOSITORY, "revision": COMMIT, "file": FILE, "sha256": server.sha256}
    return Locked(**(fields | {"size_bytes": len(CONTENT)} | other))  # type: ignore[arg-type]


def pull(server: Hub, folder: Path, waits: list[float] | None = None, **other: object) -> Path:
    """Without waiting for real: what would have been waited is in `waits`."""
    sleep = (waits if waits is not None else []).append
    return hub.pull("test", locked(server, **other), folder, endpoint=server.url, sleep=sleep)


def test_locking_finds_the_full_revision_and_the_hash(server: Hub) -> None:
    assert hub.lock(REPOSITORY, FILE, endpoint=server.url) == locked(server)


@pytest.mark.parametrize(
    ("repository", "file", "reason"),
    [
        ("turnpike/none", FILE, "no such repository"),
        (REPOSITORY, "other.gguf", "no such file"),
        (REPOSITORY, "README.md", "not a large file"),
    ],
)
def test_what_cannot_be_locked_is_one_sentence(server: Hub, repository: str, file: str, reason: str) -> None:
    with pytest.raises(HubError, match=reason) as error:
        hub.lock(repository, file, endpoint=server.url)
    assert "\n" not in str(error.value)


def test_a_gated_repository_says_what_to_do(server: Hub) -> None:
    server.faults.append(Refuse(403, {"X-Error-Code": "GatedRepo"}))
    with pytest.raises(HubError, match="accept its licence"):
        hub.lock(REPOSITORY, FILE, endpoint=server.url)


def test_what_was_pulled_is_not_asked_for_again(server: Hub, tmp_path: Path) -> None:
    path = pull(server, tmp_path)
    assert path.read_bytes() == CONTENT
    num_requests = server.num_requests
    assert pull(server, tmp_path) == path
    assert server.num_requests == num_requests
    assert list(tmp_path.iterdir()) == [path]


def test_ten_cuts_at_random_bytes_cost_nothing_twice(server: Hub, tmp_path: Path) -> None:
    rng = random.Random(1)
    server.faults.extend(Cut(rng.randrange(len(CONTENT) // 12)) for _ in range(10))
    path = pull(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.num_downloads == 11
    assert server.num_bytes_sent == len(CONTENT)


def test_a_pull_that_was_stopped_goes_on_where_it_was(server: Hub, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > 1_000_000:
            raise Stopped

    with pytest.raises(Stopped):
        hub.pull("test", locked(server), tmp_path, endpoint=server.url, on_progress=stop)
    (part,) = tmp_path.iterdir()
    have = part.stat().st_size
    assert have > 1_000_000
    first: list[int] = []
    path = hub.pull(
        "test", locked(server), tmp_path, endpoint=server.url, on_progress=lambda done, _: first.append(done)
    )
    assert path.read_bytes() == CONTENT
    assert first[0] > have


def test_a_server_without_ranges_is_read_from_the_start(server: Hub, tmp_path: Path) -> None:
    server.knows_ranges = False
    server.faults.append(Cut(100_000))
    assert pull(server, tmp_path).read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_removed(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(WrongHash, match="the lock file says 0000"):
        pull(server, tmp_path, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_altered_here_is_found_and_removed(server: Hub, tmp_path: Path) -> None:
    path = pull(server, tmp_path)
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(WrongHash):
        verify("test", locked(server), tmp_path)
    with pytest.raises(Missing, match="turnpike models pull test"):
        verify("test", locked(server), tmp_path)


def test_a_vanished_revision_is_one_sentence(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="no longer has this revision: lock again"):
        pull(server, tmp_path, revision="b" * 40)


def test_a_busy_server_is_waited_for_as_long_as_it_says(server: Hub, tmp_path: Path) -> None:
    waits: list[float] = []
    server.faults.extend([Refuse(429, {"Retry-After": "7"}), Refuse(503), Refuse(429, {"Retry-After": "a while"})])
    assert pull(server, tmp_path, waits).read_bytes() == CONTENT
    assert waits == [7.0, 1.0, 2.0]


def test_a_server_that_only_hangs_up_is_given_up(server: Hub, tmp_path: Path) -> None:
    waits: list[float] = []
    server.faults.extend([Cut(0)] * 100)
    with pytest.raises(HubError, match="gave up after 12 tries without a byte"):
        pull(server, tmp_path, waits)
    assert len(waits) == hub.MAX_TRIES - 1
    assert max(waits) <= hub.MAX_WAIT_SECONDS


def test_a_server_that_sends_more_than_was_locked_is_given_up(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"gave up|SHA-256"):
        pull(server, tmp_path, size_bytes=len(CONTENT) - 1)
    assert not list(tmp_path.glob("*.gguf"))


def test_nobody_at_the_address_is_one_sentence(tmp_path: Path) -> None:
    with serving(b"x") as gone:
        pass
    with pytest.raises(HubError, match="gave up after 12 tries"):
        pull(gone, tmp_path)


def test_a_full_disk_is_noticed_before_the_first_byte(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match=r"needs 1000000000\.00 GB"):
        pull(server, tmp_path, size_bytes=10**18)
    assert server.num_downloads == 0


# --- A model in several files ---

NAMES = [f"m-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
PARTS = [random.Random(number).randbytes(1_000_000 + number) for number in range(3)]


@pytest.fixture
def split(server: Hub) -> Locked:
    server.others = dict(zip(NAMES, PARTS, strict=True))
    return hub.lock(REPOSITORY, NAMES[0], endpoint=server.url)


def test_any_file_of_a_model_locks_all_of_them(server: Hub, split: Locked) -> None:
    assert [one.file for one in split.files] == NAMES
    assert (split.file, split.size_bytes, split.total_bytes) == (NAMES[0], len(PARTS[0]), sum(map(len, PARTS)))
    assert hub.lock(REPOSITORY, NAMES[2], endpoint=server.url) == split
    del server.others[NAMES[1]]
    with pytest.raises(HubError, match="is one of several files, and the repository has no m-00002-of-00003"):
        hub.lock(REPOSITORY, NAMES[0], endpoint=server.url)


def test_all_files_are_pulled_under_names_that_lead_to_each_other(server: Hub, split: Locked, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = hub.pull("test", split, tmp_path, endpoint=server.url, on_progress=lambda *at: told.append(at))
    assert [one.read_bytes() for one in split.paths_in(tmp_path, "test")] == PARTS
    assert path == split.path_in(tmp_path, "test")
    assert path.name.endswith("-00001-of-00003.gguf")
    assert (told == sorted(told), told[-1]) == (True, (split.total_bytes, split.total_bytes))
    num_requests = server.num_requests
    assert hub.pull("test", split, tmp_path, endpoint=server.url) == path
    assert server.num_requests == num_requests


def test_one_missing_or_changed_file_of_several_is_one_sentence_and_pulled_alone(
    server: Hub, split: Locked, tmp_path: Path
) -> None:
    hub.pull("test", split, tmp_path, endpoint=server.url)
    second = split.paths_in(tmp_path, "test")[1]
    second.write_bytes(PARTS[1][:-1] + b"x")
    with pytest.raises(WrongHash, match=r"^test: test-\w+-00002-of-00003.gguf: has SHA-256"):
        verify("test", split, tmp_path)
    with pytest.raises(Missing, match=r"^test: test-\w+-00002-of-00003.gguf is not in .*: turnpike models pull test$"):
        verify("test", split, tmp_path)
    num_downloads = server.num_downloads
    hub.pull("test", split, tmp_path, endpoint=server.url)
    assert verify("test", split, tmp_path) == split.path_in(tmp_path, "test")
    assert server.num_downloads == num_downloads + 1


def test_room_for_all_files_is_looked_for_before_the_first_byte(
    server: Hub, split: Locked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = hub.KEEP_FREE_BYTES + split.total_bytes - 1
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(DiskFull):
        hub.pull("test", split, tmp_path / "models", endpoint=server.url)
    assert server.num_downloads == 0


def test_a_wrong_file_that_may_not_be_removed_is_told_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Locked("o/r", "c" * 40, "m.gguf", "0" * 64, 5)
    path = wanted.path_in(tmp_path, "m")
    path.write_bytes(b"wrong")

    def refuse(_: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(WrongHash, match=r"^m: has SHA-256 .*: not removed \(Read-only file system\)$"):
        verify("m", wanted, tmp_path)
