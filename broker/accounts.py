"""Users of the embedded server and the files that hold their credentials. Nothing here is ever printed or logged."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from broker import subjects
from broker.connection import Address
from broker.errors import SettingsError, TurnpikeError
from broker.locks import Lock
from broker.permissions import ROLES, permissions

OPERATOR = "operator"
WORKER = "worker"
BOARD = "board"
LOCAL = "local"
SIDECAR = "sidecar"
GATEWAY = "gateway"
REAPER = "reaper"
DEFAULTS = (
    (OPERATOR, "operator"),
    (WORKER, "worker"),
    (BOARD, "board"),
    (SIDECAR, "sidecar"),
    (GATEWAY, "gateway"),
    (LOCAL, "producer"),
    (REAPER, "reaper"),
)


API_KEY_PREFIX = "sk-turnpike-"


def api_key_digest(key: str) -> str:
    """What a file of a gateway's keys holds of one."""
    return hashlib.sha256(key.encode()).hexdigest()


class Account(Struct, frozen=True):
    """A NATS user. `name` is also the client's name in subjects."""

    name: str
    role: str
    password: str

    def __repr__(self) -> str:
        return f"Account(name={self.name!r}, role={self.role!r})"


CHANGE_SECONDS = 30.0
"""How long a change of the accounts waits for another one, or for a broker that starts with them."""


class Accounts:
    """The users in one file, mode 0600, in a folder of mode 0700. Those that every broker has come first."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "accounts.json"
        make_folder(folder)
        self._accounts = self._read()

    def changing(self) -> Lock:
        """Nobody else changes accounts or passwords until it is released. Blocks; raises InUse, CannotLock."""
        what = f"the list of accounts in {self._path.parent}"
        return Lock(self._path.with_name("accounts.lock"), what, wait_seconds=CHANGE_SECONDS)

    def refresh(self) -> None:
        """Takes up what other processes have added."""
        self._accounts = self._read() or self._accounts

    def _read(self) -> dict[str, Account]:
        if not self._path.exists():
            return {}
        return {account.name: account for account in _decoded(self._path, list[Account])}

    def ensure_defaults(self) -> None:
        """Makes the accounts that every broker has, where they are missing."""
        if all(name in self._accounts for name, _ in DEFAULTS):
            return
        with self.changing():
            self.refresh()
            for name, role in DEFAULTS:
                if name not in self._accounts:
                    self._add(name, role)

    def add(self, name: str, role: str = "producer") -> Account:
        """A new user with a random password; raises TurnpikeError when the name is taken."""
        with self.changing():
            self.refresh()
            return self._add(name, role)

    def _add(self, name: str, role: str) -> Account:
        if subjects.token(name, "user") in self._accounts:
            raise TurnpikeError(f"user {name!r} exists already")
        if role not in ROLES:
            raise TurnpikeError(f"role {role!r} is none of {', '.join(ROLES)}")
        account = Account(name, role, secrets.token_urlsafe(32))
        self._accounts[name] = account
        write_private(self._path, msgspec.json.encode(list(self._accounts.values())))
        return account

    def password_of(self, service: str) -> str:
        """Of what is no NATS user but belongs to the same cluster; made the first time that it is asked for."""
        path = self._path.with_name("passwords.json")
        with self.changing():
            known = _decoded(path, dict[str, str]) if path.exists() else {}
            if service not in known:
                known[service] = secrets.token_urlsafe(32)
                write_private(path, msgspec.json.encode(known))
        return known[service]

    def __getitem__(self, name: str) -> Account:
        if name not in self._accounts:
            raise TurnpikeError(f"there is no user {name!r}: add it with `turnpike user add {name}`")
        return self._accounts[name]

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def server_users(self) -> list[dict[str, object]]:
        """The `authorization.users` of the server's configuration."""
        return [
            {
                "user": account.name,
                "password": account.password,
                "permissions": permissions(account.role, account.name),
            }
            for account in self._accounts.values()
        ]


def make_folder(folder: Path) -> None:
    """A folder of our own, mode 0700; raises TurnpikeError in one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise TurnpikeError(f"{error.filename or folder}: {error.strerror or error}") from None


def _decoded[T](path: Path, kind: type[T]) -> T:
    """What a file of ours holds; raises TurnpikeError in one line that names it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise TurnpikeError(f"{path}: {error.strerror or error}") from None
    except msgspec.DecodeError as error:
        raise TurnpikeError(f"{path} is damaged: {error}") from None


def write_private(path: Path, content: bytes) -> None:
    """Replaces a file by one that only its owner can read, whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def credentials(address: Address) -> bytes:
    """A credentials file that `--credentials` and TURNPIKE_CREDENTIALS take, and the `nats` tool as a context."""
    fields = {"url": address.url, "user": address.user, "password": address.password}
    fields |= {"inbox_prefix": subjects.inbox(address.user)} | ({"ca": address.ca} if address.ca else {})
    return json.dumps(fields, indent=1).encode() + b"\n"


def write_credentials(path: Path, address: Address) -> None:
    """Writes a credentials file, mode 0600."""
    write_private(path, credentials(address))


class _Credentials(Struct, frozen=True):
    """What of a context of the `nats` tool is used; its other fields are ignored."""

    url: str
    user: str
    password: str | None = None
    ca: str | None = None


def read_credentials(path: Path) -> Address:
    """Where and as whom a credentials file says to connect; raises TurnpikeError in one line that names the file."""
    try:
        found = msgspec.json.decode(path.read_bytes().removeprefix(codecs.BOM_UTF8), type=_Credentials)
    except OSError as error:
        raise TurnpikeError(f"credentials file {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise TurnpikeError(f"credentials file {path}: {error}") from None
    try:
        there = Address.parse(found.url)
    except SettingsError as error:
        raise TurnpikeError(f"credentials file {path}: url: {error}") from None
    return Address(there.url, subjects.token(found.user, "user"), found.password, found.ca or None)
