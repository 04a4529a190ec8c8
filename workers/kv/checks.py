"""What a KV state must be before llama.cpp may see it, whether a file or a peer gives it. Pure; every check is here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from broker.messages import CutPoint, Holding, Opened, RecomputedFor
from workers.engine.protocol import State
from workers.kv.index import TOKEN_BYTES, split


class WrongState(ValueError):
    """The state is of no use here. `cause` is what computing it again is counted as."""

    def __init__(self, reason: str, cause: RecomputedFor) -> None:
        self.cause = cause
        super().__init__(reason)


def checksum(tokens: bytes, state: State) -> str:
    """The SHA-256 of a state and its packed tokens, in hexadecimal digits."""
    digest = hashlib.sha256(tokens)
    digest.update(state)
    return digest.hexdigest()


def cuts_checksum(checkpoints: Iterable[State]) -> str:
    """The SHA-256 of checkpoints, one behind the other, in hexadecimal digits."""
    digest = hashlib.sha256()
    for one in checkpoints:
        digest.update(one)
    return digest.hexdigest()


@dataclass(frozen=True)
class StateLayout:
    """What this worker's states are like, and whether another state is. All but the fingerprint are bytes."""

    fingerprint: str
    """Of the model file and of all else that decides how a state is laid out."""
    begin: int
    """What each state has, however many tokens it is of: that of recurrent layers too."""
    per_token: int
    """In layers that keep all tokens."""
    window: int = 0
    """Tokens that some layers look back on; 0 where none does only that."""
    per_window_token: int = 0
    """In those layers."""
    checkpoint_begin: int = 0
    """What each checkpoint has beside a window's tokens; 0 where states can be cut anywhere, and have none."""

    def state_bytes(self, num_tokens: int) -> int:
        """How many bytes the state of so many tokens has, at most."""
        return self.begin + num_tokens * self.per_token + min(num_tokens, self.window) * self.per_window_token

    def _is_state(self, num_tokens: int, num_bytes: int) -> bool:
        return num_bytes in self._with_window(num_tokens, self.begin + num_tokens * self.per_token)

    def _with_window(self, num_tokens: int, num_bytes: int) -> tuple[int, int]:
        """So many bytes and those of a window. The oldest of its tokens, on which the next one does not look back any
        more, may have been left out."""
        in_window = min(num_tokens, self.window), min(num_tokens, max(0, self.window - 1))
        most, least = (num_bytes + each * self.per_window_token for each in in_window)
        return most, least

    def check_announced(self, holding: Holding) -> None:
        """Checks what the directory says of a state, before its worker is asked. Raises WrongState."""
        self._check_fingerprint(holding.fingerprint)

    def check_description(self, fingerprint: str, num_tokens: int, num_bytes: int) -> None:
        """Checks what a state is said to be. Raises WrongState."""
        self._check_fingerprint(fingerprint)
        if num_tokens <= 0 or num_bytes <= 0 or not self._is_state(num_tokens, num_bytes):
            raise WrongState(f"{num_bytes} bytes for {num_tokens} tokens is not this model's shape", "fingerprint")

    def check_cuts(self, cuts: tuple[CutPoint, ...], num_tokens: int) -> None:
        """Checks what checkpoints a state of so many tokens is said to have. Raises WrongState."""
        before = 0
        for one in cuts:
            if not before < one.num_tokens < num_tokens:
                raise WrongState(f"a checkpoint behind {one.num_tokens} tokens is out of place", "fingerprint")
            if not self.checkpoint_begin or one.num_bytes not in self._with_window(
                one.num_tokens, self.checkpoint_begin
            ):
                raise WrongState(f"a checkpoint of {one.num_bytes} bytes is not this model's", "fingerprint")
            before = one.num_tokens

    def _check_fingerprint(self, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise WrongState("of another model or context", "fingerprint")

    def check_opened(self, opened: Opened, max_bytes: int) -> None:
        """Checks what a peer says that it has, before a byte of it is fetched. Raises WrongState."""
        num_tokens, rest = divmod(len(opened.tokens), TOKEN_BYTES)
        if rest:
            raise WrongState("its last token is cut", "fingerprint")
        self.check_description(opened.fingerprint, num_tokens, opened.num_bytes)
        self.check_cuts(opened.cuts, num_tokens)
        if opened.num_bytes > max_bytes:
            raise WrongState(f"{opened.num_bytes} bytes have no room in {max_bytes}", "fingerprint")

    def check_content(
        self, tokens: bytes, state: State, sha256: str, cuts: tuple[CutPoint, ...], cuts_sha256: str
    ) -> None:
        """Checks the bytes that came, those of checkpoints behind the state's. Takes a second for some hundred
        megabytes; raises WrongState."""
        whole, checkpoints = split(state, cuts)
        if checksum(tokens, whole) != sha256:
            raise WrongState("its checksum is wrong", "killed")
        if cuts and cuts_checksum(checkpoints) != cuts_sha256:
            raise WrongState("the checksum of its checkpoints is wrong", "killed")
