"""Whose browser pages may ask a gateway."""

from __future__ import annotations

import socket
from collections.abc import MutableMapping
from typing import Any

import pytest

from producers.gateway.origins import Doorkeeper, Origins

HERE = "127.0.0.1:8080"


@pytest.mark.parametrize(
    "origin",
    [
        "http://127.0.0.1:8080",
        "http://localhost:5173",
        "https://localhost",
        "http://chat.localhost:3000",
        "http://[::1]:9000",
        "app://obsidian.md",
        "vscode-webview://1abc",
    ],
)
def test_without_keys_pages_and_programs_of_this_machine_may(origin: str) -> None:
    assert Origins().may(origin, HERE)


@pytest.mark.parametrize(
    "origin",
    [
        "http://chat.local:5173",
        "https://evil.example",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://evil.example/?http://localhost",
        "http://localhost:80@evil.example",
        "null",
        "",
        "http://localhost:5173\nx",
    ],
)
def test_without_keys_no_website_may(origin: str) -> None:
    assert not Origins().may(origin, HERE)
    assert not Origins().may(origin, "pi:8080")


def test_with_keys_any_page_may_as_it_has_to_know_one_unless_some_are_named() -> None:
    assert Origins(are_keys_wanted=True).may("https://chat.example", HERE)
    named = Origins(("https://chat.example",), are_keys_wanted=True)
    assert named.may("https://chat.example", HERE)
    assert not named.may("https://evil.example", HERE)
    assert Origins(("*",)).may("https://evil.example", HERE)


def test_a_gateways_own_page_may_by_the_name_that_it_was_asked_for() -> None:
    assert Origins().may("http://pi:8080", "pi:8080")
    assert not Origins().may("http://pi:8080", "other:8080")


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example:8080", "chat.local", "127.0.0.1.evil.example", "a b", "localhost.evil.example"),
        *("[", "[evil.example]:80", "evil.example.", "internal.evil.example", "evil.examplelocalhost"),
    ],
)
def test_without_keys_a_gateway_has_no_names_of_others(host: str) -> None:
    """Else a website's name that is made to stand for this machine would make its page the gateway's own, whatever
    address the gateway listens at."""
    assert not Origins().knows(host)
    assert not Origins().may(f"http://{host}", host)
    assert not Origins(hosts=("0.0.0.0", "chat.example")).knows(host)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost:8080", HERE, "[::1]:8080", "192.168.1.9:80", "[fd00::9]", ""),
        *("x.localhost", "host.docker.internal:80", "pi", "turnpike-gateway:8080", "pi.home.arpa", "Localhost"),
        *(socket.gethostname(), f"{socket.gethostname().partition('.')[0].upper()}.local:8080"),
    ],
)
def test_addresses_and_the_machines_own_names_are_known(host: str) -> None:
    assert Origins().knows(host)


def test_other_names_are_known_where_they_are_listed_or_a_key_is_wanted() -> None:
    assert Origins(hosts=("chat.example",)).knows("Chat.example:8080")
    assert not Origins(hosts=("chat.example",)).knows("x.chat.example")
    assert Origins(hosts=(".turnpike.svc",)).knows("gateway.turnpike.svc:8080")
    assert not Origins(hosts=(".turnpike.svc",)).knows("turnpike.svc.evil.example")
    assert Origins(hosts=("*",)).knows("evil.example")
    assert Origins(("http://chat.example:3000",)).knows("chat.example")
    assert Origins(are_keys_wanted=True).knows("gateway.example")
    assert Origins(("https://chat.example",), are_keys_wanted=True).knows("gateway.example")


async def test_a_request_by_an_unknown_name_is_told_which_setting_names_it() -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def never(*_: Any) -> Any:
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"evil.example:8080")]}
    await Doorkeeper(never, Origins())(scope, never, send)
    assert sent[0]["status"] == 403
    assert b"'evil.example:8080'" in sent[1]["body"]
    assert b"--hosts" in sent[1]["body"]


async def asked(origins: Origins, method: str, **headers: str) -> tuple[int, dict[str, str], bool]:
    """Status, headers, and whether the gateway heard of it."""
    has_heard = False
    sent: list[MutableMapping[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal has_heard
        has_heard = True
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in ({"host": HERE} | headers).items()]
    await Doorkeeper(app, origins)({"type": "http", "method": method, "path": "/", "headers": raw}, receive, send)
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, has_heard


PREFLIGHT = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,content-type"}


async def test_a_browser_that_asks_beforehand_is_told_that_its_page_may_or_nothing() -> None:
    page = "http://chat.local:5173"
    status, told, _ = await asked(Origins((page,)), "OPTIONS", origin=page, **PREFLIGHT)
    assert (status, told["access-control-allow-origin"]) == (200, page)
    assert "authorization" in told["access-control-allow-headers"]
    status, told, has_heard = await asked(Origins(), "OPTIONS", origin=page, **PREFLIGHT)
    assert (status, has_heard) == (200, False)
    assert [name for name in told if name.startswith("access-control")] == []


async def test_where_all_may_each_is_told_its_own_name_and_none_may_send_cookies() -> None:
    page = "https://chat.example"
    for method, more in (("OPTIONS", PREFLIGHT), ("POST", {})):
        status, told, _ = await asked(Origins(("*",)), method, origin=page, **more)
        assert (status, told["access-control-allow-origin"]) == (200, page)
        assert "Origin" in told["vary"]
        assert "access-control-allow-credentials" not in told


async def test_a_page_that_may_not_is_not_heard_at_all_and_one_that_may_reads_the_headers() -> None:
    assert (await asked(Origins(), "POST", origin="https://evil.example"))[::2] == (403, False)
    assert (await asked(Origins(), "POST", host="evil.example", origin="http://evil.example"))[::2] == (403, False)
    assert (await asked(Origins(), "POST"))[::2] == (200, True)
    status, told, has_heard = await asked(Origins(), "POST", origin="http://localhost:5173")
    assert (status, has_heard, told["access-control-allow-origin"]) == (200, True, "http://localhost:5173")
    exposed = {one.strip().lower() for one in told["access-control-expose-headers"].split(",")}
    assert {"turnpike-turn", "request-id", "x-request-id", "retry-after", "www-authenticate"} <= exposed
