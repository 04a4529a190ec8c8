"""All commands."""

from __future__ import annotations

from typing import Annotated

from broker.declaring import Argument
from broker.settings import CommonSettings
from turnpike.cli import asking, broker, demo, embedding, install, listing, measuring, models, operating, services
from turnpike.cli.command import Command


class RootOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike` alone."""

    version: Annotated[bool, Argument("show which release this is")] = False


TURNPIKE = Command(
    "turnpike",
    "A message queue for conversations with small language models.\n\n"
    "Settings come from flags, then TURNPIKE_* variables, then a TOML file (`turnpike settings` lists them).\n"
    "See turnpike COMMAND --help",
    "turnpike demo",
    RootOptions,
    commands=(
        demo.DEMO,
        broker.BROKER,
        broker.USER,
        services.WORKER,
        services.BOARD,
        asking.ASK,
        asking.CHAT,
        embedding.EMBED,
        *measuring.COMMANDS,
        services.SIDECAR,
        services.TELEMETRY,
        models.MODELS,
        services.GATEWAY,
        install.INSTALL_SERVICE,
        operating.DEAD,
        asking.READ,
        asking.CANCEL,
        listing.SETTINGS,
        operating.TOP,
        listing.COMPLETION,
    ),
)
