"""How the page shows things: Markdown as it comes, nothing from elsewhere, on a phone, aloud, in little time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.async_api import Page, expect

from broker.discovery import CHAT, EMBED, RAW
from broker.server import EmbeddedServer
from producers.gateway.keys import ClientKeys, new_key
from tests.fakes import FakeEngine
from tests.gateway import StartGateway
from tests.integration.conftest import StartWorker
from tests.pages import again, ask, button, ended, needs_chromium, talk, visit
from tests.pages import nats_server as nats_server
from tests.support import ROOT

AXE = ROOT / "tests/axe/node_modules/axe-core/axe.min.js"
PHONE = {"width": 390, "height": 844}
AT_END = """() => {
    const { scrollHeight, scrollTop, clientHeight } = document.querySelector("#messages");
    return scrollTop > 0 && scrollHeight - scrollTop - clientHeight < 2;
}"""
RICH = """# Heat

Node 7 is *hot*, see [the log](https://example.org/log).

| sensor | °C |
|---|---:|
| mast | 71 |

```python
def mean(values):
    return sum(values) / len(values)
```

- [x] fan
- [ ] filter
"""

pytestmark = needs_chromium


async def test_markdown_is_rendered_as_it_streams(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine(answer=RICH + "\nLast words. " * 30, step_seconds=0.005)
    text = page.locator(".assistant .text")
    async with start_worker(engine), start_gateway() as url:
        await visit(page, url)
        await ask(page, "Well?")
        await expect(text.locator("td").first).to_have_text("mast")
        # It is a table before the answer is at its end, and stays the one that it was.
        await expect(button(page, "Stop")).to_be_visible()
        await text.locator("table").evaluate("(table) => { table.isTheFirst = true; }")
        await ended(page)
        assert await text.locator("table").evaluate("(table) => table.isTheFirst")
        await expect(text.locator("h3")).to_have_text("Heat")
        await expect(text.locator("a")).to_have_attribute("rel", "noopener noreferrer")
        await expect(text.locator("pre .hljs-keyword").first).to_have_text("def")  # coloured
        await expect(text.locator("li")).to_have_text(["☑ fan", "☐ filter"])


async def test_code_is_copied_as_it_was_said(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_worker(FakeEngine(answer=RICH)), start_gateway() as url:
        await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await visit(page, url)
        await talk(page, "Well?")
        await button(page.locator(".code"), "Copy").click()
        await expect(page.locator("#announced")).to_have_text("Copied")
        copied = await page.evaluate("navigator.clipboard.readText()")
        assert copied == "def mean(values):\n    return sum(values) / len(values)\n"


async def test_an_answer_runs_nothing_and_fetches_nothing(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    hostile = """<img src="https://evil.example/a.png" onerror="window.struck = 1"><script>window.struck = 2</script>
<a href="javascript:window.struck=3" class="assistant" id="text">here</a> ![b](https://evil.example/b.png "t")

<div style="position:fixed;inset:0" onclick="window.struck=4"><form action="https://evil.example"><input name=q></form>
<iframe src="https://evil.example"></iframe></div>

[x](javascript:window.struck=5) [y](data:text/html,z) <style>body { display: none }</style>

```html
<img src=x onerror="window.struck = 6">
```
"""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    async with start_worker(FakeEngine(answer=hostile)), start_gateway() as url:
        await visit(page, url)
        text = (await talk(page, "Well?")).locator(".text")
        await expect(text.locator(".hljs-tag").first).to_be_visible()
        assert await text.locator("img, script, iframe, form, input, style, [style], [onclick], [id]").count() == 0
        for link in await text.locator("a").all():
            assert re.match("https://|None", str(await link.get_attribute("href"))), await link.get_attribute("href")
        for link in await text.locator("a:not([href])").all():
            await link.click()
        await expect(text.locator("a").last).to_be_visible()
        assert await page.evaluate("window.struck") is None
        assert {one for one in asked if not one.startswith((url, "data:"))} == set()


async def test_an_answer_that_nests_without_end_is_shown_as_it_stands(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway, tmp_path: Path
) -> None:
    said = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": ">" * 20_000}]
    (tmp_path / "deep.json").write_text(json.dumps({"messages": said}))
    async with start_worker(), start_gateway() as url:
        await visit(page, url)
        await page.get_by_label("File of conversations").set_input_files(tmp_path / "deep.json")
        await expect(page.locator("#status")).to_have_text("1 conversation read.")
        await again(page)
        await expect(page.locator(".assistant .text")).to_have_text(">" * 20_000)


@pytest.mark.parametrize("part", ["*a_", "~~a~b ", "*a *b_ ", "**a "])
async def test_an_answer_of_marks_without_end_does_not_hold_the_page(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway, tmp_path: Path, part: str
) -> None:
    said = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": part * (20_000 // len(part))}]
    (tmp_path / "marks.json").write_text(json.dumps({"messages": said}))
    async with start_gateway() as url:
        await page.goto(url)
        await page.wait_for_selector("body[data-ready]")
        await page.get_by_label("File of conversations").set_input_files(tmp_path / "marks.json")
        await expect(page.locator("#status")).to_have_text("1 conversation read.")
        took = await page.evaluate("""async () => {
            const { render } = await import("/markdown.js");
            const { content } = (await import("/store.js")).current().nodes[1];
            const since = performance.now();
            render(document.createElement("div"), content, true);
            return performance.now() - since;
        }""")
        assert took < 2000, took


async def axe(page: Page) -> list[str]:
    """What axe-core has against what is seen."""
    found: dict[str, Any] = await page.evaluate(f"{AXE.read_text()}; axe.run()")
    return [f"{one['id']}: {[node['target'] for node in one['nodes']]} {one['help']}" for one in found["violations"]]


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core here: npm ci --prefix tests/axe")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_has_nothing_against_it(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway, scheme: Any
) -> None:
    await page.emulate_media(color_scheme=scheme)
    async with start_worker(FakeEngine(answer=RICH)), start_gateway() as url:
        await visit(page, url)
        await page.keyboard.press("Alt+o")
        await page.get_by_label("Tokens at most").fill("150")
        assert await axe(page) == []
        await page.keyboard.press("Enter")
        await talk(page, "Well?")
        await expect(page.locator("pre .hljs-keyword").first).to_be_visible()
        await expect(page.locator(".cut")).to_be_visible()
        assert await axe(page) == []
        await button(page.locator("article.user"), "Edit").click()
        await button(page, "This conversation").click()
        assert await axe(page) == []
        await page.keyboard.press("Escape")
        await page.keyboard.press("Alt+c")
        await expect(page.locator("#workers tbody th")).to_have_text("w1, unknown")
        assert await axe(page) == []
        await page.set_viewport_size({"width": 390, "height": 844})
        await page.keyboard.press("Alt+c")
        await page.locator("#chat").get_by_role("button", name="Conversations").click()
        assert await axe(page) == []


async def test_a_whole_answer_is_told_aloud_once_and_no_piece_of_it(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_worker(FakeEngine(answer="It is dark. " * 20, step_seconds=0.002)), start_gateway() as url:
        await visit(page, url)
        await page.evaluate(
            """() => {
                window.told = [];
                const note = ({ target }) => told.push(target.closest("[aria-live], [role=status]"));
                const observer = new MutationObserver((seen) => seen.forEach(note));
                observer.observe(document.body, { childList: true, subtree: true });
            }"""
        )
        await talk(page, "Well?")
        await expect(page.locator("#announced")).to_contain_text("It is dark. It is dark.")
        assert await page.evaluate("told.filter(Boolean).map((one) => one.id)") == ["announced"]


async def test_many_conversations_fit_a_phone_and_a_line_can_be_begun_there(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    answer = RICH + f"\n\n{'wide' * 60}\n\n`{'code' * 60}`\n\n{'| words ' * 9}|\n{'|---' * 9}|\n{'| words ' * 9}|\n"
    async with start_worker(FakeEngine(answer=answer)), start_gateway() as url:
        await page.set_viewport_size({"width": 360, "height": 640})
        await visit(page, url)
        for number in range(9):
            await button(page, "Conversations").click()
            await page.get_by_role("button", name="New conversation").first.click()
            await ask(page, f"Question {number} with a long name that goes on and on, {'and' * 30}")
        await ended(page)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert await page.evaluate("document.querySelector('#messages').scrollWidth <= innerWidth")
        assert await page.locator(".text td").last.evaluate("(cell) => cell.clientHeight") < 50  # no word is broken
        await again(page)
        await page.wait_for_function(AT_END)
        for name in ("Send", "New line", "Conversations"):
            box = await button(page, name).bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= 360
            assert box["y"] + box["height"] <= 640
        text = page.get_by_label("Message", exact=True)
        await text.fill("one")
        await button(page, "New line").click()
        await page.keyboard.type("two")
        await expect(text).to_have_value("one\ntwo")
        # The list is a drawer, whose keys and whose way out work.
        side = page.get_by_role("dialog", name="Conversations")
        await expect(side).to_have_count(0)
        await button(page, "Conversations").click()
        await expect(side.get_by_role("listitem")).to_have_count(9)
        box = await page.locator("#side").bounding_box()
        assert box is not None
        assert box["width"] < 360
        await page.keyboard.press("Escape")
        await expect(side).to_have_count(0)
        await expect(button(page, "Conversations")).to_be_focused()


async def test_all_of_it_goes_by_keyboard(page: Page, start_worker: StartWorker, start_gateway: StartGateway) -> None:
    async with start_worker(), start_gateway() as url:
        await visit(page, url)
        await expect(page.get_by_label("Message", exact=True)).to_be_focused()
        await page.keyboard.type("First?")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("Really?")
        await page.keyboard.press("Enter")
        await ended(page)
        await expect(page.locator("article.user .text")).to_have_text("First?\nReally?", use_inner_text=True)
        names = await page.evaluate(
            """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary")]
                .filter((one) => one.checkVisibility() && one.tabIndex < 0).map((one) => one.outerHTML)"""
        )
        assert names == []  # all of them are reached by Tab
        for key, label in (
            ("Alt+k", "Search conversations"),
            ("Alt+m", "Model"),
            ("Alt+r", "Name of the conversation"),
        ):
            await page.keyboard.press(key)
            await expect(page.get_by_label(label)).to_be_focused()
        await page.keyboard.press("Escape")
        await page.keyboard.press("Alt+n")
        await talk(page, "Second?")
        await page.keyboard.press("Alt+ArrowDown")
        await expect(page.locator("article.user .text")).to_contain_text("First?")
        await page.keyboard.press("Alt+ArrowUp")
        await expect(page.locator("article.user .text")).to_have_text("Second?")


async def test_a_long_conversation_is_there_at_once_and_rendered_where_it_is_looked_at(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway, tmp_path: Path
) -> None:
    messages = [
        {"role": role, "content": f"**{number}** {'words ' * 60}"}
        for number in range(400)
        for role in ("user", "assistant")
    ]
    (tmp_path / "long.json").write_text(json.dumps({"messages": messages}))
    async with start_worker(FakeEngine(num_ctx=1 << 20)), start_gateway() as url:
        await visit(page, url)
        await page.get_by_label("File of conversations").set_input_files(tmp_path / "long.json")
        await expect(page.locator("article")).to_have_count(800)
        await expect(page.locator(".assistant strong").last).to_have_text("399")
        assert await page.locator(".assistant strong").count() < 100
        await page.locator("#messages").evaluate("(box) => { box.scrollTop = 0; }")
        await expect(page.locator(".assistant strong").first).to_have_text("0")


async def test_it_installs_as_an_app(page: Page, start_worker: StartWorker, start_gateway: StartGateway) -> None:
    async with start_worker(), start_gateway() as url:
        await visit(page, url)
        session = await page.context.new_cdp_session(page)
        manifest = await session.send("Page.getAppManifest")
        assert manifest["errors"] == []
        told = json.loads(manifest["data"])
        assert (told["display"], told["start_url"]) == ("standalone", "/")
        # An incognito context is the one thing that Chromium may have against it.
        errors = (await session.send("Page.getInstallabilityErrors"))["installabilityErrors"]
        assert {one["errorId"] for one in errors} <= {"in-incognito"}


async def test_models_that_answer_nobody_are_not_offered(
    page: Page, nats_server: EmbeddedServer, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    await nats_server.ensure(["m", "vectors", "base"])
    async with (
        start_worker(can=(CHAT, RAW)),
        start_worker(name="w3", model="base", can=(RAW,)),
        start_worker(name="w2", model="vectors", can=(EMBED,)),
        start_gateway() as url,
        httpx2.AsyncClient(base_url=url) as plain,
    ):
        await visit(page, url, num_models=3)
        await expect(page.locator("#model option")).to_have_text(["base", "m", "auto"])
        assert "vectors" in {one["id"] for one in (await plain.get("/v1/models")).json()["data"]}


async def test_a_key_that_is_wanted_is_asked_for(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    key, digest = new_key()
    async with start_worker(), start_gateway({"alice": ClientKeys((digest,))}) as url:
        await page.goto(url)
        field = page.get_by_label("API key", exact=True)
        await expect(page.locator("#status")).to_contain_text("an API key is wanted")
        await field.fill(key)
        await field.press("Tab")
        await expect(page.locator("#model option")).to_have_count(2)
        await expect((await talk(page, "Well?")).locator(".text")).to_have_text("echo Well?")
