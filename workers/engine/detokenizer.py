"""Pieces → text: whole UTF-8 only, stop strings found across token borders. Pure."""

from __future__ import annotations

import codecs


class Detokenizer:
    """Turns one answer's token pieces into text that can be sent.

    Held back is what cannot be sent yet: the bytes of an unfinished character, and text that may be the beginning of a
    stop string.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = stop
        self._held = ""
        self.stop: str | None = None
        """The stop string that was found; the text ends before it."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self.stop is not None

    @property
    def is_holding(self) -> bool:
        """Whether text is held back that may be the beginning of a stop string."""
        return bool(self._held)

    @property
    def is_cut(self) -> bool:
        """Whether what was added ends within a character."""
        return bool(self._decoder.getstate()[0])

    def add(self, piece: bytes) -> str:
        """The text that this piece makes sendable."""
        assert not self.stopped
        self._held += self._decoder.decode(piece)
        return self._release()

    def finish(self) -> str:
        """The rest, when the answer ends here. Bytes that never became a character are U+FFFD."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        rest = self._release()
        if not self.stopped:
            rest, self._held = rest + self._held, ""
        return rest

    def _release(self) -> str:
        if not self._stop:
            text, self._held = self._held, ""
            return text
        places = ((self._held.find(stop), stop) for stop in self._stop)
        if (found := min((one for one in places if one[0] >= 0), default=None)) is not None:
            at, self.stop = found
            text, self._held = self._held[:at], ""
            return text
        keep = max(_overlap(self._held, stop) for stop in self._stop)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a proper beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
