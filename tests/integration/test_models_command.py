"""`turnpike models` as a user runs it, against a hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from broker.catalogue import Locked, read_catalogue, read_lock, write_lock
from tests.hub_server import COMMIT, FILE, REPOSITORY, Hub, Zeros, serving
from tests.split_file import split
from tests.support import ROOT
from workers.models import DEMO

CONTENT = random.Random(0).randbytes(2_000_000)
MAX_RSS = "import resource; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"


@pytest.fixture
def server() -> Iterator[Hub]:
    with serving(CONTENT) as hub:
        yield hub


def command(folder: Path, *arguments: str) -> list[str]:
    where = ["--lock-file", str(folder / "lock"), "--models-dir", str(folder / "models")]
    return [sys.executable, str(ROOT / "turnpike"), "models", *arguments, *where]


def models(folder: Path, server: Hub, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / "hf")} | environment
    return subprocess.run(command(folder, *arguments), capture_output=True, text=True, env=env, timeout=100)


def lock(folder: Path, server: Hub) -> None:
    found = models(folder, server, "lock", "test", "--repository", REPOSITORY, "--file", FILE)
    assert found.returncode == 0, found.stderr


def test_locked_pulled_verified_and_used_offline(server: Hub, tmp_path: Path) -> None:
    lock(tmp_path, server)
    assert read_lock(tmp_path / "lock")["test"].revision == COMMIT
    pulled = models(tmp_path, server, "pull")
    assert Path(pulled.stdout.strip()).read_bytes() == CONTENT
    num_requests = server.num_requests
    again = models(tmp_path, server, "pull", "test", HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stdout) == (0, pulled.stdout)
    assert "as locked" in models(tmp_path, server, "verify").stdout
    assert server.num_requests == num_requests


def test_what_is_as_locked_and_no_model_that_answers_is_told(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "lora.gguf"), "llama")
    writer.add_type("adapter")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with serving((tmp_path / "lora.gguf").read_bytes()) as server:
        lock(tmp_path, server)
        pulled, verified = models(tmp_path, server, "pull"), models(tmp_path, server, "verify")
    assert (pulled.returncode, verified.returncode) == (0, 3)
    for found in (pulled, verified):
        assert "is a LoRA adapter" in found.stderr
    assert "as locked" in verified.stdout


def test_a_file_that_is_added_is_known_locked_and_here(server: Hub, tmp_path: Path) -> None:
    own = ("--catalogue", str(tmp_path / "own.toml"))
    added = models(tmp_path, server, "add", str(DEMO.path), "--name", "mine", *own)
    assert added.returncode == 0, added.stderr
    assert "as locked" in models(tmp_path, server, "verify", "mine").stdout
    (entry,) = (
        one for one in json.loads(models(tmp_path, server, "list", "--json", *own).stdout) if one["token"] == "mine"
    )
    assert (entry["state"], entry["family"], entry["size_bytes"]) == ("here", "llama", DEMO.path.stat().st_size)
    assert json.loads(models(tmp_path, server, "show", "mine", "--json").stdout)["name"] == "Turnpike demo"
    (path,) = (tmp_path / "models").glob("mine-*.gguf")
    path.unlink()
    pulled = models(tmp_path, server, "pull", "mine")
    assert (pulled.returncode, server.num_requests) == (1, 0)
    assert "was added on another node, and no mirror gave it" in " ".join(pulled.stderr.split())


def test_a_repository_that_is_added_is_fetched_and_one_of_no_chat_model_is_not_added(tmp_path: Path) -> None:
    own = ("--catalogue", str(tmp_path / "own.toml"))
    with serving(DEMO.path.read_bytes()) as hub:
        hub.others = {"odd.gguf": b"GGUF\x09" + bytes(60)}
        added = models(tmp_path, hub, "add", REPOSITORY, "--file", FILE, "--name", "mine", *own)
        assert added.returncode == 0, added.stderr
        assert read_lock(tmp_path / "lock")["mine"].revision == COMMIT
        refused = models(tmp_path, hub, "add", REPOSITORY, "--file", "odd.gguf", *own)
    assert refused.returncode == 1
    assert "is of version 9 of GGUF, newer than" in refused.stderr
    assert set(read_lock(tmp_path / "lock")) == {"mine"}
    assert set(read_catalogue(tmp_path / "own.toml")) == {"mine"}


def test_of_a_repository_the_usual_file_is_taken_or_all_are_told_with_their_sizes(tmp_path: Path) -> None:
    own = ("--catalogue", str(tmp_path / "own.toml"))
    with serving(DEMO.path.read_bytes()) as hub:
        hub.others = {"mmproj-F16.gguf": bytes(100)}
        only = models(tmp_path, hub, "add", REPOSITORY, "--name", "only", *own)
        assert only.returncode == 0, only.stderr
        folder = tmp_path / "parts"
        folder.mkdir()
        parts = [part.read_bytes() for part in split(DEMO.path, folder, 2)]
        hub.others |= {"b/model-Q8_0.gguf": bytes(3000)}
        open_choice = models(tmp_path, hub, "add", REPOSITORY, *own)
        hub.others |= {f"b/model-Q4_K_M-0000{number + 1}-of-00002.gguf": part for number, part in enumerate(parts)}
        usual = models(tmp_path, hub, "add", REPOSITORY, *own)
        hub.others |= {"c/other-Q4_K_M.gguf": bytes(9)}
        two = models(tmp_path, hub, "add", REPOSITORY, *own)
    locked = read_lock(tmp_path / "lock")
    assert locked["only"].file == FILE
    size = f"{len(DEMO.path.read_bytes()) / 1e9:.2f} GB"
    assert open_choice.returncode == 1
    assert (
        f"has 2 models, and not one that is Q4_K_M: name one by --file: b/model-Q8_0.gguf (0.00 GB), {FILE} ({size})"
        in (" ".join(open_choice.stderr.split()))
    )
    assert usual.returncode == 0, usual.stderr
    assert [one.file for one in locked["model-q4-k-m"].files] == list(hub.others)[2:4]
    assert two.returncode == 1
    assert "has 4 models" in two.stderr
    assert "mmproj" not in two.stderr


def test_offline_for_the_first_time_is_one_sentence(server: Hub, tmp_path: Path) -> None:
    lock(tmp_path, server)
    found = models(tmp_path, server, "pull", HF_HUB_OFFLINE="1")
    assert found.returncode == 1
    assert "HF_HUB_OFFLINE forbids to fetch it" in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("pull",), "there is no such file: turnpike models lock"),
        (("lock", "mistral"), "mistral is not in the catalogue"),
        (("lock", "llama-3-2-1b"), "the hub has no such repository"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    server: Hub, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    found = models(tmp_path, server, *arguments)
    assert found.returncode == 1
    assert sentence in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


def test_a_killed_pull_goes_on_where_it_was(tmp_path: Path) -> None:
    size = 400_000_000
    with serving(Zeros(size), hashlib.sha256(bytes(size)).hexdigest()) as server:
        lock(tmp_path, server)
        env = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")}
        pulling = subprocess.Popen(command(tmp_path, "pull"), env=env, stderr=subprocess.DEVNULL)
        while server.num_bytes_sent < size // 4:
            assert pulling.poll() is None
        pulling.send_signal(signal.SIGKILL)
        pulling.wait()
        (part,) = (tmp_path / "models").glob("*.part")
        have = part.stat().st_size
        assert 0 < have < size
        sent = server.num_bytes_sent
        found = models(tmp_path, server, "pull")
        assert found.returncode == 0, found.stderr
        assert Path(found.stdout.strip()).stat().st_size == size
        assert server.num_bytes_sent - sent <= size - have + (1 << 20)


def test_a_gigabyte_passes_through_little_memory(tmp_path: Path) -> None:
    size = 1_000_000_000
    digest = hashlib.sha256()
    for _ in range(1000):
        digest.update(bytes(1_000_000))
    with serving(Zeros(size), digest.hexdigest()) as server:
        lock(tmp_path, server)
        pulling = f"import subprocess; subprocess.run({command(tmp_path, 'pull')!r}, check=True, stdout=2); {MAX_RSS}"
        env = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")}
        found = subprocess.run([sys.executable, "-c", pulling], capture_output=True, text=True, env=env, timeout=110)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) * 1024 < 200_000_000
    (path,) = (tmp_path / "models").iterdir()
    assert path.stat().st_size == size
    path.unlink()  # pytest keeps the folders of its last runs


def test_the_list_says_what_fits_and_what_is_here(server: Hub, tmp_path: Path) -> None:
    one, states = Locked("o/r", "c" * 40, "m.gguf", "0" * 64, 5), {"yi-6b": "here", "gemma-7b": "damaged"}
    write_lock(tmp_path / "lock", dict.fromkeys([*states, "phi-3-mini"], one))
    (tmp_path / "models").mkdir()
    for name, size in (("yi-6b", 5), ("gemma-7b", 4)):
        one.path_in(tmp_path / "models", name).write_bytes(b"x" * size)
    found = json.loads(models(tmp_path, server, "list", "--json").stdout)
    by_token = {entry["token"]: entry for entry in found}
    assert by_token["smollm2-360m"]["largest_context"] > 0
    told = {name: entry["state"] for name, entry in by_token.items() if entry["state"]}
    assert told == states | {"phi-3-mini": "locked"}
    shown = models(tmp_path, server, "list").stdout
    assert re.search(r"tinyllama-1-1b\* .* 23 MB .* 2,048 ", shown)


def test_every_column_of_the_list_has_a_heading_and_nothing_is_cut_off(tmp_path: Path) -> None:
    found = subprocess.run(
        command(tmp_path, "list"), capture_output=True, text=True, timeout=60, env=os.environ | {"COLUMNS": "60"}
    )
    assert found.returncode == 0, found.stderr
    assert "…" not in found.stdout
    (heads,) = (line for line in found.stdout.splitlines() if "attention" in line)
    assert heads.split() == ["name", "size", "KV", "attention", "fits", "here"]
    assert "a window" in found.stdout
    assert " full" not in found.stdout


def test_without_a_broker_a_pull_does_not_speak_of_mirrors(server: Hub, tmp_path: Path) -> None:
    lock(tmp_path, server)
    local = tmp_path / "data" / "local.credentials"
    local.parent.mkdir()
    local.write_text('{"url": "nats://127.0.0.1:1", "user": "local"}')
    found = models(tmp_path, server, "pull", "--data-dir", str(local.parent))
    assert found.returncode == 0, found.stderr
    assert "mirror" not in found.stderr
    named = models(tmp_path, server, "pull", "--url", "nats://127.0.0.1:1")
    assert "no mirrors are looked for" in named.stderr


def test_a_lock_file_that_is_not_there_is_named_with_its_folder(server: Hub, tmp_path: Path) -> None:
    found = models(tmp_path, server, "pull", "tinyllama-1-1b")
    assert found.returncode == 1
    assert found.stderr.startswith(f"turnpike: {tmp_path}/lock: there is no such file")
