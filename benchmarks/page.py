"""How soon is the gateway's page there? First paint on the loopback, bytes of a first visit, a long conversation."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import Mapping, Sequence

from playwright.async_api import Browser, FilePayload, Page, async_playwright

from benchmarks.gateway import running
from benchmarks.harness import Row, show
from tests.pages import CHROMIUM

NUM_VISITS = 15
NUM_MESSAGES = 800
CODE = "```python\ndef answer():\n    return 42\n```"
PAINT = "performance.getEntriesByName('first-contentful-paint').map((one) => one.startTime)[0]"
BYTES = (
    "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
    ".reduce((sum, one) => sum + one.decodedBodySize, 0)"
)
OPENED = """async () => {
    const begun = performance.now();
    document.querySelector("#conversations button").click();
    await new Promise((seen) => requestAnimationFrame(() => setTimeout(seen)));
    return performance.now() - begun;
}"""


async def taken_in(page: Page, said: Sequence[Mapping[str, str]]) -> None:
    """The page takes the conversation from a file."""
    file = FilePayload(name="said.json", mimeType="application/json", buffer=json.dumps({"messages": said}).encode())
    await page.set_input_files("#file", files=[file])


async def visits(browser: Browser, url: str) -> tuple[list[float], float]:
    """Milliseconds to the first paint of each visit with nothing cached, and the bytes that one transfers, unpacked,
    with a coloured block of code."""
    paints: list[float] = []
    num_bytes = 0.0
    for _ in range(NUM_VISITS + 1):  # the first one warms the browser up
        context = await browser.new_context()
        page = await context.new_page()
        await page.goto(url)
        await page.wait_for_selector("body[data-ready]")
        paints.append(await page.evaluate(PAINT))
        if len(paints) == 1:
            await taken_in(page, [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": CODE}])
            await page.wait_for_selector(".hljs-keyword")
            num_bytes = await page.evaluate(BYTES)
        await context.close()
    return paints[1:], num_bytes


async def opening(browser: Browser, url: str) -> float:
    """Milliseconds from the click on a long conversation to its frame."""
    said = [
        {"role": role, "content": f"**{number}** {'words and `code` ' * 30}\n\n| a | b |\n|-|-|\n| 1 | 2 |"}
        for number in range(NUM_MESSAGES // 2)
        for role in ("user", "assistant")
    ]
    page = await browser.new_page()
    await page.goto(url)
    await page.wait_for_selector("body[data-ready]")
    await taken_in(page, said)
    await page.wait_for_selector(f"article:nth-of-type({NUM_MESSAGES})")
    found: list[float] = [await page.evaluate(OPENED) for _ in range(9)]
    await page.close()
    return statistics.median(found)


async def measure() -> list[Row]:
    """All three."""
    async with running() as (_, http, _), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        url = http.url
        paints, num_bytes = await visits(browser, url)
        opened = await opening(browser, url)
        await browser.close()
    paint = statistics.median(paints)
    return [
        Row(
            "the page's first paint, ms",
            f"{paint:.0f} (longest of {NUM_VISITS}: {max(paints):.0f})",
            "–",
            paint,
            200,
            True,
        ),
        Row("a first visit with code, KiB unpacked", f"{num_bytes / 1024:.0f}", "–", num_bytes / 1024, 250, True),
        Row(f"a conversation of {NUM_MESSAGES} messages opened, ms", f"{opened:.0f}", "–", opened, 200, True),
    ]


def main() -> int:
    """Prints and keeps the rows."""
    if CHROMIUM is None:
        print("no Chromium here: the page is not measured")
        return 0
    show("the page", asyncio.run(measure()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
