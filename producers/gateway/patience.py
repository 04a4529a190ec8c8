"""How long an answer is waited for: to its deadline, kept also where no worker keeps it, and not for ever where nobody
serves its model any more, nor can load it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from broker.answer import Answer
from broker.model_status import ModelStatus
from producers.gateway.errors import ApiError, not_loaded

GRACE_SECONDS = 1.0
"""For a worker to end a turn at its deadline by itself, with what it knows."""
LOOK_SECONDS = 1.0
NOBODY_SECONDS = 60.0
"""How long a turn that was queued while its model had a worker waits for another: one that is started anew is back by
then."""


class Patience:
    """With one answer. `num_workers` says how many may answer it as of now, `status` what boards do about its model."""

    def __init__(
        self,
        answer: Answer,
        num_workers: Callable[[], int],
        status: Callable[[], ModelStatus | None] = lambda: None,
    ) -> None:
        self._answer = answer
        self._num_workers = num_workers
        self._status = status

    async def until_hopeless(self) -> ApiError:
        """Comes back when it is not worth waiting any longer, with what to tell."""
        deadline = self._answer.turn.deadline
        alone_since: float | None = None
        num_tokens = 0
        while True:
            left = LOOK_SECONDS if deadline is None else deadline + GRACE_SECONDS - time.time()
            if left <= 0:
                message = "the deadline has passed, and no worker has answered"
                return ApiError(408, message, kind="server_error", code="deadline", may_retry=False)
            if deadline is None:
                now = time.monotonic()
                # Whoever generates is there, whether or not its word has come through.
                is_alone = not self._num_workers() and self._answer.num_tokens == num_tokens
                num_tokens = self._answer.num_tokens
                alone_since = None if not is_alone else alone_since if alone_since is not None else now
                if alone_since is not None and now - alone_since > NOBODY_SECONDS:
                    if (status := self._status()) is not None and not status.is_servable:
                        return not_loaded(status)
                    message = f"no worker serves {self._answer.model!r} any more"
                    return ApiError(503, message, kind="server_error", code="no_worker", retry_after=5.0)
            await asyncio.sleep(min(left, LOOK_SECONDS))

    async def bounded[T](self, work: Awaitable[T]) -> T:
        """Awaits the work as long as there is hope; raises ApiError, and the work is cancelled."""
        working = asyncio.ensure_future(work)
        giving_up = asyncio.ensure_future(self.until_hopeless())
        try:
            await asyncio.wait({working, giving_up}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise giving_up.result()
        finally:
            for task in (working, giving_up):
                task.cancel()
            await asyncio.gather(working, giving_up, return_exceptions=True)
