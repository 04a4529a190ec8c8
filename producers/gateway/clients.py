"""The clients of the queue that a gateway speaks as: one for each account, all on one connection."""

from __future__ import annotations

from nats.aio.client import Client as NatsConnection

from broker.client import Client
from producers.gateway.keys import Account


class Clients:
    """Made when they are first asked for."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self._found: dict[str, Client] = {}

    def of(self, account: Account) -> Client:
        """The client that publishes that account's turns."""
        if account.name not in self._found:
            self._found[account.name] = Client.on(self._nc, account.name)
        return self._found[account.name]
