"""Where a command's broker is, and whom it is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from broker.settings import CommonSettings

if TYPE_CHECKING:
    from broker.connection import Address

DEFAULT_URL = "nats://127.0.0.1:4222"
ENTRY = Path(__file__).absolute().parents[1]
"""What Python runs as this command, for processes that are started: the folder of the package."""


def data_dir(options: CommonSettings) -> Path:
    """The folder of the broker on this machine."""
    return Path(options.data_dir).expanduser()


def is_named(options: CommonSettings) -> bool:
    """Whether somebody said where the broker is."""
    return bool(options.url or options.credentials or os.environ.get("NATS_URL"))


def address(options: CommonSettings, user: str) -> Address:
    """Where to connect: a credentials file, --url or NATS_URL, else the broker on this machine, as `user`."""
    import dataclasses

    from broker.accounts import read_credentials
    from broker.connection import Address

    local = data_dir(options) / f"{user}.credentials"
    origin = ""
    if options.credentials is not None:
        found = read_credentials(Path(options.credentials).expanduser())
        origin = f"by {options.credentials}"
    elif options.url:
        found = Address.parse(options.url, ca=options.tls_ca)
    elif url := os.environ.get("NATS_URL"):
        found = Address.parse(url, ca=options.tls_ca)
        origin = "by NATS_URL"
    elif local.exists():
        found = read_credentials(local)
        origin = f"where the broker of {data_dir(options)} ran last"
    else:
        found = Address(DEFAULT_URL)
    # Named here, it is meant more than the one in a file that may have come from another machine.
    ca = str(Path(options.tls_ca).expanduser()) if options.tls_ca else found.ca
    return dataclasses.replace(found, ca=ca, wait=options.wait_seconds, origin=origin)


def version() -> str:
    """This release, as workers and gateways tell it."""
    import turnpike

    return turnpike.__version__
