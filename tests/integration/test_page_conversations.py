"""What becomes of conversations on the page: versions, names, searches, drafts, files, and answers that were cut."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.async_api import Page, expect

from tests.gateway import StartGateway
from tests.integration.conftest import StartWorker
from tests.pages import Spoken, again, ask, bodies, button, ended, needs_chromium, talk, visit
from tests.pages import nats_server as nats_server

pytestmark = needs_chromium


async def test_what_is_edited_and_sent_again_stays_beside_what_came_of_it(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_worker(), start_gateway() as url:
        await visit(page, url)
        await talk(page, "First?")
        await talk(page, "Second?")
        first = page.locator("article.user").first
        await button(first, "Edit").click()
        text = page.get_by_label("Edit the message")
        await expect(text).to_have_value("First?")
        await text.fill("Another first?")
        await button(first, "Send again").click()
        answer = await ended(page)
        await expect(answer.locator(".text")).to_have_text("echo Another first?")
        await expect(page.locator("article")).to_have_count(2)  # what followed is the other version's
        await expect(first.locator(".versions")).to_contain_text("2/2")
        await button(first, "Version before").click()
        await expect(page.locator("article")).to_have_count(4)
        await expect(page.locator("article .text").last).to_have_text("echo Second?")
        await again(page)
        await expect(page.locator("article")).to_have_count(4)  # and is found so again
        # Escape leaves it as it was; an empty message's arrow up edits the last one.
        await page.get_by_label("Message", exact=True).press("ArrowUp")
        await expect(page.get_by_label("Edit the message")).to_have_value("Second?")
        await page.keyboard.press("Escape")
        await expect(page.locator("article.user .text").last).to_have_text("Second?")


async def test_an_answer_made_anew_keeps_the_one_before_and_is_not_the_same_by_its_settings(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = Spoken()
    async with start_worker(engine), start_gateway() as url:
        await visit(page, url)
        posted = bodies(page)
        engine.says = "One."
        await talk(page, "Well?")
        engine.says = "Two."
        await button(page, "Regenerate").click()
        answer = await ended(page)
        await expect(answer.locator(".text")).to_have_text("Two.")
        await expect(answer.locator(".versions")).to_contain_text("2/2")
        await button(answer, "Version before").click()
        await expect(answer.locator(".text")).to_have_text("One.")
        await expect(button(answer, "Version before")).to_be_disabled()
        assert [one["temperature"] for one in posted] == [0, 0.7]
        assert posted[0]["messages"] == posted[1]["messages"] == [{"role": "user", "content": "Well?"}]
        # The next turn goes on from the version that is seen.
        await talk(page, "And?")
        assert [one["content"] for one in posted[2]["messages"]] == ["Well?", "One.", "And?"]


async def test_messages_and_conversations_are_deleted_and_come_back_on_second_thoughts(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_worker(), start_gateway() as url:
        await visit(page, url)
        await talk(page, "First?")
        await talk(page, "Second?")
        await button(page.locator("article.user").last, "Delete").click()
        await expect(page.locator("article")).to_have_count(2)
        await button(page, "Undo").click()
        await expect(page.locator("article")).to_have_count(4)
        for is_undone in (True, False):
            await button(page, "This conversation").click()
            await button(page, "Delete conversation").click()
            await expect(page.locator("article")).to_have_count(0)
            if is_undone:
                await button(page, "Undo").click()
                await expect(page.locator("article")).to_have_count(4)
        await again(page)
        await expect(page.locator("#conversations .name")).to_have_text(["New conversation"])


async def test_what_is_undone_takes_nothing_back_that_came_meanwhile(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = Spoken()
    async with start_worker(engine), start_gateway() as url:
        await visit(page, url)
        await talk(page, "First?")
        await talk(page, "Second?")
        engine.gate.clear()
        await button(page.locator("article.user").last, "Delete").click()
        await ask(page, "Third?")
        await button(page, "Undo").click()
        await expect(page.locator("article.user .text")).to_have_text(["First?", "Third?"])
        engine.gate.set()
        await ended(page)
        await button(page.locator("article.user").last, "Version before").click()
        await expect(page.locator("article .text")).to_have_text(["First?", "Well.", "Second?", "Well."])
        # What another tab has done since stays as well.
        await button(page.locator("article").last, "Delete").click()
        other = await page.context.new_page()
        await visit(other, url)
        await other.keyboard.press("Alt+r")
        await other.keyboard.type("Renamed")
        await other.keyboard.press("Enter")
        await expect(page.locator("#title")).to_have_text("Renamed")
        await button(page, "Undo").click()
        for one in (page, other):
            await expect(one.locator("article .text")).to_have_text(["First?", "Well.", "Second?", "Well."])
            await expect(one.locator("#title")).to_have_text("Renamed")


async def test_conversations_have_names_and_are_found_by_their_words(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    names = page.locator("#conversations .name")
    async with start_worker(), start_gateway() as url:
        await visit(page, url)
        await talk(page, "How high is the mast?")
        await page.keyboard.press("Alt+r")
        await page.get_by_label("Name of the conversation").fill("Heights")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Alt+n")
        await talk(page, "Is the attic dark?")
        await expect(names).to_have_text(["Is the attic dark?", "Heights"])
        await page.keyboard.press("Alt+k")
        await page.keyboard.type("MAST")  # said in it, not in its name
        await expect(names).to_have_text(["Heights"])
        await expect(page.locator("#found")).to_have_text("1 found")
        await page.get_by_label("Search conversations").fill("nowhere")
        await expect(names).to_have_count(0)
        await again(page)
        await expect(names).to_have_text(["Is the attic dark?", "Heights"])
        assert await page.title() == "Is the attic dark? – Turnpike"


async def test_what_was_typed_and_not_sent_is_kept_for_each_conversation(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    text = page.get_by_label("Message", exact=True)
    async with start_worker(), start_gateway() as url:
        await visit(page, url)
        await talk(page, "First?")
        await text.fill("not yet")
        await page.keyboard.press("Alt+n")
        await expect(text).to_have_value("")
        await expect(page.locator("#conversations .draft")).to_have_text("draft")
        await text.fill("nor this")
        await again(page)
        await expect(text).to_have_value("nor this")
        await page.keyboard.press("Alt+2")
        await expect(text).to_have_value("not yet")
        await talk(page, "sent")
        await again(page)
        await expect(text).to_have_value("")


async def test_a_conversation_has_its_own_system_prompt_and_sampling(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_worker(), start_gateway() as url:
        await visit(page, url)
        posted = bodies(page)
        await page.keyboard.press("Alt+o")
        await page.get_by_label("System prompt").fill("You are a barrier.")
        await page.get_by_label("Temperature").fill("0.4")
        await page.get_by_label("Tokens at most").fill("9")
        await button(page, "Keep").click()
        await expect(page.locator("#tuned")).to_have_text("3 set")
        await talk(page, "Open?")
        await page.keyboard.press("Alt+n")
        await expect(page.locator("#tuned")).to_have_text("")
        await talk(page, "Open?")
        await again(page)
        await page.keyboard.press("Alt+2")
        await button(page, "Options 3 set").click()
        await expect(page.get_by_label("System prompt")).to_have_value("You are a barrier.")
        await page.get_by_label("System prompt").fill("changed, and left")
        await page.keyboard.press("Escape")
        await expect(page.locator("#tuned")).to_have_text("3 set")
        await talk(page, "Why?")
    assert posted[0]["messages"][0] == {"role": "system", "content": "You are a barrier."}
    assert (posted[0]["temperature"], posted[0]["max_tokens"]) == (0.4, 9)
    assert (posted[1]["temperature"], "max_tokens" in posted[1], len(posted[1]["messages"])) == (0, False, 1)
    assert posted[2]["messages"][0]["content"] == "You are a barrier."


async def test_conversations_go_into_files_and_come_back(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway, tmp_path: Path
) -> None:
    engine = Spoken()
    async with start_worker(engine), start_gateway() as url:
        await visit(page, url)
        engine.says = "One."
        await talk(page, "Which one?")
        engine.says = "**Two.**"
        await button(page, "Regenerate").click()
        await ended(page)
        texts = {}
        for name, of in (("Export as Markdown", "md"), ("Export as JSON", "json")):
            await button(page, "This conversation").click()
            async with page.expect_download() as coming:
                await button(page, name).click()
            download = await coming.value
            assert download.suggested_filename == f"Which-one.{of}"
            await download.save_as(tmp_path / f"exported.{of}")
            texts[of] = (tmp_path / f"exported.{of}").read_text()
        assert texts["md"] == "# Which one?\n\n## You\n\nWhich one?\n\n## m\n\n**Two.**\n"
        assert [one["content"] for one in json.loads(texts["json"])["conversations"][0]["nodes"]] == [
            "Which one?",
            "One.",
            "**Two.**",
        ]
        async with page.expect_download() as coming:
            await button(page, "Export all").click()
        assert (await coming.value).suggested_filename == "turnpike-conversations.json"
        file = page.get_by_label("File of conversations")
        await file.set_input_files(tmp_path / "exported.json")
        await expect(page.locator("#status")).to_have_text("1 conversation read.")
        await expect(page.locator("#conversations .name")).to_have_text(["Which one?", "Which one?"])
        await expect(page.locator(".assistant .text strong")).to_have_text("Two.")
        await expect(page.locator(".assistant .versions")).to_contain_text("2/2")
        # What another program has, and what is none.
        (tmp_path / "plain.json").write_text('{"messages": [{"role": "user", "content": "From elsewhere"}]}')
        await file.set_input_files(tmp_path / "plain.json")
        await expect(page.locator("article.user .text")).to_have_text("From elsewhere")
        (tmp_path / "none.json").write_text(texts["json"].replace('"parent": 1', '"parent": 77'))
        await file.set_input_files(tmp_path / "none.json")
        await expect(page.locator("#status")).to_have_text("none.json was not read: a message has no place")
        await again(page)
        await expect(page.locator("#conversations .name")).to_have_count(3)


async def test_an_answer_that_was_cut_or_stopped_says_so_and_goes_on(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_worker(Spoken(step_seconds=0.01)) as worker, start_gateway() as url:
        engine = worker.engine
        assert isinstance(engine, Spoken)
        engine.says = "The mast is high. " * 20
        await visit(page, url)
        posted = bodies(page)
        await page.keyboard.press("Alt+o")
        await page.get_by_label("Tokens at most").fill("17")
        await page.keyboard.press("Enter")
        answer = await talk(page, "How high?")
        await expect(answer.locator(".cut")).to_have_text("cut at its limit of tokens")
        engine.says = " It is 42 m."
        await button(answer, "Go on").click()
        await ended(page)
        assert posted[1]["messages"] == [
            {"role": "user", "content": "How high?"},
            {"role": "assistant", "content": "The mast is high."},
        ]
        await expect(answer.locator(".text")).to_have_text("The mast is high. It is 42 m.")
        await expect(answer.locator(".cut")).to_have_count(0)
        await page.keyboard.press("Alt+n")
        engine.says = "The mast is high. " * 20
        await ask(page, "How high?")
        await expect(answer.locator(".text")).to_contain_text("The mast")
        await page.keyboard.press("Escape")
        await ended(page)
        await expect(answer.locator(".cut")).to_have_text("stopped")
        await expect(button(answer, "Go on")).to_be_visible()


async def test_each_conversation_tells_how_it_stands(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    engine = Spoken(num_slots=1)
    engine.gate.clear()
    standing = page.locator("#conversations button")
    async with start_worker(engine), start_gateway() as url:
        await visit(page, url)
        await ask(page, "This one has the only slot")
        await page.keyboard.press("Alt+n")
        await ask(page, "This one waits")
        await expect(standing.first.locator(".running")).to_contain_text("ahead", timeout=10_000)
        await expect(standing.last.locator(".running")).to_be_visible()
        engine.gate.set()
        await expect(standing.last.locator(".unread")).to_have_text("answered")
        await expect(standing.first.locator(".standing")).to_have_count(0)  # it is open, and was seen
        await page.keyboard.press("Alt+2")
        await expect(page.locator("#conversations .standing")).to_have_count(0)


async def test_what_the_page_kept_before_is_taken_over(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    said = [{"role": "user", "content": "Old?"}, {"role": "assistant", "content": "Yes.", "facts": "9 tokens"}]
    kept = {"conversations": [{"id": "c", "messages": said, "turn": None}], "current": "c", "model": "m", "key": "k"}
    async with start_worker(), start_gateway() as url:
        await visit(page, url)
        await page.evaluate("(kept) => localStorage.setItem('turnpike', JSON.stringify(kept))", kept)
        for _ in range(2):  # and once only
            await again(page)
            await expect(page.locator("article .text")).to_have_text(["Old?", "Yes."])
            await expect(page.locator("article .facts")).to_have_text("9 tokens")
            await expect(page.locator("#conversations .name")).to_have_text(["Old?"])
            await expect(page.get_by_label("Model")).to_have_value("m")
            assert await page.get_by_label("API key", exact=True).input_value() == "k"


async def test_drafts_in_several_tabs_are_all_kept(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with start_worker(), start_gateway() as url:
        await visit(page, url)
        await talk(page, "First?")
        await page.keyboard.press("Alt+n")
        await talk(page, "Second?")
        other = await page.context.new_page()
        await visit(other, url)
        await other.keyboard.press("Alt+2")
        text, its_text = (one.get_by_label("Message", exact=True) for one in (page, other))
        await text.fill("of the second")
        await its_text.fill("of the first")
        await again(page)
        await expect(page.locator("article.user .text")).to_have_text("First?")  # it was opened last
        await expect(text).to_have_value("of the first")
        await page.keyboard.press("Alt+1")
        await expect(text).to_have_value("of the second")


async def test_where_the_browser_keeps_nothing_it_talks_all_the_same(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    none = "() => { throw new DOMException('denied', 'SecurityError'); }"
    await page.add_init_script(
        f"Storage.prototype.setItem = Storage.prototype.getItem = {none}; IDBFactory.prototype.open = {none};"
    )
    async with start_worker(), start_gateway() as url:
        await visit(page, url)
        await expect((await talk(page, "Well?")).locator(".text")).to_have_text("echo Well?")
        await page.get_by_label("Message", exact=True).fill("a draft")
        await page.keyboard.press("Alt+n")
        await page.keyboard.press("Alt+2")
        await expect(page.get_by_label("Message", exact=True)).to_have_value("a draft")


async def test_a_disk_that_is_full_is_told_and_the_answer_is_there(
    page: Page, start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    full = "() => { throw new DOMException('The disk is full', 'QuotaExceededError'); }"
    await page.add_init_script(f"IDBObjectStore.prototype.put = {full};")
    async with start_worker(), start_gateway() as url:
        await visit(page, url)
        await expect((await talk(page, "Well?")).locator(".text")).to_have_text("echo Well?")
        await expect(page.locator("#status")).to_contain_text("The disk is full. Export what is to stay.")
