from __future__ import annotations

import pytest

from broker.connection import Address
from broker.errors import SettingsError


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
