"""The gateway's page in a real Chromium: type, stream, stop, reload in mid-answer and read on."""

from __future__ import annotations

import httpx2
from playwright.async_api import Locator, Page, expect

from broker.discovery import CHAT, RAW, SCORE, TOOLS
from broker.discovery import THINKING as THINKS
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine
from tests.gateway import USER, StartGateway
from tests.integration.conftest import StartWorker
from tests.integration.test_gateway_tools import LAMP
from tests.integration.test_tools import CALL, THINKING
from tests.pages import again, ask, needs_chromium, visit
from tests.pages import nats_server as nats_server
from tests.thought_fakes import THOUGHT, Thinker

ANSWER = "All is well on the mast. " * 18

pytestmark = needs_chromium


async def test_it_talks_stops_reads_on_after_a_reload_and_keeps_conversations_apart(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine(answer=ANSWER, step_seconds=0.01)
    async with start_worker(engine), start_gateway() as url:
        await visit(page, url)
        # An answer streams in.
        await ask(page, "How is the mast?")
        answer = page.locator(".assistant .text").last
        await expect(answer).to_contain_text("All is well on the mast. All")
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()
        # A reload in its midst reads it from the beginning on.
        await again(page)
        await expect(page.locator(".user .text")).to_have_text("How is the mast?")
        await expect(answer).to_have_text(ANSWER.strip(), timeout=30_000)
        facts = page.locator("article .facts").last
        await expect(facts).to_contain_text("tokens/s")
        await expect(facts).to_contain_text("w1 on unknown")
        await expect(facts).to_contain_text("cached")
        # The next one is stopped by a key.
        await ask(page, "And now?")
        await expect(answer).to_contain_text("All is well on the mast. All")
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("button", name="Send")).to_be_visible()
        stopped = await answer.inner_text()
        assert stopped
        assert len(stopped) < len(ANSWER) - 50
        # Another conversation runs beside it.
        await page.keyboard.press("Alt+n")
        await expect(page.locator(".user")).to_have_count(0)
        await ask(page, "Somebody else")
        await expect(answer).to_contain_text("All is well")
        await page.keyboard.press("Alt+2")
        await expect(page.locator(".user")).to_have_count(2)
        await page.keyboard.press("Alt+1")
        await expect(answer).to_have_text(ANSWER.strip(), timeout=30_000)


LOSE = """
const whole = fetch;
window.fetch = async (...asked) => {
    const answer = await whole(...asked);
    if (asked[1]?.method !== "POST") return answer;
    const { readable, writable } = new TransformStream();
    const control = new AbortController();
    window.lose = () => control.abort(new TypeError("network error"));
    answer.body.pipeTo(writable, { signal: control.signal }).catch(() => {});
    return new Response(readable, answer);
};
"""
"""Streams break as a cable's end breaks them, once `lose` is called."""


async def begun(page: Page, url: str) -> Locator:
    """An answer that has begun to come, by a stream that can be broken."""
    await page.add_init_script(LOSE)
    await visit(page, url)
    await ask(page, "How is the mast?")
    answer = page.locator(".assistant .text").last
    await expect(answer).to_contain_text("All is well on the mast. All")
    return answer


async def test_an_answer_is_read_on_where_the_connection_was_lost(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_worker(FakeEngine(answer=ANSWER, step_seconds=0.01)), start_gateway() as url:
        answer = await begun(page, url)
        # What is read on with is lost at first, as the stream was.
        await page.route("**/turns/*", lambda route: route.abort(), times=1)
        await page.evaluate("window.lose()")
        await expect(page.locator("#status")).to_have_text("the connection was lost: reading on …")
        await expect(answer).to_have_text(ANSWER.strip(), timeout=30_000)
        await expect(page.locator(".bad")).to_have_count(0)


async def test_what_has_come_stays_where_the_turn_cannot_be_read_on(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_worker(FakeEngine(answer=ANSWER, step_seconds=0.01)), start_gateway() as url:
        answer = await begun(page, url)
        gone = '{"error": {"message": "there is no such turn"}}'
        await page.route("**/turns/*", lambda route: route.fulfill(status=404, body=gone))
        await page.evaluate("window.lose()")
        await expect(page.locator(".bad")).to_have_text("cut · there is no such turn")
        await expect(answer).to_contain_text("All is well on the mast. All")
        await expect(page.get_by_role("button", name="Go on")).to_be_visible()


KEPT = """async () => {
    const open = indexedDB.open("turnpike");
    await new Promise((resolve) => { open.onsuccess = resolve; });
    const found = open.result.transaction("conversations").objectStore("conversations").getAll();
    await new Promise((resolve) => { found.onsuccess = resolve; });
    open.result.close();
    return found.result.some(({ nodes }) => nodes.at(-1)?.content.includes("All is well on the mast. All"));
}"""


async def test_what_has_come_is_kept_as_it_comes_and_read_on_by_another_tab(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine(answer=ANSWER, step_seconds=0.01)
    async with start_worker(engine), start_gateway() as url:
        other = await page.context.new_page()
        await visit(other, url)
        answer = await begun(page, url)
        await page.wait_for_function(KEPT)
        # The other one has heard of it, and reads it by itself once it is opened there.
        await other.locator("#conversations button", has_text="How is the mast?").click()
        await expect(other.locator(".assistant .text")).to_contain_text("All is well on the mast. All")
        gone = '{"error": {"message": "there is no such turn"}}'
        await page.route("**/turns/*", lambda route: route.fulfill(status=404, body=gone))
        await again(page)
        await expect(answer).to_contain_text("All is well on the mast. All")
        await expect(page.locator(".bad")).to_have_text("cut · there is no such turn")
        await expect(other.locator(".assistant .text")).to_have_text(ANSWER.strip(), timeout=30_000)


async def test_a_turn_that_waits_is_stopped_too(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = FakeEngine(num_slots=1)
    engine.gate.clear()
    async with start_worker(engine), start_gateway() as url:
        await visit(page, url)
        await ask(page, "This one has the only slot")
        await page.keyboard.press("Alt+n")
        await ask(page, "This one waits")
        await expect(page.locator("#status")).to_contain_text("ahead", timeout=10_000)
        await page.get_by_role("button", name="Stop").click()
        await expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=10_000)
        engine.gate.set()
        await page.keyboard.press("Alt+2")
        await expect(page.locator(".assistant .text").last).to_have_text("echo This one has the only slot")


async def test_thoughts_and_calls_are_folded_and_stay_as_they_were_left(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    """The page offers no tools: it reads a turn that did, and its next turn goes on from it."""
    engine = FakeEngine(answer=f"<think>\nIt is dark.\n</think>\n\n{ANSWER}{CALL}", step_seconds=0.005)
    body = {"model": "m", "messages": USER, "tools": [LAMP], "max_tokens": 2000, "stream": True}
    async with (
        start_worker(engine, readers=THINKING),
        start_gateway() as url,
        httpx2.AsyncClient(base_url=url, timeout=60) as plain,
        plain.stream("POST", "/v1/chat/completions", json=body, headers={"Turnpike-Detached": "1"}) as asked,
    ):
        said = [{"role": "user", "content": "Light!"}, {"role": "assistant", "content": ""}]
        kept = {"id": "c", "messages": said, "turn": asked.headers["turnpike-turn"], "model": "m"}
        state = {"conversations": [kept], "current": "c", "model": "m", "key": ""}
        await page.goto(url)
        await page.evaluate("(state) => localStorage.setItem('turnpike', JSON.stringify(state))", state)
        await again(page)
        thoughts, call = page.locator("details.thoughts"), page.locator("details.call")
        await expect(thoughts.locator("summary")).to_have_text("Thoughts")
        await expect(thoughts.locator("div")).to_be_hidden()
        await thoughts.locator("summary").click()
        await expect(call.locator("summary")).to_have_text("Calls lamp", timeout=30_000)
        await expect(thoughts.locator("div")).to_have_text("It is dark.")
        await expect(thoughts.locator("div")).to_be_visible()
        await expect(call.locator("div")).to_be_hidden()
        await call.locator("summary").click()
        await expect(call.locator("div")).to_have_text('{"on": true}')
        await expect(page.locator(".assistant .text")).to_have_text(ANSWER.strip())
        order = await page.locator(".assistant").evaluate("(box) => [...box.children].map((one) => one.classList[0])")
        assert order == ["hidden", "thoughts", "text", "call", "facts", "actions"]  # as they were said
        await expect(page.locator("article .facts")).to_contain_text("tokens/s")
        await expect(page.locator("#conversations .name")).to_have_text("Light!")  # ended, and drawn anew
        await expect(thoughts.locator("div")).to_be_visible()


async def test_whether_a_model_thinks_is_chosen_where_it_can_and_kept(
    page: Page, nats_server: EmbeddedServer, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    thoughts = page.locator("article").last.locator("details.thoughts div")

    async def thought_of(text: str) -> str | None:
        """What the model has thought before it answered."""
        await ask(page, text)
        await expect(page.locator("article .facts").last).to_contain_text("tokens")
        await expect(page.locator(".assistant .text").last).to_have_text("It is.")
        return await thoughts.text_content() if await thoughts.count() else None

    can = (CHAT, RAW, SCORE, TOOLS)
    await nats_server.ensure(["m", "plain"])
    async with (
        start_worker(Thinker(num_thoughts=40), readers=THINKING, can=(*can, THINKS)),
        start_worker(name="w2", model="plain", can=can),
        start_gateway() as url,
    ):
        await page.goto(url)
        control, bound = page.get_by_label("Thinking"), page.get_by_label("Tokens of thoughts")
        await expect(page.locator("#model option")).to_have_count(3)
        await expect(control).to_be_visible()  # auto may choose the one that thinks
        await page.get_by_label("Model").select_option("plain")
        await expect(control).to_be_hidden()
        await page.get_by_label("Model").select_option("m")
        await expect(control).to_be_visible()
        await expect(bound).to_be_hidden()
        whole = (THOUGHT * 9)[:40].strip()
        assert await thought_of("As it likes?") == whole
        await control.select_option("off")
        assert await thought_of("Not at all?") is None
        await control.select_option("on")
        assert await thought_of("At all?") == whole
        await control.select_option("budget")
        await bound.fill("7")
        await bound.press("Enter")
        assert await thought_of("A little?") == THOUGHT[:7].strip()
        await bound.fill("-1")
        await bound.press("Tab")
        await expect(bound).to_have_value("7")  # what is no number of tokens changes nothing
        await again(page)
        await expect(control).to_have_value("budget")
        await expect(bound).to_have_value("7")
        assert await thought_of("And behind a reload?") == THOUGHT[:7].strip()
