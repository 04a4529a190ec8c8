"""Files that people write, as their editors leave them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.accounts import read_credentials
from broker.catalogue import read_lock
from broker.errors import TurnpikeError
from broker.settings import load
from producers.experiment.plan import read_plan
from producers.gateway.keys import read_keys
from producers.routing.policies import read_routes
from producers.settings import LoadSettings

DIGEST = "0" * 64
REVISION = "1" * 40
READERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "settings": (lambda path: load(LoadSettings, flags={}, environment={}, file=path), 'model = "m"\n'),
    "keys": (read_keys, f'[clients.alice]\nsha256 = ["{DIGEST}"]\n'),
    "policies": (read_routes, '[policies.best]\nmodels = ["m"]\n'),
    "plan": (read_plan, 'name = "p"\n[[models]]\nmodel = "m"\n'),
    "lock": (
        read_lock,
        f'[m]\nrepository = "o/m"\nrevision = "{REVISION}"\nfile = "m.gguf"\nsha256 = "{DIGEST}"\nsize_bytes = 1\n',
    ),
    "credentials": (
        read_credentials,
        json.dumps({"url": "nats://127.0.0.1:4222", "user": "u", "password": "p"}),
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_at_the_beginning_is_no_text(tmp_path: Path, name: str) -> None:
    reader, text = READERS[name]
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    plain.write_text(text)
    marked.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert reader(marked) == reader(plain)


@pytest.mark.parametrize("content", [b"\xff\xfe[\x00m\x00]\x00", b'model = "\xff"\n', b"a = " + b"[" * 50_000])
@pytest.mark.parametrize("name", READERS)
def test_what_cannot_be_read_is_one_line_that_names_the_file(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / "odd"
    path.write_bytes(content)
    with pytest.raises(TurnpikeError) as caught:
        READERS[name][0](path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_cannot_be_opened_is_told_in_words(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    for path, why in ((tmp_path / "nope", "no such file"), (tmp_path / "folder", "is a directory")):
        with pytest.raises(TurnpikeError) as caught:
            READERS[name][0](path)
        assert f"{path}: " in str(caught.value)
        assert why in str(caught.value).lower()
        assert "Errno" not in str(caught.value)
