"""Does `turnpike models pull` from a mirror keep up with curl, from the same mirror and onto the same disk?

The file is fetched in turns by curl, which checks nothing, and by our command's own function, which hashes what comes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Row, show
from broker.accounts import WORKER, write_credentials
from broker.catalogue import Locked, write_lock
from broker.mirror import fetch_from_mirror, path_of
from broker.process import spawn, terminate
from broker.server import EmbeddedServer

SIZE = 1024 * 1024 * 1024
ROUNDS = 5


def timed(fetch: Callable[[], object], target: Path) -> float:
    """Bytes per second of a fetch onto a fresh file, until the kernel has them on the disk."""
    target.unlink(missing_ok=True)
    os.sync()
    started = time.perf_counter()
    fetch()
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return SIZE / (time.perf_counter() - started)


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="turnpike-mirror-") as name:
        folder = Path(name)
        content = os.urandom(1 << 20) * (SIZE >> 20)
        wanted = Locked("r/m", "0" * 40, "m.gguf", hashlib.sha256(content).hexdigest(), SIZE)
        write_lock(folder / "lock", {"m": wanted})
        (folder / "models").mkdir()
        wanted.path_in(folder / "models", "m").write_bytes(content)
        del content
        async with EmbeddedServer(folder / "nats") as server:
            write_credentials(folder / "worker", server.address(WORKER))
            command: list[str | Path] = [
                sys.executable,
                "turnpike",
                "models",
                "serve",
                "--credentials",
                folder / "worker",
            ]
            flags: list[str | Path] = [
                "--lock-file",
                folder / "lock",
                "--models-dir",
                folder / "models",
                "--mirror-host",
                "127.0.0.1",
            ]
            process = await spawn(
                [*command, *flags, "--mirror-port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert process.stdout is not None
            assert process.stderr is not None
            url = (await process.stdout.readline()).decode().split()[-1]
            while b"serving model" not in await process.stderr.readline():
                pass
            target = folder / "fetched"
            curl: list[str | Path] = ["curl", "-sf", "-o", target, url + path_of(wanted.sha256)]
            ours, theirs = [], []

            def fetch() -> None:
                fetch_from_mirror(url, wanted, target, lambda done, total: None)

            for _ in range(ROUNDS):
                theirs.append(await asyncio.to_thread(timed, lambda: subprocess.run(curl, check=True), target))
                ours.append(await asyncio.to_thread(timed, fetch, target))
            await terminate(process)
    ratio = statistics.median(own / peer for own, peer in zip(ours, theirs, strict=True))
    own, peer = (f"{statistics.median(one) / 1e6:.0f} MB/s" for one in (ours, theirs))
    show("a model's file from a mirror", [Row("1 GiB from a mirror, hash checked ÷ curl", own, peer, ratio, 0.8)])


if __name__ == "__main__":
    asyncio.run(main())
