"""One Chromium for all tests of the gateway's page, and a page of it that has made no error when its test is over.

What drives it is a process of its own that is as slow to start as the browser: it is started once, too, and so these
tests share the event loop that it was started in, with their server in it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, Request, async_playwright, expect

from broker.server import EmbeddedServer
from tests.fakes import END, FIRST, FakeEngine

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
    pytest.mark.asyncio(loop_scope="session"),
]
"""Marks of a module whose tests have a page; it imports `nats_server` from here."""
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0")
REFUSED = re.compile("Failed to load resource: (the server responded with a status of 4|net::ERR_FAILED)")
"""What Chromium itself says of what the page expects, and tells in its own words."""


class Spoken(FakeEngine):
    """Answers with what a test has it say, from the next turn on."""

    says = "Well."

    def next_token(self, tokens: list[int], index: int) -> int:
        return ord(self.says[index]) + FIRST if index < len(self.says) else END


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    assert CHROMIUM is not None
    folder = tmp_path_factory.mktemp("chromium")
    command = [CHROMIUM, *ARGUMENTS, f"--user-data-dir={folder}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = (re.search(r"DevTools listening on (\S+)", line) for line in process.stderr)
        yield next(one[1] for one in found if one is not None)
        process.terminate()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """The same, as it is driven."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(chromium)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page with a store of its own."""
    errors: list[str] = []
    context = await browser.new_context(viewport={"width": 1100, "height": 760}, reduced_motion="reduce")
    found = await context.new_page()
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield found
    await context.close()
    unexpected = [one for one in errors if not REFUSED.match(one)]
    assert unexpected == [], unexpected


@pytest_asyncio.fixture(loop_scope="session")
async def nats_server(tmp_path: Path, queue_names: list[str]) -> AsyncIterator[EmbeddedServer]:
    """As all tests have it, in the loop of these."""
    async with EmbeddedServer(tmp_path / "server") as server:
        await server.ensure(queue_names)
        yield server


async def visit(page: Page, url: str, num_models: int = 2) -> None:
    """Comes back once the page is ready and knows so many models, `auto` among them."""
    await page.goto(url)
    await page.wait_for_selector("body[data-ready]")
    await expect(page.locator("#model option")).to_have_count(num_models)


async def again(page: Page) -> None:
    """Loads it anew, and comes back once it lives."""
    await page.reload()
    await page.wait_for_selector("body[data-ready]")


async def ask(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.keyboard.press("Enter")


async def talk(page: Page, text: str) -> Locator:
    """Asks, and comes back with the answer's article once it has ended."""
    await ask(page, text)
    return await ended(page)


async def ended(page: Page) -> Locator:
    """The last answer, once it is there."""
    await expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible(timeout=20_000)
    return page.locator("article").last


def button(where: Page | Locator, name: str) -> Locator:
    return where.get_by_role("button", name=name, exact=True)


def bodies(page: Page) -> list[dict[str, Any]]:
    """Of the turns that it posts from now on."""
    found: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.method == "POST" and request.post_data_json is not None:
            found.append(cast(dict[str, Any], request.post_data_json))

    page.on("request", note)
    return found
