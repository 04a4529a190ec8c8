"""`turnpike broker` and `turnpike user`: the nats-server on this machine, its queues and its accounts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from broker.declaring import Argument
from broker.settings import BrokerSettings, CommonSettings, Level, QueueSettings
from turnpike.cli.addresses import DEFAULT_URL, address, data_dir
from turnpike.cli.command import Command, command

if TYPE_CHECKING:
    import asyncio

    from broker.server import Tls
    from broker.topology import Limits


class ReapSettings(CommonSettings, frozen=True, kw_only=True):
    """`turnpike broker reap`."""

    log_level: Level = "INFO"


class EnsureOptions(QueueSettings, frozen=True, kw_only=True):
    """`turnpike broker ensure`."""

    follow: Annotated[bool, Argument("go on, and make the queues of models that boards announce, until a signal")] = (
        False
    )


class SecretOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike broker secret`."""

    out: Annotated[str, Argument("the file to write, mode 0600", metavar="FILE", path="file")]
    namespace: Annotated[str, Argument("theirs")] = "turnpike"


class UserOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike user add`."""

    name: Annotated[str, Argument("also the client's name on the wire", is_positional=True)]
    role: Annotated[
        Literal["producer", "worker", "board", "sidecar", "gateway", "operator"], Argument("what the account may do")
    ] = "producer"


def run_broker(options: BrokerSettings) -> int:
    """A nats-server of our own, until a signal."""
    from broker import process

    return process.run(lambda stop: _serve(options, stop))


async def _serve(options: BrokerSettings, stop: asyncio.Event) -> int:
    import asyncio

    from broker.accounts import DEFAULTS, OPERATOR, REAPER, write_credentials
    from broker.errors import ServerError
    from broker.queues import keep_queues, locked_models
    from broker.reaper import keep_reaping
    from broker.server import EmbeddedServer

    folder, locked = data_dir(options), locked_models(options.lock_file)
    server = EmbeddedServer(folder, host=options.host, port=options.port, tls=_tls(options))
    async with server:
        for user, _ in DEFAULTS:
            write_credentials(folder / f"{user}.credentials", server.address(user))
        named = list(options.model) or ([] if locked else ["demo"])
        for line in await server.ensure(named, _stream_limits(options), also=locked):
            print(line)
        print(f"nats-server at {server.url}; credentials in {folder}", flush=True)
        ended = asyncio.ensure_future(server.wait())
        beside = [
            asyncio.ensure_future(keep_reaping(server.address(REAPER), stop)),
            asyncio.ensure_future(keep_queues(server.address(OPERATOR), _stream_limits(options), stop)),
        ]
        await asyncio.wait((ended, *beside), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            for task in beside:
                task.cancel()
            raise ServerError(f"nats-server ended with code {ended.result()}")
        await asyncio.gather(*beside)
    return 0


def _tls(options: BrokerSettings) -> Tls | None:
    from broker.server import Tls

    if options.tls_cert is None or options.tls_key is None or options.tls_ca is None:
        return None  # all or none: the settings' own check has seen to that
    cert, key, ca = (Path(one).expanduser() for one in (options.tls_cert, options.tls_key, options.tls_ca))
    return Tls(cert, key, ca)


def _stream_limits(options: QueueSettings) -> Limits:
    import dataclasses

    from broker.topology import Limits

    limits = Limits(max_queued_turns=options.max_queued_turns, ack_wait_seconds=options.ack_wait_seconds)
    if (most := options.max_queued_bytes) is not None:
        return dataclasses.replace(limits, max_queued_bytes=most, max_announced_bytes=most)
    return limits


def run_ensure(options: EnsureOptions) -> int:
    """Streams and consumers as they should be, on any server."""
    from broker import process, topology
    from broker.accounts import OPERATOR
    from broker.connection import connect
    from broker.queues import Queues, keep_queues, locked_models

    there, locked = address(options, OPERATOR), locked_models(options.lock_file)

    async def ensure(stop: asyncio.Event) -> int:
        nc = await connect(there, name="turnpike-ensure")
        try:
            lines = await topology.ensure(nc, list(options.model), _stream_limits(options))
            queues = Queues(nc, _stream_limits(options))
            lines += await queues.make(locked)
        finally:
            await nc.close()
        print("\n".join(lines) or "nothing to change", flush=True)
        if options.follow:
            await keep_queues(there, _stream_limits(options), stop)
        return 1 if queues.refused else 0

    return process.run(ensure, patience=None if options.follow else process.PATIENCE_SECONDS)


def run_reap(options: ReapSettings) -> int:
    """Ends queued turns that nobody else ends, until a signal."""
    from broker import process
    from broker.accounts import REAPER
    from broker.reaper import reap

    return process.run(lambda stop: reap(address(options, REAPER), stop))


def run_secret(options: SecretOptions) -> int:
    """Writes the accounts as Kubernetes Secrets."""
    import json

    from broker.accounts import Accounts, write_private
    from broker.server import kubernetes_secrets

    accounts = Accounts(data_dir(options))
    accounts.ensure_defaults()
    out = Path(options.out)
    url = options.url or "nats://nats:4222"
    write_private(out, json.dumps(kubernetes_secrets(accounts, url, options.namespace), indent=1).encode() + b"\n")
    print(f"{out}: apply it with `kubectl apply -f {out}`, and keep it out of git")
    return 0


def run_user_add(options: UserOptions) -> int:
    """A new account, and its credentials file."""
    from broker import process

    return process.run(lambda stop: _add_user(options), patience=process.PATIENCE_SECONDS)


async def _add_user(options: UserOptions) -> int:
    import dataclasses

    from broker.accounts import Accounts, write_credentials
    from broker.connection import Address
    from broker.server import last_address, reload_running

    folder = data_dir(options)
    # As others reach it, where that was said, and read before there is an account that nobody has credentials for.
    said = Address.parse(options.url) if options.url else None
    account = Accounts(folder).add(options.name, options.role)
    is_running = reload_running(folder) is not None
    there = said or last_address(folder) or Address(DEFAULT_URL)  # as the broker itself knows it
    ca = str(Path(options.tls_ca).expanduser().absolute()) if options.tls_ca else there.ca
    path = folder / f"{account.name}.credentials"
    write_credentials(path, dataclasses.replace(there, user=account.name, password=account.password, ca=ca))
    print(
        f"{account.role} {account.name}: credentials in {path}"
        + ("" if is_running else "; takes effect when the broker starts")
    )
    return 0


BROKER = command(
    "broker",
    "run a nats-server of our own",
    "turnpike broker --model tiny",
    BrokerSettings,
    run_broker,
    command(
        "ensure",
        "create or update streams and consumers on any server, as the operator",
        "turnpike broker ensure --model tiny --url nats://operator:secret@pi:4222",
        EnsureOptions,
        run_ensure,
    ),
    command(
        "reap",
        "end queued turns that are late or cancelled where no worker does; `turnpike broker` does it by itself",
        "turnpike broker reap --credentials reaper.credentials",
        ReapSettings,
        run_reap,
    ),
    command(
        "secret",
        "the server's configuration, every account's credentials and the other passwords as Kubernetes Secrets",
        "turnpike broker secret --out secrets.json",
        SecretOptions,
        run_secret,
    ),
)
USER = Command(
    "user",
    "accounts of the broker on this machine",
    "turnpike user add alice",
    commands=(
        command("add", "a new account and its credentials file", "turnpike user add alice", UserOptions, run_user_add),
    ),
)
