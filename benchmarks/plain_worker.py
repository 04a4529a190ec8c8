"""`turnpike worker` whose chunks are plain publishes: neither stored nor fenced nor acknowledged.

For durable_replies.py. Its user must be one that may publish to `live.>`.
"""

from __future__ import annotations

import sys

from broker import codec, subjects
from broker.messages import Reply
from broker.replies import ReplyWriter
from turnpike.cli.main import main


async def write(self: ReplyWriter, reply: Reply) -> None:
    subject = subjects.live(self._address.client, self._address.turn)
    await self._nc.publish(subject, codec.encode(reply), headers={codec.CONTENT_TYPE: codec.MSGPACK})
    self.num_chunks += 1


if __name__ == "__main__":
    setattr(ReplyWriter, "_write", write)  # noqa: B010  (mypy will not have a method assigned)
    sys.exit(main())
