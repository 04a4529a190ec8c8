from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from broker.accounts import write_credentials
from broker.connection import Address, connect
from broker.errors import ServerUnavailable, SettingsError
from broker.settings import CommonSettings
from turnpike.cli.addresses import address


@pytest.mark.parametrize(
    ("url", "urls", "user", "password"),
    [
        ("nats://me:s%40t@pi:4222", ["nats://pi:4222"], "me", "s@t"),
        ("nats://me:x@a:4222,nats://me:x@b", ["nats://a:4222", "nats://b"], "me", "x"),
        ("nats://me:x@a:4222,nats://b:4222", ["nats://a:4222", "nats://b:4222"], "me", "x"),
        ("tls://me:x@a, b:4333,", ["tls://a", "tls://b:4333"], "me", "x"),
        ("pi", ["nats://pi"], "anonymous", None),
        ("nats://[::1]:4222", ["nats://[::1]:4222"], "anonymous", None),
    ],
)
def test_one_server_or_several_of_a_cluster(url: str, urls: list[str], user: str, password: str | None) -> None:
    found = Address.parse(url)
    assert (found.urls, found.user, found.password) == (urls, user, password)
    assert "x" not in found.url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nats://h:port", "no address of a NATS server"),
        ("nats://h:99999", "no address of a NATS server"),
        ("nats://[::1", "no address of a NATS server"),
        ("http://h", "no address of a NATS server"),
        ("nats://", "no address of a NATS server"),
        ("", "no address"),
        (" , ", "no address"),
        ("nats://x,tls://y", "both nats and tls"),
        ("nats://a:hush@x,nats://c:hush@y", "different users or passwords"),
        ("nats://a:hush@x:port", "no address of a NATS server"),
    ],
)
def test_what_is_no_address_is_a_sentence_without_the_password(url: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as caught:
        Address.parse(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "variable", "told"),
    [
        ({}, "", "(where the broker of {folder} ran last): "),
        ({}, "nats://127.0.0.1:1", "(by NATS_URL): "),
        ({"credentials": "{folder}/local.credentials"}, "", "(by {folder}/local.credentials): "),
        ({"url": "nats://127.0.0.1:1"}, "nats://127.0.0.1:2", ":1: "),
    ],
)
async def test_where_nobody_answers_it_is_said_who_named_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, str], variable: str, told: str
) -> None:
    write_credentials(tmp_path / "local.credentials", Address("nats://127.0.0.1:1", "local", "x"))
    monkeypatch.setenv("NATS_URL", variable)
    settings = {name: text.format(folder=tmp_path) for name, text in said.items()}
    there = address(msgspec.convert({"data_dir": str(tmp_path), **settings}, CommonSettings), "local")
    with pytest.raises(ServerUnavailable) as caught:
        await connect(there, name="x", timeout=0.5)
    assert str(caught.value).startswith("no NATS server answers at nats://127.0.0.1:1")
    assert told.format(folder=tmp_path) in str(caught.value)
