"""`turnpike embed`: vectors of texts."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

from broker.declaring import Argument
from broker.errors import SettingsError
from broker.settings import CommonSettings
from turnpike.cli.addresses import address
from turnpike.cli.command import command


class EmbedOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike embed`."""

    file: Annotated[
        str, Argument("a text a line; - reads standard input", metavar="FILE", is_positional=True, path="file")
    ]
    model: Annotated[str, Argument("the embedding model")]
    out: Annotated[
        str | None,
        Argument(
            "a .npy file of all vectors, a row each; what was left of it is gone on with", metavar="FILE", path="file"
        ),
    ] = None
    json: Annotated[bool, Argument("each text's vector as a JSON line")] = False
    field: Annotated[str | None, Argument("each line is a JSON object, whose text is in this field")] = None
    truncate: Annotated[
        bool, Argument("of a text that is longer than the model's context take so much as it holds")
    ] = False
    dimensions: Annotated[
        int | None,
        Argument("the first N values of each vector, again of length 1: for models that were trained for it"),
    ] = None

    def check(self) -> None:
        """Raises SettingsError unless it is said where the vectors go."""
        if (self.out is None) != self.json:
            raise SettingsError(["--out and --json: where do the vectors go? one of the two is wanted"])
        if self.dimensions is not None and self.dimensions < 1:
            raise SettingsError(["--dimensions: must be at least 1"])


def run_embed(options: EmbedOptions) -> int:
    """The vectors of a file's texts."""
    from broker import process
    from producers.embedding.command import Wanted, embed
    from producers.embedding.texts import Texts

    where = address(options, "local")
    wanted = Wanted(options.model, options.truncate, options.dimensions)
    out = None if options.out is None else Path(options.out).expanduser()
    path = Path(options.file).expanduser()
    # Of a pipe all at once: reading it bit by bit would keep a signal, and the connection, waiting.
    opened = nullcontext(sys.stdin.readlines()) if options.file == "-" else path.open(encoding="utf-8")
    with opened as lines:
        texts = Texts(lines, options.field)
        return process.run(lambda stop: embed(where, wanted, texts, out, stop), patience=process.PATIENCE_SECONDS)


EMBED = command(
    "embed",
    "vectors of texts, by an embedding model",
    "turnpike embed passages.txt --model bge-small --out vectors.npy",
    EmbedOptions,
    run_embed,
)
