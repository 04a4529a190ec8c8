"""What a model does on a Raspberry Pi: whether it fits, how many conversations it keeps, about how fast it can be.

Made of the catalogue and of the worker's own memory plan. `python -m tools.boards` writes the table of docs/boards.md
and, from it, the models of k3s/models and the boards of k3s/boards.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path

from broker.catalogue import Entry, read_catalogue
from workers.boards.offers import PARKED_SHARE
from workers.machine.memory import MemoryPlan, largest_ctx
from workers.machine.model_plan import LIMIT_HEADROOM_BYTES, PI5_BANDWIDTH_BYTES, plan

GIB = 1024**3
MIB = 1024**2
BOARDS_GIB = (4, 8, 16)
FIRMWARE_BYTES = 144 * MIB
"""What of a board's memory Linux does not see: firmware and the reserved contiguous area."""
OTHERS_BYTES = 900 * MIB
"""For Raspberry Pi OS without a desktop, K3s' agent, the sidecar, and room to breathe."""
CONVERSATION_TOKENS = 1000
MAX_CTX = 8192
SERVICES_BYTES = 1024 * MIB
"""What NATS, the database, Grafana and the gateways ask for together: they run beside boards."""


@dataclass(frozen=True)
class OnBoard:
    """A model on a board of some size. `num_ctx` is 0 where it does not fit."""

    entry: Entry
    num_ctx: int
    board_gib: int = 8

    @property
    def plan(self) -> MemoryPlan:
        """With a quarter of what the rest leaves free for conversations at rest, as the worker takes by itself."""
        found = plan(self.entry, self.num_ctx)
        return replace(found, offload_cache=max(0, available_bytes(self.board_gib) - found.needed) // 4)

    @property
    def num_parked(self) -> int:
        """Kept in RAM besides, of CONVERSATION_TOKENS each."""
        return self.plan.offload_cache // conversation_bytes(self.entry)

    @property
    def num_conversations(self) -> int:
        """Kept in the context at once, of CONVERSATION_TOKENS each."""
        return self.num_ctx // CONVERSATION_TOKENS

    @property
    def tokens_per_second(self) -> tuple[float, float]:
        """At least and at most, of one conversation behind CONVERSATION_TOKENS: each token reads weights and cache."""
        read = self.entry.read_bytes + conversation_bytes(self.entry)
        return PI5_BANDWIDTH_BYTES[0] / read, PI5_BANDWIDTH_BYTES[1] / read


def answering() -> dict[str, Entry]:
    """Token → model, of those that have conversations: embedding models have none to be kept."""
    return {token: entry for token, entry in read_catalogue().items() if entry.memory != "none"}


def conversation_bytes(entry: Entry) -> int:
    """What is kept of a conversation of CONVERSATION_TOKENS: of windows the last tokens only, of states one."""
    in_windows = min(CONVERSATION_TOKENS, entry.window) * entry.window_bytes_per_token
    return CONVERSATION_TOKENS * entry.kv_bytes_per_token + in_windows + entry.state_bytes


def available_bytes(board_gib: int) -> int:
    """What of a board's memory a worker may take."""
    return board_gib * GIB - FIRMWARE_BYTES - OTHERS_BYTES


def on_board(entry: Entry, board_gib: int, max_ctx: int = 32 * MAX_CTX) -> OnBoard:
    """With the largest context that fits a board."""
    return OnBoard(entry, largest_ctx(lambda ctx: plan(entry, ctx), max_ctx, available_bytes(board_gib)), board_gib)


def on_k3s(entry: Entry, board_gib: int = 8) -> OnBoard:
    """As k3s/models has it: a context of MAX_CTX tokens where it fits, and not more than two of the model's own."""
    return on_board(entry, board_gib, max_ctx=min(MAX_CTX, 2 * entry.context))


def reference() -> str:
    """The table of docs/boards.md."""
    heads = [f"{gib} GB" for gib in BOARDS_GIB]
    lines = [
        "| model | file | KV of 1,000 tokens | " + " | ".join(heads) + " | tokens/s at most |",
        "|---|---|---|" + "---|" * (len(heads) + 1),
    ]
    for token, entry in answering().items():
        cells = []
        for gib in BOARDS_GIB:
            found = on_board(entry, gib)
            cells.append(f"{found.num_conversations}, {found.num_ctx:,} tokens" if found.num_ctx else "no")
        low, high = OnBoard(entry, CONVERSATION_TOKENS).tokens_per_second
        lines.append(
            f"| `{token}` | {entry.size_bytes / 1e9:.2f} GB | {conversation_bytes(entry) / 1e6:.0f} MB | "
            + " | ".join(cells)
            + f" | {low:.1f} to {high:.1f} |"
        )
    return "\n".join(lines) + "\n"


def kustomization(token: str, entry: Entry, board_gib: int = 8) -> str | None:
    """A worker of this model on K3s, with requests and limits from its plan; None where it does not fit."""
    found = on_k3s(entry, board_gib)
    if not found.num_ctx:
        return None
    request = math.ceil(found.plan.total / MIB)
    limit = math.ceil((found.plan.total + LIMIT_HEADROOM_BYTES) / MIB)
    storage = math.ceil(1.1 * entry.size_bytes / GIB) + 1
    return f"""# {entry.name}, {entry.quantization}, on a board of {board_gib} GB. Made by `python -m tools.boards`.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
nameSuffix: -{token}
resources:
  - ../../worker
components:
  - ../../components/hub-model
labels:
  - pairs:
      turnpike.io/model: {token}
    includeSelectors: true
    includeTemplates: true
patches:
  - target:
      kind: Deployment
      name: worker
    patch: |-
      apiVersion: apps/v1
      kind: Deployment
      metadata:
        name: worker
      spec:
        template:
          spec:
            nodeSelector:
              turnpike.io/model: {token}
            initContainers:
              - name: fetch-model
                args: [models, pull, {token}]
            containers:
              - name: worker
                env:
                  - name: TURNPIKE_MODEL
                    value: {token}
                  - name: TURNPIKE_NUM_CTX
                    value: "{found.num_ctx}"
                  - name: TURNPIKE_PARK_BYTES
                    value: "{found.plan.offload_cache}"
                resources:
                  requests:
                    memory: {request}Mi
                  limits:
                    memory: {limit}Mi
  - target:
      kind: PersistentVolumeClaim
      name: models
    patch: |-
      - op: replace
        path: /spec/resources/requests/storage
        value: {storage}Gi
"""


def models_bytes(board_gib: int) -> int:
    """What a board's pod has for its models together: the rest of its limit is the board's own, and what workers
    take beyond their plans."""
    return available_bytes(board_gib) - LIMIT_HEADROOM_BYTES


def board_kustomization(board_gib: int) -> str:
    """Boards on nodes with so much memory."""
    limit = available_bytes(board_gib)
    return f"""# A board on each node, of {board_gib} GB. Made by `python -m tools.boards`.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - ../../board
patches:
  - target:
      kind: DaemonSet
      name: board
    patch: |-
      apiVersion: apps/v1
      kind: DaemonSet
      metadata:
        name: board
      spec:
        template:
          spec:
            containers:
              - name: board
                env:
                  - name: TURNPIKE_MEMORY_BYTES
                    value: "{models_bytes(board_gib)}"
                resources:
                  requests:
                    memory: {(limit - SERVICES_BYTES) // MIB}Mi
                  limits:
                    memory: {limit // MIB}Mi
            volumes:
              - name: memory
                emptyDir:
                  medium: Memory
                  sizeLimit: {models_bytes(board_gib) // PARKED_SHARE // MIB}Mi
"""


def board_sizes() -> dict[str, str]:
    """A name as `8gb` → the text of k3s/boards/NAME/kustomization.yaml."""
    return {f"{gib}gb": board_kustomization(gib) for gib in BOARDS_GIB}


def models() -> dict[str, str]:
    """Token → the text of k3s/models/TOKEN/kustomization.yaml."""
    found = {token: kustomization(token, entry) for token, entry in answering().items()}
    return {token: text for token, text in found.items() if text is not None}


def plans() -> str:
    """The second table of docs/boards.md: the memory plan of a board with 8 GB, in MiB."""
    lines = [
        "| model | weights | context | KV cache | computing | process | parking | conversations in context, parked |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for token, entry in answering().items():
        found = on_k3s(entry)
        if not found.num_ctx:
            lines.append(f"| `{token}` | {entry.size_bytes / MIB:,.0f} | does not fit | | | | | |")
            continue
        made = found.plan
        sizes = [
            f"{size / MIB:,.0f}" for size in (made.weights, made.kv, made.compute, made.process, made.offload_cache)
        ]
        lines.append(
            f"| `{token}` | {sizes[0]} | {found.num_ctx:,} | {' | '.join(sizes[1:])} | "
            f"{found.num_conversations}, {found.num_parked} |"
        )
    return "\n".join(lines) + "\n"


MARK = "<!-- made by `python -m tools.boards` -->\n"
PLANS_MARK = "<!-- and this -->\n"


def renew(root: Path) -> None:
    """Writes all of it."""
    page = root / "docs" / "boards.md"
    head, _, rest = page.read_text().partition(MARK)
    rest = rest[rest.find("\n\n") + 1 :]
    between, _, rest = rest.partition(PLANS_MARK)
    page.write_text(head + MARK + reference() + between + PLANS_MARK + plans() + rest[rest.find("\n\n") + 1 :])
    for kind, made in (("models", models()), ("boards", board_sizes())):
        for name, text in made.items():
            folder = root / "k3s" / kind / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "kustomization.yaml").write_text(text)


if __name__ == "__main__":
    what = "Renews docs/boards.md, k3s/models and k3s/boards."
    parser = argparse.ArgumentParser(prog="python -m tools.boards", description=what)
    parser.add_argument("root", type=Path, nargs="?", default=Path(), help="the checkout (default: this folder)")
    renew(parser.parse_args().root)
