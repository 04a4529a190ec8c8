"""The page's second view: what there is, what waits, and one's own turns, which can be cancelled."""

from __future__ import annotations

from playwright.async_api import Page, expect

from broker import placing
from broker.accounts import OPERATOR
from broker.connection import connect
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine
from tests.gateway import StartGateway
from tests.integration.conftest import StartWorker
from tests.integration.test_cluster import BOARD
from tests.pages import ask, button, ended, needs_chromium, visit
from tests.pages import nats_server as nats_server

pytestmark = needs_chromium


async def test_the_view_lives_and_a_turn_is_cancelled_there(
    page: Page, nats_server: EmbeddedServer, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine(num_slots=1, answer="All is well. " * 300, step_seconds=0.01)
    operator = await connect(nats_server.address(OPERATOR), name="operator")
    await placing.announce(operator, BOARD)
    async with start_worker(engine), start_gateway() as url:
        await visit(page, url, num_models=3)
        await ask(page, "How is the mast?")
        await page.keyboard.press("Alt+n")
        await ask(page, "And the attic?")
        await page.get_by_role("link", name="Cluster").click()
        turns = page.locator("#turns tbody tr")
        await expect(turns).to_have_count(2)
        first = turns.filter(has_text="How is the mast?")
        await expect(first).to_contain_text("working at w1")
        await expect(turns.filter(has_text="And the attic?")).to_contain_text("waiting, 0 ahead")
        tokens = first.locator("[data-head=Tokens]")
        before = await tokens.text_content()
        await expect(tokens).not_to_have_text(before or "")  # as of each second
        await expect(page.locator("#models tbody tr").first).to_contain_text("1 of 1")
        await expect(page.locator("#boards")).to_contain_text("3.0 of 8.0 GB · 4 cores · 3 swaps")
        await expect(page.locator("#boards li li").first).to_contain_text("loading 40 %")
        await expect(page.locator("#workers tbody tr")).to_contain_text("w1, unknown")
        await button(first, "Cancel").click()
        await expect(page.locator("#announced")).to_have_text("Cancelled.")
        await expect(first).to_have_count(0, timeout=10_000)
        await page.get_by_role("link", name="Chat").click()
        await page.keyboard.press("Alt+2")
        await expect(page.locator(".cut")).to_have_text("stopped")
        await page.keyboard.press("Alt+1")
        await button(page, "Stop").click()
        await ended(page)
    await operator.close()
