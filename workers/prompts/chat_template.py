"""Which chat template a model gets: the one that was asked for, the file's, the catalogue's, or one that stands in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from broker.catalogue import read_catalogue
from broker.errors import SettingsError

FOLDER = Path(__file__).with_name("templates")
MAX_BYTES = 1024 * 1024
PLAIN = "plain"
CHATML_WORDS = ("<|im_start|>", "<|im_end|>")

log = logging.getLogger(__name__)

IsToken = Callable[[str], bool]
"""Whether a text is one token of a vocabulary's."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template, and whence it comes."""

    text: str
    origin: str
    """For people: the start log and the worker's facts say it."""
    is_stand_in: bool = False
    """Neither the file's nor asked for."""
    is_plain: bool = False
    """Of a model that nothing says how to chat with."""

    def tell(self) -> None:
        """Says in the log which one it is."""
        level = logging.WARNING if self.is_stand_in else logging.INFO
        log.log(level, "template %s%s", self.origin, "; --chat-template names another" if self.is_stand_in else "")


@cache
def builtin_names() -> tuple[str, ...]:
    """llama.cpp's, and `plain`."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.jinja")))


def builtin_template(name: str) -> str:
    """The template of that name."""
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def asked_for(given: str) -> ChatTemplate:
    """What `--chat-template NAME|FILE` means. Raises SettingsError."""
    if given in builtin_names():
        return ChatTemplate(builtin_template(given), f"{given}, as asked for")
    path = Path(given).expanduser()
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        names = ", ".join(builtin_names())
        raise SettingsError([f"--chat-template: {given} is neither a file nor one of {names}"]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text in UTF-8"
        raise SettingsError([f"--chat-template: {given}: {reason}"]) from None
    if not text.strip() or len(text) > MAX_BYTES:
        what = "is empty" if not text.strip() else f"has over {MAX_BYTES} bytes"
        raise SettingsError([f"--chat-template: {given} {what}"])
    return ChatTemplate(text, f"{path}, as asked for")


def catalogued(model: str | None) -> str:
    """The name of what the catalogue has for a model whose file has no template; empty where it says nothing."""
    entry = read_catalogue().get(model or "")
    return "" if entry is None else entry.chat_template


def of_model(given: str | None, of_file: str | None, of_catalogue: str, is_token: IsToken) -> ChatTemplate:
    """The template of a model: what was asked for, else what its file has; a file without one gets the catalogue's,
    ChatML where its vocabulary has ChatML's tokens, or the plain form. Raises SettingsError."""
    if given is not None:
        return asked_for(given)
    if of_file:
        return ChatTemplate(of_file, "the file's")
    if of_catalogue:
        reason = "as the file has none and the catalogue says so"
        return ChatTemplate(builtin_template(of_catalogue), f"{of_catalogue}, {reason}")
    if all(map(is_token, CHATML_WORDS)):
        reason = "as the file has none and its vocabulary has ChatML's tokens"
        return ChatTemplate(builtin_template("chatml"), f"chatml, {reason}", is_stand_in=True)
    reason = "as the file has none and its vocabulary has not ChatML's tokens"
    origin = f"{PLAIN}, `User:` and `Assistant:` on lines of their own, {reason}"
    return ChatTemplate(builtin_template(PLAIN), origin, is_stand_in=True, is_plain=True)
