"""Files from the Hugging Face hub, at a pinned revision, verified. The only importer of huggingface_hub.

Names, addresses, tokens and errors are the library's, the transfer is ours: the library's own drops what it has when it
fails, where this goes on, also in another process (`….part`), and Xet's keeps hundreds of megabytes in flight, which a
Pi does not have to spare.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from broker.catalogue import FileError, Locked, LockedFile, Missing, WrongHash, sha256_of, verify_file
from broker.hub_choice import chosen
from broker.locks import CannotLock, Lock
from broker.mirror import MirrorFailed, OnProgress, fetch_from_mirror

KEEP_FREE_BYTES = 512 * 1024 * 1024
_PART = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")
MAX_FILES = 1000
MAX_TRIES = 12
"""Without a byte of progress; each that brings some starts the count again."""
FIRST_WAIT_SECONDS = 0.5
MAX_WAIT_SECONDS = 30.0
MAX_PATIENCE_SECONDS = 300.0
"""The longest Retry-After that is followed."""

log = logging.getLogger(__name__)


class HubError(FileError):
    """The hub did not give what was asked for."""


class DiskFull(HubError):
    """Not enough room."""

    def __init__(self, what: str, needed: int, free: int, folder: Path) -> None:
        self.needed = needed
        self.free = free
        super().__init__(
            what,
            f"needs {needed / 1e9:.2f} GB and {KEEP_FREE_BYTES / 1e9:.1f} to spare, "
            f"{folder} has {free / 1e9:.2f} GB free",
        )


def lock(
    repository: str, file: str, *, revision: str = "main", kind: str = "model", endpoint: str | None = None
) -> Locked:
    """What the hub has under that name just now: full revision, SHA-256 and size. Raises HubError."""
    what = f"{repository}/{file}"
    info = _info(what, repository, revision, kind, endpoint)
    sizes = {sibling.rfilename: sibling.lfs for sibling in info.siblings or []}
    if file not in sizes:
        raise HubError(what, f"the repository has no such file at {revision}")
    found = [_locked_file(what, name, sizes) for name in files_of(file)]
    first = found[0]
    return Locked(
        repository,
        info.sha,
        first.file,
        first.sha256,
        first.size_bytes,
        "dataset" if kind == "dataset" else "model",
        tuple(found) if len(found) > 1 else (),
    )


def choose(repository: str, *, revision: str = "main", endpoint: str | None = None) -> str:
    """The file of a repository's one model, or of the one that is usually meant. Raises ChooseAFile, HubError."""
    info = _info(repository, repository, revision, "model", endpoint)
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    return chosen(repository, sizes, {name: files_of(name) for name in sizes})


def _info(what: str, repository: str, revision: str, kind: str, endpoint: str | None) -> Any:
    """What the hub says of a repository; `what` is what errors name."""
    api = HfApi(endpoint=endpoint)
    ask: Callable[..., Any] = api.dataset_info if kind == "dataset" else api.model_info
    try:
        with _explained(what):
            return ask(repository, revision=revision, files_metadata=True)
    except _Retry as error:  # the library has tried again by itself
        raise HubError(what, error.reason) from None


def files_of(file: str) -> list[str]:
    """The files of a model of which one is given, by its name: NAME-00001-of-00003.gguf and so on; else it alone."""
    named = _PART.fullmatch(file)
    count = int(named[2]) if named else 1
    if named is None or not 1 < count <= MAX_FILES:
        return [file]
    return [f"{named[1]}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def _locked_file(what: str, name: str, sizes: dict[str, Any]) -> LockedFile:
    if name not in sizes:
        raise HubError(what, f"is one of several files, and the repository has no {name}")
    if sizes[name] is None:
        raise HubError(what, "is not a large file of the hub's, which alone have a SHA-256 there")
    return LockedFile(name, sizes[name]["sha256"], sizes[name]["size"])


def pull(
    token: str,
    wanted: Locked,
    folder: Path,
    *,
    endpoint: str | None = None,
    mirrors: Sequence[str] = (),
    on_progress: OnProgress = lambda done, total: None,
    sleep: Callable[[float], None] = time.sleep,
    wait_seconds: float = 0.0,
) -> Path:
    """The file, or all files of a model that was split, fetched unless they are there, and verified; the first's path.

    No request is made for what is there. `mirrors` are asked first (broker/mirror.py), then the hub; whoever is asked
    goes on where the one before stopped. Another process that fetches the same file is waited for, for `wait_seconds`.
    Raises InUse while it does, DiskFull before the first byte, WrongHash after the last, Missing when offline, HubError
    for all else.
    """
    paths, each = wanted.paths_in(folder, token), wanted.each
    if len(each) > 1:
        missing = sum(
            one.size_bytes - _size(_part_of(path)) for path, one in zip(paths, each, strict=True) if not path.exists()
        )
        _make_sure_of_room(token, missing, folder)
    before = 0
    for path, one in zip(paths, each, strict=True):

        def told(done: int, _: int, before: int = before) -> None:
            on_progress(before + done, wanted.total_bytes)

        _pull_file(token, one, path, mirrors, endpoint, told, sleep, wait_seconds)
        before += one.size_bytes
    return paths[0]


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _pull_file(
    token: str,
    wanted: Locked,
    path: Path,
    mirrors: Sequence[str],
    endpoint: str | None,
    on_progress: OnProgress,
    sleep: Callable[[float], None],
    wait_seconds: float,
) -> None:
    """One file; raises as `pull`."""
    folder = path.parent
    if path.exists():
        verify_file(token, wanted, path)
        return
    if constants.is_offline_mode() and not mirrors:
        raise Missing(token, f"{path.name} is not in {folder} and HF_HUB_OFFLINE forbids to fetch it")
    part = _part_of(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held: contextlib.AbstractContextManager[object] = Lock.of(
            part,
            f"the file that {token} is fetched into,",
            wait_seconds=wait_seconds,
            while_waiting=lambda: on_progress(_size(part), wanted.size_bytes),
        )
    except OSError as error:
        raise HubError(token, f"{error.filename or folder}: {error.strerror or error}") from None
    except CannotLock as error:
        if not error.is_for_want_of_locks:
            raise HubError(token, str(error)) from None
        # A folder that several nodes share, without locks. The hash tells what two at once would make of it.
        log.warning("not locked error=%s", error)
        held = contextlib.nullcontext()
    with held:
        if path.exists():  # whoever was waited for has brought it
            verify_file(token, wanted, path)
            return
        _bring(token, wanted, part, mirrors, endpoint, on_progress, sleep)
        part.replace(path)


def _make_sure_of_room(token: str, needed: int, folder: Path) -> None:
    """Raises DiskFull."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free
    if needed > 0 and needed + KEEP_FREE_BYTES > free:
        raise DiskFull(token, needed, free, folder)


def _bring(
    token: str,
    wanted: Locked,
    part: Path,
    mirrors: Sequence[str],
    endpoint: str | None,
    on_progress: OnProgress,
    sleep: Callable[[float], None],
) -> None:
    """Brings `part` to its full size and makes sure of its bytes; raises as `pull`."""
    _make_sure_of_room(token, wanted.size_bytes - _size(part), part.parent)
    for url in mirrors:
        try:
            if fetch_from_mirror(url, wanted, part, on_progress):
                return
        except MirrorFailed as error:
            log.warning("mirror left model=%s error=%s", token, error)
    if constants.is_offline_mode():
        raise Missing(token, f"no mirror gave {part.stem} and HF_HUB_OFFLINE forbids to fetch it")
    if not wanted.repository:
        raise Missing(token, f"{wanted.file} was added on another node, and no mirror gave it")
    _fetch(token, wanted, part, endpoint, on_progress, sleep)
    found = sha256_of(part)
    if found != wanted.sha256:
        part.unlink()
        raise WrongHash(token, wanted.sha256, found)


class _Retry(Exception):
    """What may be better a moment later; `after` is the server's own word on when."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        self.reason = reason
        self.after = after
        super().__init__(reason)


def _fetch(
    token: str,
    wanted: Locked,
    part: Path,
    endpoint: str | None,
    on_progress: OnProgress,
    sleep: Callable[[float], None],
) -> None:
    """Brings `part` to its full size, through cuts, refusals and silences."""
    repo_type = "dataset" if wanted.kind == "dataset" else None
    url = hf_hub_url(wanted.repository, wanted.file, revision=wanted.revision, repo_type=repo_type, endpoint=endpoint)
    tries, wait = 0, FIRST_WAIT_SECONDS
    while True:
        have = _size(part)
        if have > wanted.size_bytes:
            part.unlink()  # it is of something else
            have = 0
        if have == wanted.size_bytes:
            return
        try:
            with _explained(token):
                _get(url, part, have, wanted.size_bytes, on_progress)
            retry = _Retry("the transfer ended early")
        except _Retry as error:
            retry = error
        if _size(part) > have:
            tries, wait = 0, FIRST_WAIT_SECONDS
            continue
        tries += 1
        if tries >= MAX_TRIES:
            raise HubError(token, f"gave up after {tries} tries without a byte: {retry.reason}")
        sleep(wait if retry.after is None else min(retry.after, MAX_PATIENCE_SECONDS))
        wait = min(2 * wait, MAX_WAIT_SECONDS)


def _get(url: str, part: Path, have: int, size: int, on_progress: OnProgress) -> None:
    """One request for what is missing; what arrives is written at once, so that a cut costs nothing."""
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            raise _Retry("the server has fewer bytes than we do")
        hf_raise_for_status(response)
        is_rest = response.status_code == 206
        have = have if is_rest else 0
        with part.open("ab" if is_rest else "wb", buffering=0) as file:
            for data in response.iter_bytes():
                if have + len(data) > size:
                    raise _Retry("the server sent more than the lock file says")
                file.write(data)
                have += len(data)
                on_progress(have, size)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """The library's errors as one sentence, and as `_Retry` where another try may help."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise Missing(what, "HF_HUB_OFFLINE forbids to ask the hub") from None
    except GatedRepoError:
        raise HubError(what, "is gated: accept its licence on its page and set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise HubError(what, "the hub no longer has this revision: lock again") from None
    except RepositoryNotFoundError:
        raise HubError(what, "the hub has no such repository, or it is private: set HF_TOKEN") from None
    except EntryNotFoundError:
        raise HubError(what, "the repository has no such file") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (408, 429) or status >= 500:
            raise _Retry(f"HTTP {status}", _seconds(error.response.headers.get("Retry-After"))) from None
        raise HubError(what, f"the hub refuses: HTTP {status}") from None
    except httpx2.TransportError as error:
        raise _Retry(f"{type(error).__name__} {error}".strip()) from None
    except OSError as error:
        raise HubError(what, str(error)) from None


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; its other form, a date, is left to our own patience."""
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None
