"""How the worker's node is: what its sidecar tells of heat, throttling and power."""

from __future__ import annotations

import contextlib
import time

from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker import codec, subjects
from broker.errors import InvalidMessage
from broker.messages import NodeState
from workers.engine.power import Power

NODE_SECONDS = 10.0
"""How long what the sidecar said of the node holds."""


class NodeListener:
    """Hears the node's sidecar from `start` to `stop`, and tells the engine how much power the node draws."""

    def __init__(self, nc: NatsConnection, node: str, power: Power) -> None:
        self._nc = nc
        self._subject = subjects.node(node)
        self._power = power
        self._heard_at = 0.0
        self._subscription: Subscription | None = None
        self.state = NodeState()
        """As it was told last; nothing is known where that is too long ago."""

    async def start(self) -> None:
        """From now on the sidecar is heard."""
        self._subscription = await self._nc.subscribe(self._subject, cb=self._on_state)

    async def stop(self) -> None:
        """It is not heard any more. Raises nats.errors.Error."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    def hear(self, state: NodeState) -> None:
        """The node is so just now."""
        self.state, self._heard_at = state, time.perf_counter()
        self._power.tell(state.watts)

    def forget_old(self) -> None:
        """What was told too long ago is not known any more; to be called now and then."""
        if time.perf_counter() - self._heard_at > NODE_SECONDS:
            self.state = NodeState()
            self._power.tell(None)

    async def _on_state(self, message: Msg) -> None:
        with contextlib.suppress(InvalidMessage):
            self.hear(codec.decode(message.data, NodeState, message.headers, optional=NodeState.__struct_fields__))
