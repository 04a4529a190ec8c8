"""The command `turnpike`: subcommands only, each imports its packages when it runs."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from broker.settings import PREFIX, BrokerSettings, CommonSettings, MirrorSettings, ModelSettings, flag, load
from producers.settings import AskSettings, DemoSettings, EvalSettings, GatewaySettings, LoadSettings
from telemetry.settings import SidecarSettings, TelemetrySettings
from workers.settings import WorkerSettings

if TYPE_CHECKING:
    from broker import services
    from broker.catalogue import Entry
    from broker.connection import Address
    from broker.server import Tls

__version__ = "0.1.0"
DEFAULT_URL = "nats://127.0.0.1:4222"


ALL_SETTINGS: tuple[type[CommonSettings], ...] = (
    CommonSettings,
    ModelSettings,
    MirrorSettings,
    BrokerSettings,
    WorkerSettings,
    LoadSettings,
    AskSettings,
    GatewaySettings,
    DemoSettings,
    EvalSettings,
    SidecarSettings,
)


def settings(kind: type[Any], arguments: argparse.Namespace) -> Any:
    """The command's settings: flags, then TURNPIKE_* variables, then the TOML file."""
    file = arguments.config or os.environ.get("TURNPIKE_CONFIG")
    flags = {name: value for name, value in vars(arguments).items() if name not in ("entry", "config", "command")}
    environment = dict(os.environ)
    for name in ("INFLUX_URL", "INFLUX_TOKEN", "INFLUX_ORG"):
        # As everyone else names them; ours, where it is set too, is meant more.
        if name in environment:
            environment.setdefault(f"TURNPIKE_{name}", environment[name])
    return load(kind, flags=flags, environment=environment, file=Path(file) if file else None, known=ALL_SETTINGS)


def data_dir(options: CommonSettings) -> Path:
    return Path(options.data_dir).expanduser()


def address(options: CommonSettings, user: str) -> Address:
    """Where to connect: a credentials file, --url or NATS_URL, else the broker on this machine, as `user`."""
    from broker.accounts import read_credentials
    from broker.connection import Address

    local = data_dir(options) / f"{user}.credentials"
    if options.credentials is not None:
        found = read_credentials(Path(options.credentials).expanduser())
    elif url := options.url or os.environ.get("NATS_URL"):
        found = Address.parse(url, ca=options.tls_ca)
    else:
        found = read_credentials(local) if local.exists() else Address(DEFAULT_URL)
    # Named here, it is meant more than the one in a file that may have come from another machine.
    ca = str(Path(options.tls_ca).expanduser()) if options.tls_ca else found.ca
    return dataclasses.replace(found, ca=ca, wait=options.wait_seconds)


# --- Services --------------------------------------------------------------------------------------------------------


def run_broker(arguments: argparse.Namespace) -> int:
    from broker import process

    options = settings(BrokerSettings, arguments)
    process.set_up_logging(options.log_level)
    return process.run(lambda stop: _broker(options, stop))


async def _broker(options: BrokerSettings, stop: asyncio.Event) -> int:
    from broker.accounts import DEFAULTS, REAPER, write_credentials
    from broker.errors import ServerError
    from broker.reaper import keep_reaping
    from broker.server import EmbeddedServer

    folder = data_dir(options)
    server = EmbeddedServer(folder, host=options.host, port=options.port, tls=_tls(options))
    async with server:
        for user, _ in DEFAULTS:
            write_credentials(folder / f"{user}.credentials", server.address(user))
        for line in await server.ensure(list(options.model) or ["demo"], _limits(options)):
            print(line)
        print(f"nats-server at {server.url}; credentials in {folder}", flush=True)
        ended = asyncio.ensure_future(server.wait())
        reaping = asyncio.ensure_future(keep_reaping(server.address(REAPER), stop))
        await asyncio.wait((ended, reaping), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            reaping.cancel()
            raise ServerError(f"nats-server ended with code {ended.result()}")
        await reaping
    return 0


def _tls(options: BrokerSettings) -> Tls | None:
    from broker.errors import SettingsError
    from broker.server import Tls

    match options.tls_cert, options.tls_key, options.tls_ca:
        case None, None, _:
            return None
        case str(cert), str(key), str(ca):
            return Tls(Path(cert).expanduser(), Path(key).expanduser(), Path(ca).expanduser())
    raise SettingsError(["--tls-cert, --tls-key and --tls-ca: TLS wants all three"])


def _limits(options: BrokerSettings) -> Any:
    from broker.topology import Limits

    return Limits(max_queued_turns=options.max_queued_turns, ack_wait_seconds=options.ack_wait_seconds)


def run_ensure(arguments: argparse.Namespace) -> int:
    from broker import process, topology
    from broker.accounts import OPERATOR
    from broker.connection import connect

    options = settings(BrokerSettings, arguments)
    process.set_up_logging(options.log_level)

    async def ensure(stop: asyncio.Event) -> int:
        nc = await connect(address(options, OPERATOR), name="turnpike-ensure")
        try:
            lines = await topology.ensure(nc, list(options.model), _limits(options))
        finally:
            await nc.close()
        print("\n".join(lines) or "nothing to change")
        return 0

    return process.run(ensure, patience=process.PATIENCE_SECONDS)


def run_reap(arguments: argparse.Namespace) -> int:
    from broker import process
    from broker.accounts import REAPER
    from broker.reaper import reap

    options = settings(CommonSettings, arguments)
    process.set_up_logging(options.log_level)
    return process.run(lambda stop: reap(address(options, REAPER), stop))


def run_secret(arguments: argparse.Namespace) -> int:
    import json

    from broker.accounts import Accounts, write_private
    from broker.server import kubernetes_secrets

    options = settings(BrokerSettings, arguments)
    accounts = Accounts(data_dir(options))
    accounts.ensure_defaults()
    out = Path(arguments.out)
    url = options.url or "nats://nats:4222"
    write_private(out, json.dumps(kubernetes_secrets(accounts, url, arguments.namespace), indent=1).encode() + b"\n")
    print(f"{out}: apply it with `kubectl apply -f {out}`, and keep it out of git")
    return 0


def run_user_add(arguments: argparse.Namespace) -> int:
    from broker import process
    from broker.accounts import Accounts, write_credentials
    from broker.connection import Address
    from broker.server import last_address, reload_running

    options = settings(CommonSettings, arguments)

    async def add(stop: asyncio.Event) -> int:
        folder = data_dir(options)
        # As others reach it, where that was said, and read before there is an account that nobody has credentials for.
        said = Address.parse(options.url) if options.url else None
        account = Accounts(folder).add(arguments.name, arguments.role)
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

    return process.run(add, patience=process.PATIENCE_SECONDS)


def run_worker(arguments: argparse.Namespace) -> int:
    options = settings(WorkerSettings, arguments)
    from broker import process
    from broker.accounts import WORKER
    from workers.main import serve

    process.set_up_logging(options.log_level)
    return process.run(lambda stop: serve(address(options, WORKER), options, __version__, stop))


def run_sidecar(arguments: argparse.Namespace) -> int:
    options = settings(SidecarSettings, arguments)
    from broker import process
    from broker.accounts import SIDECAR
    from telemetry.sidecar import serve

    process.set_up_logging(options.log_level)
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    return process.run(lambda stop: serve(address(options, SIDECAR), options, stop, in_pod=in_pod))


def run_telemetry_init(arguments: argparse.Namespace) -> int:
    options = settings(TelemetrySettings, arguments)
    from broker.errors import SettingsError
    from broker.influx_address import InfluxAddress
    from telemetry.database import init
    from telemetry.influx import Influx

    if not options.influx_url or options.influx_url.startswith("file:"):
        raise SettingsError(["--influx-url: which InfluxDB? (or INFLUX_URL=http://HOST:8086/turnpike)"])
    influx = Influx(InfluxAddress.parse(options.influx_url, options.influx_token, options.influx_org))
    try:
        print("\n".join(init(influx, wait=options.wait_seconds)) or "nothing to change")
    finally:
        influx.close()
    return 0


def run_install_service(arguments: argparse.Namespace) -> int:
    from broker import process, services
    from broker.errors import SettingsError, TurnpikeError

    options = settings(CommonSettings, arguments)
    try:
        service = _service(arguments, options)
        service = dataclasses.replace(service, writes=_written_folders(arguments))
        written = services.install(
            service,
            executable=_executable(arguments.executable),
            user=arguments.user,
            units=Path(arguments.unit_dir),
            environments=Path(arguments.environment_dir),
        )
    except TurnpikeError as error:
        process.report(error)
        return process.EXIT_USAGE if isinstance(error, SettingsError) else process.EXIT_ERROR
    print("\n".join(str(path) for path in written))
    print(
        f"next: id {arguments.user} || sudo useradd --system --home-dir {services.STATE_DIR} {arguments.user}\n"
        f"      sudo systemctl daemon-reload && sudo systemctl enable --now {service.name}"
    )
    return 0


PATHS = (
    "config",
    "data_dir",
    "credentials",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "lock_file",
    "models_dir",
    "model_file",
    "keys",
    "routes",
)
"""Flags of install-service that name files: a service has another working directory than whoever installs it."""


def _service(arguments: argparse.Namespace, options: CommonSettings) -> services.Service:
    from broker import services
    from broker.errors import SettingsError

    for name in PATHS:
        if (path := getattr(arguments, name)) is not None:
            setattr(arguments, name, str(Path(path).expanduser().absolute()))
    if arguments.lock_file is None and (found := Path(ModelSettings().lock_file)).exists():
        arguments.lock_file = str(found.absolute())
    if (url := arguments.influx_url or "").startswith("file:"):
        arguments.influx_url = f"file:{Path(url.removeprefix('file:').removeprefix('//')).expanduser().absolute()}"
    environment = {f"{PREFIX}WAIT_SECONDS": f"{options.wait_seconds or 600:g}"}
    for name in (*_SERVICE_FLAGS[arguments.service], *_EVERY_SERVICE):
        if (value := getattr(arguments, name)) is not None:
            environment[f"{PREFIX}{name.upper()}"] = str(value).lower() if isinstance(value, bool) else str(value)
    every = {name for names in _SERVICE_FLAGS.values() for name in names}
    if unknown := [
        name for name in sorted(every) if getattr(arguments, name) and name not in _SERVICE_FLAGS[arguments.service]
    ]:
        # A lock file that merely lies here is for those that want one.
        unknown = [name for name in unknown if name != "lock_file"]
    if unknown:
        raise SettingsError([f"{flag(name)}: nothing to a {arguments.service}" for name in unknown])
    match arguments.service:
        case "broker":
            tls = arguments.tls_cert, arguments.tls_key, arguments.tls_ca
            _tls(BrokerSettings(tls_cert=tls[0], tls_key=tls[1], tls_ca=tls[2]))  # all of them, or none
            kept = {
                name: environment[name] for name in (f"{PREFIX}CONFIG", f"{PREFIX}LOG_LEVEL") if name in environment
            }
            where = arguments.data_dir or f"{services.STATE_DIR}/broker"
            cert, key, ca = tls
            files = (cert, key, ca) if cert and key and ca else None
            return services.broker(arguments.model or ["demo"], kept, folder=where, tls=files)
        case "worker":
            return _worker_service(arguments, environment)
        case "sidecar":
            return services.sidecar(environment)
        case "gateway":
            return services.gateway(environment)
        case _:
            return services.mirror(environment)


def _written_folders(arguments: argparse.Namespace) -> list[str]:
    """Where a service writes by what was said, once its paths are absolute."""
    url = arguments.influx_url or ""
    points = [str(Path(url.removeprefix("file:")).parent)] if url.startswith("file:") else []
    return [*([arguments.data_dir] if arguments.data_dir else []), *points]


_EVERY_SERVICE = ("config", "data_dir", "log_level", "credentials", "url", "tls_ca")
_SERVICE_FLAGS: dict[str, tuple[str, ...]] = {
    "broker": ("tls_cert", "tls_key"),
    "worker": ("num_ctx", "lock_file", "models_dir", "model_file"),
    "sidecar": ("influx_url", "monitor_url"),
    "gateway": ("keys", "routes", "gateway_host", "gateway_port", "allow_anyone"),
    "mirror": ("lock_file", "models_dir"),
}
"""Which flags are a service's own."""


def _worker_service(arguments: argparse.Namespace, environment: dict[str, str]) -> services.Service:
    from broker import services
    from broker.errors import SettingsError
    from workers.main import model_token

    models = arguments.model or ([model_token(Path(arguments.model_file))] if arguments.model_file else [])
    if len(models) != 1:
        raise SettingsError(["--model: which one? a worker serves one model"])
    planned, parking = _worker_plan(models[0], arguments.num_ctx, arguments.model_file)
    environment[f"{PREFIX}PARK_BYTES"] = str(parking)
    return services.worker(models[0], planned + parking, environment)


def _executable(named: str | None) -> list[Path]:
    """The words that begin every command of this installation."""
    path = Path(named or sys.argv[0]).absolute()
    return [Path(sys.executable).absolute(), path] if path.suffix == ".py" and not os.access(path, os.X_OK) else [path]


def _worker_plan(model: str, num_ctx: int | None, model_file: str | None) -> tuple[int, int]:
    """The bytes of a worker's plan and some, and those for conversations at rest: a quarter of what this machine has
    free besides. For a model of the catalogue, a file, or the model that is shipped."""
    from broker.catalogue import CATALOGUE, entry_of, read_catalogue
    from workers.machine import model_plan
    from workers.machine.memory import available_bytes
    from workers.models import DEMO

    num_ctx = num_ctx or WorkerSettings().num_ctx
    if model_file is not None:
        planned = _file_plan(Path(model_file), num_ctx) + model_plan.LIMIT_HEADROOM_BYTES
    elif model == DEMO.token:
        planned = 2 * model_plan.LIMIT_HEADROOM_BYTES
    else:
        entry = entry_of(model, read_catalogue(), CATALOGUE.name)
        planned = model_plan.plan(entry, num_ctx).total + model_plan.LIMIT_HEADROOM_BYTES
    return planned, max(0, available_bytes() - planned) // 4


def _file_plan(path: Path, num_ctx: int) -> int:
    """The bytes of a plan for a model's file, as llama.cpp reads it."""
    from workers.engine.protocol import MAX_OUTPUTS
    from workers.llama.context import LlamaModel
    from workers.machine.memory import plan_memory

    options, model = WorkerSettings(), LlamaModel(path)
    try:
        plan = plan_memory(
            model.kv_shape,
            file_bytes=model.file_bytes,
            num_ctx=num_ctx,
            num_ubatch=options.num_ubatch,
            max_outputs=max(MAX_OUTPUTS, options.num_slots),
            flash_attention=True,
        )
    finally:
        model.close()
    return plan.total


def run_models(arguments: argparse.Namespace) -> int:
    from broker import process
    from producers.models import command as models

    options = settings(ModelSettings, arguments)
    match arguments.models_command:
        case "list":
            return models.list_models(options, _largest_context(), as_json=arguments.json)
        case "lock":
            return models.lock_models(
                options,
                arguments.names,
                revision=arguments.revision,
                repository=arguments.repository,
                file=arguments.file,
            )
        case "pull":
            process.set_up_logging("WARNING")
            return process.run(lambda stop: _pull(options, arguments.names, stop), patience=process.PATIENCE_SECONDS)
        case "serve":
            return _serve_models(settings(MirrorSettings, arguments))
        case _:
            return models.verify_models(options, arguments.names)


async def _pull(options: ModelSettings, names: list[str], stop: asyncio.Event) -> int:
    """From neighbours where NATS is there to name them; the hub does without."""
    from broker.connection import close, connect
    from broker.discovery import MirrorInfo, find_mirrors
    from broker.errors import ServerError
    from producers.models.command import pull_models

    mirrors: list[MirrorInfo] = []
    is_named = options.credentials or options.url or os.environ.get("NATS_URL")
    if is_named or (data_dir(options) / "local.credentials").exists():
        try:
            nc = await connect(address(options, "local"), name="turnpike-pull", timeout=3.0)
        except ServerError as error:
            if is_named:  # and not merely remembered from when there was one
                print(f"turnpike: no mirrors are looked for: {error}", file=sys.stderr)
        else:
            mirrors = await find_mirrors(nc)
            await close(nc)
    return await pull_models(options, names, stop, mirrors)


def _serve_models(options: MirrorSettings) -> int:
    from broker import process
    from broker.accounts import WORKER
    from broker.catalogue import read_lock
    from broker.subjects import node_name
    from producers.models.mirror import Mirror, serve

    process.set_up_logging(options.log_level)

    async def run(stop: asyncio.Event) -> int:
        mirror = Mirror(read_lock(Path(options.lock_file)), Path(options.models_dir).expanduser())
        return await serve(
            address(options, WORKER),
            mirror,
            host=options.mirror_host,
            port=options.mirror_port,
            url=options.mirror_url,
            node=node_name(options.node),
            version=__version__,
            stop=stop,
        )

    return process.run(run)


def run_gateway(arguments: argparse.Namespace) -> int:
    from broker import process
    from broker.accounts import GATEWAY
    from producers.gateway.keys import new_key
    from producers.gateway.main import serve

    options: GatewaySettings = settings(GatewaySettings, arguments)
    if options.new_key:
        key, digest = new_key()
        print(f'{key}\n# in the file of --keys:\n[clients.NAME]\nsha256 = ["{digest}"]')
        return 0
    process.set_up_logging(options.log_level)
    return process.run(lambda stop: serve(address(options, GATEWAY), options, __version__, stop))


def _largest_context() -> Callable[[Entry], int]:
    """By the worker's own memory plan and settings."""
    from workers.machine.memory import available_bytes, largest_ctx
    from workers.machine.model_plan import plan

    available = available_bytes()
    return lambda entry: largest_ctx(lambda num_ctx: plan(entry, num_ctx), entry.context, available)


def run_dead(arguments: argparse.Namespace) -> int:
    from broker import process
    from broker.accounts import OPERATOR
    from producers.commands import dead

    where = address(settings(CommonSettings, arguments), OPERATOR)
    match arguments.dead_command:
        case "list":
            work = dead.list_letters(where, arguments.model, as_json=arguments.json)
        case "show":
            work = dead.show_letter(where, arguments.numbers[0])
        case "replay":
            work = dead.replay_letters(where, arguments.numbers)
        case _:
            work = dead.purge_letters(where, arguments.numbers)

    async def run(stop: asyncio.Event) -> int:
        return await work

    return process.run(run, patience=process.PATIENCE_SECONDS)


def run_read(arguments: argparse.Namespace) -> int:
    from broker import process
    from producers.commands.read import read_answer

    where = address(settings(CommonSettings, arguments), "local")
    return process.run(
        lambda stop: read_answer(where, arguments.turn, stop, as_json=arguments.json), patience=process.PATIENCE_SECONDS
    )


def run_cancel(arguments: argparse.Namespace) -> int:
    from broker import process
    from producers.commands.cancel import cancel

    where = address(settings(CommonSettings, arguments), "local")

    return process.run(
        lambda stop: cancel(where, turn=arguments.turn, conversation=arguments.conversation),
        patience=process.PATIENCE_SECONDS,
    )


# --- For people ------------------------------------------------------------------------------------------------------


def run_ask(arguments: argparse.Namespace) -> int:
    from broker import process
    from producers.commands.ask import ask
    from producers.routing.policies import read_routes

    options: AskSettings = settings(AskSettings, arguments)
    sampling = options.sampling()
    process.set_up_logging("WARNING")
    text = arguments.text if arguments.text != "-" else sys.stdin.read()

    async def ask_there(stop: asyncio.Event) -> int:
        async with _broker_or_own(options, arguments.model) as there:
            routes = read_routes(options.routes)
            is_seeded = options.seed is not None
            return await ask(
                there, arguments.model, text, sampling, stop, routes=routes, as_json=arguments.json, is_seeded=is_seeded
            )

    return process.run(ask_there, patience=process.PATIENCE_SECONDS)


def run_chat(arguments: argparse.Namespace) -> int:
    from broker import process
    from producers.commands.chat import chat
    from producers.routing.policies import read_routes

    options: AskSettings = settings(AskSettings, arguments)
    sampling = options.sampling()
    process.set_up_logging("WARNING")

    async def chat_there(stop: asyncio.Event) -> int:
        async with _broker_or_own(options, arguments.model) as there:
            routes, is_seeded = read_routes(options.routes), options.seed is not None
            return await chat(
                there, arguments.model, sampling, stop, system=arguments.system, routes=routes, is_seeded=is_seeded
            )

    return process.run(chat_there, patience=process.PATIENCE_SECONDS)


def _broker_or_own(options: CommonSettings, model: str) -> AbstractAsyncContextManager[Address]:
    """The broker that is meant; for the demo model, where none is named and none runs here, one for the while."""
    from producers.local_system import address_or_own

    is_named = options.url or options.credentials or os.environ.get("NATS_URL")
    entry = Path(__file__).absolute() if model == "demo" and not is_named else None
    return address_or_own(address(options, "local"), entry, model)


def run_load(arguments: argparse.Namespace) -> int:
    from broker import process
    from producers.load.command import continue_and_show, run_and_show

    process.set_up_logging("WARNING")
    patience = process.PATIENCE_SECONDS
    if arguments.continued:
        common, path = settings(CommonSettings, arguments), Path(arguments.continued).expanduser()
        there = address(common, "local")
        return process.run(lambda stop: continue_and_show(there, path, stop, as_json=arguments.json), patience=patience)
    options = settings(LoadSettings, arguments)
    return process.run(
        lambda stop: run_and_show(address(options, "local"), options, stop, as_json=arguments.json), patience=patience
    )


def run_eval(arguments: argparse.Namespace) -> int:
    from broker import process
    from producers.evaluate.command import run_and_show

    options = settings(EvalSettings, arguments)
    process.set_up_logging("WARNING")
    return process.run(
        lambda stop: run_and_show(address(options, "local"), options, stop, as_json=arguments.json),
        patience=process.PATIENCE_SECONDS,
    )


def run_experiment(arguments: argparse.Namespace) -> int:
    from broker import process
    from broker.accounts import WORKER
    from producers.experiment.command import run_and_show
    from telemetry.resources import process_cost

    options = settings(CommonSettings, arguments)
    process.set_up_logging("WARNING")
    return process.run(
        lambda stop: run_and_show(
            address(options, "local"),
            address(options, WORKER),
            Path(arguments.plan).expanduser(),
            Path(arguments.out).expanduser(),
            entry=Path(__file__).absolute(),
            probe=process_cost,
            num_cores=os.cpu_count() or 1,
            stop=stop,
            as_json=arguments.json,
        ),
        patience=process.PATIENCE_SECONDS,
    )


def run_report(arguments: argparse.Namespace) -> int:
    from producers.records.figures import Bounds
    from producers.report.command import report
    from producers.report.nodes import telemetry

    url = arguments.influx_url or os.environ.get("INFLUX_URL")
    return report(
        [Path(name) for name in arguments.records],
        Bounds(arguments.slo_ttft_seconds, arguments.slo_tpot_seconds),
        html=Path(arguments.html) if arguments.html else None,
        csv=Path(arguments.csv) if arguments.csv else None,
        as_json=arguments.json,
        telemetry=telemetry(url, os.environ.get("INFLUX_TOKEN")) if url else None,
    )


def run_top(arguments: argparse.Namespace) -> int:
    from broker import process
    from producers.commands.top import top

    options = settings(CommonSettings, arguments)
    process.set_up_logging("WARNING")
    there = address(options, "local")
    return process.run(
        lambda stop: top(there, stop, once=arguments.once, as_json=arguments.json), patience=process.PATIENCE_SECONDS
    )


def run_demo(arguments: argparse.Namespace) -> int:
    from broker import process

    options = settings(DemoSettings, arguments)
    process.set_up_logging("WARNING" if arguments.log_level is None else options.log_level)
    return process.run(lambda stop: _demo(options, stop, as_json=arguments.json), patience=process.PATIENCE_SECONDS)


async def _demo(options: DemoSettings, stop: asyncio.Event, *, as_json: bool) -> int:
    """Server, worker and a small load in one process tree; nothing is left behind."""
    from broker.influx_address import InfluxAddress
    from producers.commands.demo import run_demo
    from telemetry.database import init
    from telemetry.influx import Influx
    from telemetry.resources import process_memory

    influx_url = options.influx_url or f"file:{_demo_points(data_dir(options))}"
    if not influx_url.startswith("file:"):
        token, org = os.environ.get("INFLUX_TOKEN"), os.environ.get("INFLUX_ORG")
        await asyncio.to_thread(init, Influx(InfluxAddress.parse(influx_url, token, org)))

    def memory_of(pid: int) -> int | None:
        found = process_memory(pid)
        return None if found is None else found.pss_bytes or found.rss_bytes

    return await run_demo(
        Path(__file__).absolute(),
        model_file=Path(options.model_file).expanduser() if options.model_file else None,
        nats_url=options.url or os.environ.get("NATS_URL"),
        num_conversations=options.num_conversations,
        max_tokens=options.max_tokens,
        influx_url=influx_url,
        gateway_port=options.gateway_port if options.gateway else None,
        memory_of=memory_of,
        stop=stop,
        as_json=as_json,
    )


def run_settings(arguments: argparse.Namespace) -> int:
    """What may be set, by flag, variable or file, with what it is where nothing is said."""
    import json

    import msgspec

    helps, commands = _helps(_parser())
    found: dict[str, dict[str, object]] = {}
    for kind in ALL_SETTINGS:
        for field in msgspec.structs.fields(kind):
            default = None if field.default is msgspec.NODEFAULT else field.default
            one = found.setdefault(field.name, {"default": default, "variable": f"{PREFIX}{field.name.upper()}"})
            one["help"], one["commands"] = helps.get(field.name, ""), commands.get(field.name, [])
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    print(
        "# What may stand in the file of --config; TURNPIKE_NAME and flags win over it. Values shown are the defaults."
    )
    for name, one in sorted(found.items()):
        of = cast(list[str], one["commands"])
        whose = "every command" if len(of) > 12 else ", ".join(of)
        print(f"\n# {one['help'] or flag(name)} ({whose})" if of else "\n# by variable or file only")
        value = one["default"]
        print(f"# {name} =" if value is None else f"# {name} = {json.dumps(value)}")
    return 0


def _helps(parser: argparse.ArgumentParser, path: str = "") -> tuple[dict[str, str], dict[str, list[str]]]:
    """Of each flag, by its setting's name: the help, and the commands that have it."""
    helps: dict[str, str] = {}
    commands: dict[str, list[str]] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                inner_helps, inner_commands = _helps(inner, f"{path} {name}".strip())
                helps = inner_helps | helps
                for one, of in inner_commands.items():
                    commands[one] = commands.get(one, []) + of
        elif action.option_strings and path:
            helps.setdefault(action.dest, action.help or "")
            commands.setdefault(action.dest, []).insert(0, path)
    return helps, commands


def _demo_points(folder: Path) -> Path:
    """Where a demo's telemetry goes where nothing is said: of two at once the second has a file of its own."""
    from broker.locks import is_held

    usual = folder / "demo.lp"
    return folder / f"demo-{os.getpid()}.lp" if is_held(usual.with_name("demo.lp.lock")) else usual


# --- Flags -----------------------------------------------------------------------------------------------------------


class _Commands(argparse._SubParsersAction):  # type: ignore[type-arg]
    """Subcommands that keep what was said before their name: argparse's own forget it for their defaults."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = dict(vars(namespace))
        super().__call__(parser, namespace, values, option_string)
        name = values[0]
        known = {action.dest for action in self.choices[name]._actions}
        for action in parser._actions:
            said = before.get(action.dest)
            if not action.option_strings or said is None or said == action.default:
                continue
            if action.dest not in known:
                parser.error(
                    f"{action.option_strings[0]} is nothing to `{parser.prog.partition(' ')[2]} {name}`".replace(
                        "` ", "`"
                    )
                )
            now = getattr(namespace, action.dest, None)
            if now is None:
                setattr(namespace, action.dest, said)
            elif isinstance(said, list) and isinstance(now, list):
                setattr(namespace, action.dest, [*said, *now])


def _group(parser: argparse.ArgumentParser, **options: Any) -> Any:
    """A parser's subcommands."""
    return parser.add_subparsers(action=_Commands, **options)


def _add(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], help: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=help,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(entry=run)
    _common(parser)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("common")
    group.add_argument("--config", help="a TOML file of settings (or TURNPIKE_CONFIG)")
    group.add_argument("--data-dir", help="where the broker on this machine keeps its store and credentials")
    group.add_argument("--url", help="nats://USER:PASSWORD@HOST:PORT (or NATS_URL)")
    group.add_argument("--credentials", help="a credentials file, as `turnpike user add` writes it")
    group.add_argument("--tls-ca", help="the certificates that a tls:// server is trusted by (default: the system's)")
    group.add_argument(
        "--wait-seconds", type=float, help="how long to wait for a server, streams or a turn's worker (default 0)"
    )
    group.add_argument("--log-level", help="DEBUG, INFO, WARNING or ERROR")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument("--max-tokens", type=int, help="how many tokens the answer may have (default 500)")
    group.add_argument("--temperature", type=float, help="0, the default, takes the likeliest token each time")
    group.add_argument("--top-k", type=int)
    group.add_argument("--top-p", type=float)
    group.add_argument("--min-p", type=float)
    group.add_argument("--repeat-penalty", type=float)
    group.add_argument("--seed", type=int, help="of what is drawn (default: another one each turn, which is shown)")
    group.add_argument("--ignore-eos", action="store_true", default=None, help="go on to --max-tokens")
    group.add_argument("--stop", action="append", help="end before this text; can be given several times")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="turnpike",
        description="A message queue for conversations with small language models.",
        epilog="Settings come from flags, then TURNPIKE_* variables, then a TOML file (`turnpike settings` lists "
        "them). See turnpike COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"turnpike {__version__}")
    _common(parser)
    commands = _group(parser, dest="command", metavar="COMMAND", required=True)

    demo = _add(
        commands, "demo", run_demo, "server, worker and a small load at once, then a table", "turnpike demo --json"
    )
    demo.add_argument("--num-conversations", type=int, help="how many conversations (default 4)")
    demo.add_argument("--max-tokens", type=int, help="tokens of an answer (default 48)")
    demo.add_argument("--model-file", help="a GGUF file; default: the model that Turnpike ships")
    demo.add_argument("--gateway", action="store_true", default=None, help="with the API and the page, until ^C")
    demo.add_argument("--gateway-port", type=int, help="default 8080; 0 takes a free one")
    demo.add_argument("--influx-url", help="where its telemetry goes (or INFLUX_URL; default: a file, demo.lp)")
    demo.add_argument("--json", action="store_true", help="the table as JSON")

    broker = _add(commands, "broker", run_broker, "run a nats-server of our own", "turnpike broker --model tiny")
    broker.add_argument("--host", help="the address to listen on (default 127.0.0.1)")
    broker.add_argument("--tls-cert", help="this server's certificate: turns TLS on, with --tls-key and --tls-ca")
    broker.add_argument("--tls-key", help="its key")
    broker.add_argument("--port", type=int, help="the port (default 4222; 0 takes a free one)")
    _broker_flags(broker)
    broker_commands = _group(broker, metavar="[ensure|reap|secret]")
    ensure = _add(
        broker_commands,
        "ensure",
        run_ensure,
        "create or update streams and consumers on any server, as the operator",
        "turnpike broker ensure --model tiny --url nats://operator:secret@pi:4222",
    )
    _broker_flags(ensure)

    _add(
        broker_commands,
        "reap",
        run_reap,
        "end queued turns that are late or cancelled where no worker does; `turnpike broker` does it by itself",
        "turnpike broker reap --credentials reaper.credentials",
    )

    secret = _add(
        broker_commands,
        "secret",
        run_secret,
        "the server's configuration, every account's credentials and the other passwords as Kubernetes Secrets",
        "turnpike broker secret --out secrets.json",
    )
    secret.add_argument("--out", required=True, help="the file to write, mode 0600")
    secret.add_argument("--namespace", default="turnpike", help="theirs (default turnpike)")

    user = commands.add_parser("user", help="accounts of the broker on this machine")
    _common(user)
    user_commands = _group(user, metavar="add", required=True)
    add = _add(user_commands, "add", run_user_add, "a new account and its credentials file", "turnpike user add alice")
    add.add_argument("name", help="also the client's name on the wire")
    add.add_argument("--role", default="producer", choices=("producer", "worker", "sidecar", "gateway", "operator"))

    worker = _add(
        commands,
        "worker",
        run_worker,
        "compute turns with llama.cpp",
        "turnpike worker --model-file tiny.gguf --model tiny",
    )
    worker.add_argument("--model-file", help="the GGUF file; default: the locked one of --model, else the demo model")
    _model_flags(worker)
    worker.add_argument("--model", help="the model's name in subjects (default: from the file's name)")
    worker.add_argument(
        "--allow-other-file",
        action="store_true",
        default=None,
        help="serve though other workers have another file under this name: while it is changed, worker by worker",
    )
    worker.add_argument("--worker-name", help="default: the node's name and the process id")
    worker.add_argument("--node", help="default: the host's name")
    worker.add_argument("--num-ctx", type=int, help="KV cells, shared by all slots (default 8192)")
    worker.add_argument("--num-slots", type=int, help="turns at once (default 8)")
    worker.add_argument("--threads", type=int, help="default: measured, and fewer while neighbours are busy")
    worker.add_argument("--num-ubatch", type=int, help="tokens that llama.cpp computes at once (default 256)")
    worker.add_argument("--step-budget-seconds", type=float, help="what a step may take (default 0.25)")
    worker.add_argument(
        "--coalesce-seconds", type=float, help="chunks gather for so long (default 0.05; 0 sends each token)"
    )
    worker.add_argument(
        "--deterministic", action="store_true", default=None, help="one turn at a time, repeatable to the bit"
    )
    worker.add_argument(
        "--share-prefixes", action="store_true", default=None, help="share KV prefixes across clients too"
    )
    worker.add_argument("--park-bytes", type=int, help="of RAM for conversations at rest (default: a quarter of it)")
    worker.add_argument("--disk-bytes", type=int, help="of disk for those, also over restarts (default 0: none)")
    worker.add_argument("--kv-dir", help="where (default: kv in the data directory)")
    worker.add_argument("--fetch-bytes-per-second", type=int, help="of states given to peers (default 50 MB; 0: off)")
    worker.add_argument("--park-seconds", type=float, help="how long a stop may take to write them (default 60)")
    worker.add_argument("--overflow", choices=("error", "drop"), help="of a conversation longer than the context")
    worker.add_argument("--kv-type", choices=("f16", "q8_0"), help="of the KV cache (default f16)")
    worker.add_argument("--health-port", type=int, help="answer GET /live and /ready there, for probes (none)")

    ask = _add(commands, "ask", run_ask, "one turn, streamed to the terminal", 'turnpike ask tiny "How are you?"')
    ask.add_argument("model", help="the model; auto, the one with the shortest expected wait; or a policy of --routes")
    ask.add_argument("--routes", help="a TOML file of policies for models, as the gateway's")
    ask.add_argument("text", help="the message; - reads it from standard input")
    ask.add_argument("--json", action="store_true", help="the end as JSON, without streaming")
    _add_sampling(ask)

    chat = _add(commands, "chat", run_chat, "a conversation; ^C stops an answer, ^D the program", "turnpike chat tiny")
    chat.add_argument("model", help="the model, auto, or a policy of --routes")
    chat.add_argument("--routes", help="a TOML file of policies for models, as the gateway's")
    chat.add_argument("--system", help="a system message")
    _add_sampling(chat)

    load = _add(commands, "load", run_load, "many conversations at once", "turnpike load --model tiny --concurrency 8")
    _load_flags(load)
    _model_flags(load)

    evaluate = _add(
        commands, "eval", run_eval, "multiple choice: Winogrande and the like", "turnpike eval --model tiny wino.jsonl"
    )
    evaluate.add_argument(
        "path", help="Winogrande as JSON lines or llama.cpp's CSV, or JSON lines of context, choices, label"
    )
    evaluate.add_argument("--model", help="a model's name, or auto")
    evaluate.add_argument("--limit", type=int, help="only so many items")
    evaluate.add_argument("--concurrency", type=int, help="items at once (default 4)")
    evaluate.add_argument("--out", help="write each item's scores here; a run that was interrupted goes on from it")
    evaluate.add_argument("--json", action="store_true", help="the accuracies as JSON")

    experiment = _add(
        commands,
        "experiment",
        run_experiment,
        "a list of models one after the other: the paper's table and figures for this cluster",
        "turnpike experiment experiments/paper.toml --out paper",
    )
    experiment.add_argument("plan", help="a TOML file: experiments/paper.toml says what may stand there")
    experiment.add_argument(
        "--out", required=True, help="a folder for records, table and report; run again, it goes on"
    )
    experiment.add_argument("--json", action="store_true", help="the table as JSON")

    report = _add(
        commands,
        "report",
        run_report,
        "tables and pictures of recorded runs",
        "turnpike report run.jsonl --html run.html",
    )
    report.add_argument("records", nargs="+", help="record files; several are laid side by side, parts are merged")
    report.add_argument("--html", help="write a page with pictures here")
    report.add_argument("--influx-url", help="add what the nodes did meanwhile, from here or file:PATH (or INFLUX_URL)")
    report.add_argument("--csv", help="write the figures here")
    report.add_argument("--json", action="store_true", help="the figures as JSON")
    report.add_argument("--slo-ttft-seconds", type=float, help="a good turn's first token is there by then")
    report.add_argument("--slo-tpot-seconds", type=float, help="and each further token takes no longer")

    sidecar = _add(
        commands,
        "sidecar",
        run_sidecar,
        "telemetry of this node and its workers, into InfluxDB",
        "turnpike sidecar --influx-url http://pi:8086/turnpike",
    )
    _influx_flags(sidecar)
    sidecar.add_argument("--node", help="default: the host's name, as its workers have it")
    sidecar.add_argument("--health-port", type=int, help="answer GET /live and /ready there, for probes (none)")
    sidecar.add_argument("--sample-seconds", type=float, help="how often (default 1)")
    sidecar.add_argument("--root", help="where /proc and /sys are found (default /)")
    sidecar.add_argument("--vcgencmd", help="the Raspberry Pi's firmware command (default vcgencmd)")
    sidecar.add_argument("--monitor-url", help="the nats-server's monitoring address, http://HOST:8222")

    telemetry = commands.add_parser("telemetry", help="the database of telemetry")
    _common(telemetry)
    telemetry_commands = _group(telemetry, metavar="init", required=True)
    init = _add(
        telemetry_commands,
        "init",
        run_telemetry_init,
        "create database or bucket, retention and downsampling",
        "turnpike telemetry init --influx-url http://pi:8086/turnpike",
    )
    _influx_flags(init)

    models = commands.add_parser("models", help="the models by name, and their files")
    _common(models)
    models_commands = _group(models, dest="models_command", metavar="COMMAND", required=True)
    for name, help, example in (
        ("list", "the catalogue, and what of it fits this machine", "turnpike models list"),
        ("lock", "write down what names stand for: revision and SHA-256", "turnpike models lock llama-3-2-1b oasst1"),
        ("pull", "fetch and verify what the lock file names", "turnpike models pull llama-3-2-1b"),
        ("verify", "read every byte of what is here", "turnpike models verify"),
        ("serve", "give this node's files to its neighbours", "turnpike models serve --mirror-port 8180"),
    ):
        command = _add(models_commands, name, run_models, help, example)
        _model_flags(command)
        if name == "list":
            command.add_argument("--json", action="store_true")
        elif name == "serve":
            command.add_argument("--mirror-host", help="the interface to listen at (default: all)")
            command.add_argument("--mirror-port", type=int, help="default 8180")
            command.add_argument("--mirror-url", help="how others reach it (default: this node's address)")
            command.add_argument("--node", help="the node's name (default: the host's)")
        else:
            command.add_argument("names", nargs="+" if name == "lock" else "*", metavar="NAME")
        if name == "pull":
            command.add_argument("--mirror", action="append", help="ask http://HOST:PORT first; can be given again")
        if name == "lock":
            command.add_argument("--revision", default="main", help="a branch, tag or commit (default main)")
            command.add_argument("--repository", help="for a model that is not in the catalogue, with --file")
            command.add_argument("--file", help="the file in that repository")

    gateway = _add(
        commands,
        "gateway",
        run_gateway,
        "the OpenAI API in front of the queue, and a page to talk on",
        "turnpike gateway --keys keys.toml --gateway-host 0.0.0.0",
    )
    gateway.add_argument("--gateway-host", help="the interface to listen at (default 127.0.0.1)")
    gateway.add_argument("--gateway-port", type=int, help="default 8080; 0 takes a free one")
    gateway.add_argument(
        "--keys", help="a TOML file of clients and the SHA-256 of their keys (default: none is wanted)"
    )
    gateway.add_argument("--routes", help="a TOML file of policies for models (default: auto, by expected wait)")
    gateway.add_argument("--allow-anyone", action="store_true", default=None, help="without keys, at any address")
    gateway.add_argument(
        "--leave-out-tools",
        action="store_true",
        default=None,
        help="take requests that offer tools and answer without (default: they are refused)",
    )
    gateway.add_argument("--node", help="the node's name in telemetry (default: the host's)")
    gateway.add_argument("--new-key", action="store_true", default=None, help="print a new key, and do no more")

    service = _add(
        commands,
        "install-service",
        run_install_service,
        "write a systemd unit, for a Pi without Kubernetes",
        "sudo turnpike install-service worker --model llama-3-2-1b --credentials /etc/turnpike/worker.credentials",
    )
    service.add_argument("service", choices=("broker", "worker", "sidecar", "gateway", "mirror"))
    service.add_argument("--model", action="append", help="the worker's, or those that the broker queues turns for")
    service.add_argument("--model-file", help="the worker's GGUF file; default: the locked one of --model")
    service.add_argument("--num-ctx", type=int, help="the worker's context, which its memory limit follows")
    service.add_argument("--tls-cert", help="the broker's certificate: turns TLS on, with --tls-key and --tls-ca")
    service.add_argument("--tls-key", help="its key")
    service.add_argument("--keys", help="the gateway's file of clients and their keys")
    service.add_argument("--routes", help="its policies for models")
    service.add_argument("--gateway-host", help="the interface it listens at (default 127.0.0.1)")
    service.add_argument("--gateway-port", type=int, help="default 8080")
    service.add_argument("--allow-anyone", action="store_true", default=None, help="without keys, at any address")
    service.add_argument("--influx-url", help="where the sidecar writes points")
    service.add_argument("--monitor-url", help="the nats-server's monitoring address, for the sidecar")
    _model_flags(service)
    service.add_argument("--user", default="turnpike", help="whom it runs as (default turnpike)")
    service.add_argument("--executable", help="the command (default: this one)")
    service.add_argument("--unit-dir", default="/etc/systemd/system", help="default /etc/systemd/system")
    service.add_argument("--environment-dir", default="/etc/turnpike", help="its settings, mode 0600 (/etc/turnpike)")

    dead = commands.add_parser("dead", help="turns that were given up on")
    _common(dead)
    dead_commands = _group(dead, dest="dead_command", metavar="COMMAND", required=True)
    for name, help, example in (
        ("list", "which there are, and why", "turnpike dead list --model tiny"),
        ("show", "all of one, as JSON", "turnpike dead show 3"),
        ("replay", "queue them again, as new turns", "turnpike dead replay 3 4"),
        ("purge", "forget them; without numbers all", "turnpike dead purge 3"),
    ):
        command = _add(dead_commands, name, run_dead, help, example)
        if name == "list":
            command.add_argument("--model")
            command.add_argument("--json", action="store_true")
        else:
            command.add_argument("numbers", type=int, nargs="*" if name == "purge" else "+", metavar="NUMBER")

    read = _add(commands, "read", run_read, "the answer of a turn, by its id", "turnpike read 3f2a… --wait-seconds 60")
    read.add_argument("turn", help="its id, as `turnpike dead replay` and the gateway tell it")
    read.add_argument("--json", action="store_true", help="its end as JSON")

    cancel = _add(commands, "cancel", run_cancel, "stop turns, queued or running", "turnpike cancel --conversation c1")
    which = cancel.add_mutually_exclusive_group(required=True)
    which.add_argument("--turn")
    which.add_argument("--conversation")
    which.add_argument("--all", action="store_true", help="all of this account's turns")

    known = _add(
        commands,
        "settings",
        run_settings,
        "all that may be set, as the file of --config has it",
        "turnpike settings > turnpike.toml",
    )
    known.add_argument("--json", action="store_true", help="for programs")

    top = _add(commands, "top", run_top, "who serves what, and what waits", "turnpike top --once --json")
    top.add_argument("--once", action="store_true", help="one picture, not refreshed in place")
    top.add_argument("--json", action="store_true", help="one picture for programs")
    return parser


def _load_flags(load: argparse.ArgumentParser) -> None:
    load.add_argument("--model", help="a model's name, auto, or several by weights: llama=3,phi=1")
    load.add_argument("--out", help="write a record of every turn here (JSON lines), for `turnpike report`")
    load.add_argument("--continue", dest="continued", metavar="FILE", help="go on with a run that was interrupted")
    load.add_argument("--run", help="the run's name in telemetry and its record (default: made from the time)")
    load.add_argument("--json", action="store_true", help="the summary as JSON")
    group = load.add_argument_group("arrivals")
    group.add_argument(
        "--arrivals",
        help="closed (default), constant:RATE, poisson:RATE, gamma:RATE:BURSTINESS, ramp:FROM:TO:SECONDS, "
        "step:RATExSECONDS,…, trace:FILE; rates are turns per second",
    )
    group.add_argument("--concurrency", type=int, help="closed: conversations at once (default 4)")
    group.add_argument("--think", help="between an answer and the next message: 0, fixed:SECONDS, exponential:SECONDS")
    group.add_argument("--duration-seconds", type=float, help="send for so long")
    group.add_argument("--num-turns", type=int, help="send so many, on a schedule")
    group.add_argument("--warm-up-seconds", type=float, help="what is sent before does not count")
    group.add_argument("--cool-down-seconds", type=float, help="what is sent after does not count")
    group.add_argument("--sweep", metavar="RATE:SECONDS", help="double the rate until goodput falls, then bisect")
    group.add_argument("--slo-ttft-seconds", type=float, help="a good turn's first token is there by then")
    group.add_argument("--slo-tpot-seconds", type=float, help="and each further token takes no longer")
    group.add_argument("--priority", help="interactive (default), batch, or by weights: interactive=4,batch=1")
    group.add_argument("--cancel-share", type=float, help="so many turns are cancelled (0 to 1)")
    group.add_argument("--cancel-after-seconds", type=float, help="after so long in the mean (default 1)")
    group.add_argument("--deadline-share", type=float, help="so many turns have a deadline (0 to 1)")
    group.add_argument("--deadline-seconds", type=float, help="so long after they are sent (default 30)")
    group.add_argument("--part", type=int, help="which part of a run of several processes this is, from 0")
    group.add_argument("--num-parts", type=int, help="how many there are; they share --run and --seed")
    group = load.add_argument_group("conversations")
    group.add_argument(
        "--dataset",
        help="OpenAssistant trees or messages, ShareGPT; plain, gzip, parquet; hub:NAME (see turnpike models); or "
        "synthetic:prompt=200/50,answer=100/20,turns=5,count=50 (default: the shipped conversations)",
    )
    group.add_argument("--num-conversations", type=int, help="how many (default 50)")
    group.add_argument("--min-turns", type=int, help="only conversations of so many turns (default 5)")
    group.add_argument("--turns", choices=("messages", "prompter"), help="what --min-turns counts (default messages)")
    group.add_argument("--max-user-turns", type=int, help="cut conversations after so many user messages")
    group.add_argument("--language", help="the language of OpenAssistant threads (default en)")
    group.add_argument(
        "--history", choices=("generated", "dataset"), help="whose answers the next turn's history holds"
    )
    group.add_argument("--max-tokens", type=int, help="tokens of an answer (default 500)")
    group.add_argument("--ignore-eos", action="store_true", default=None, help="every answer has --max-tokens tokens")
    group.add_argument("--seed", type=int, help="of everything that is drawn")


def _influx_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--influx-url", help="http://USER:PASSWORD@HOST:8086/DATABASE or file:PATH (or INFLUX_URL)")
    parser.add_argument("--influx-token", help="of InfluxDB 2 and 3 (or INFLUX_TOKEN, which no process list shows)")
    parser.add_argument("--influx-org", help="of InfluxDB 2 (or INFLUX_ORG)")


def _model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lock-file", help="which bytes a name stands for (default turnpike.models.lock)")
    parser.add_argument("--models-dir", help="where the files lie (default ~/.local/share/turnpike/models)")


def _broker_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", action="append", help="a model to queue turns for; can be given several times (broker: default demo)"
    )
    parser.add_argument("--max-queued-turns", type=int, help="the bound of a model's queue (default 10,000)")
    parser.add_argument("--ack-wait-seconds", type=float, help="a silent worker's turn goes to another (default 30)")


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command that the words name, those of the process by default; its exit code."""
    arguments = _parser().parse_args(words)
    from broker.errors import TurnpikeError
    from broker.process import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, report

    try:
        run: Callable[[argparse.Namespace], int] = arguments.entry
        return run(arguments)
    except TurnpikeError as error:
        from broker.errors import SettingsError

        report(error)
        return EXIT_USAGE if isinstance(error, SettingsError) else EXIT_ERROR
    except ModuleNotFoundError as error:
        from broker.extras import explained

        if (missing := explained(error)) is None:
            raise
        report(missing)
        return EXIT_ERROR
    except BrokenPipeError:
        return EXIT_ERROR
    except KeyboardInterrupt:  # of a command that computes and no more
        return EXIT_INTERRUPTED
    except OSError as error:
        report(error)
        return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
