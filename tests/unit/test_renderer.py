"""Chat templates in a child process that may die of them, be late, and is started again. No llama.cpp."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
from pathlib import Path

import pytest

from broker.errors import TurnpikeError, TurnRejected
from broker.messages import Message
from tests.support import eventually, freeze
from workers.prompts import renderer as module
from workers.prompts.renderer import TemplateRenderer, dated

LAST = "{{ messages[-1].content }}"
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def renderer_of(
    template: str | None, *, computing_seconds: float = 5.0, late_seconds: float = 60.0
) -> TemplateRenderer:
    return TemplateRenderer(
        template, bos_token="<s>", eos_token="</s>", computing_seconds=computing_seconds, late_seconds=late_seconds
    )


def stop(renderer: TemplateRenderer) -> int:
    """Freezes the child, as a machine would that has other things to do; its process id."""
    assert renderer.pid is not None
    freeze(renderer.pid)
    return renderer.pid


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def test_a_prompt_comes_back_with_the_places_of_its_contents() -> None:
    renderer = renderer_of("{{ bos_token }}" + LAST + "{{ eos_token }}")
    rendered = await renderer.render(user("hello"))
    await renderer.close()
    assert rendered.text == "<s>hello</s>"
    assert rendered.contents == [(0, 3, 8)]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (LOOP, "not done after 1 s of computing"),
        ("{{ 'x' * 10 ** 10 }}", "memory|died"),
        ("{{ raise_exception('only one message') }}", "only one message"),
    ],
)
async def test_a_template_that_fails_or_loops_is_an_error_and_the_next_turn_works(template: str, reason: str) -> None:
    renderer = renderer_of(
        f"{{% if messages[0].content == 'bad' %}}{template}{{% endif %}}{LAST}", computing_seconds=1.0
    )
    with pytest.raises(TurnRejected, match=reason) as caught:
        await renderer.render(user("bad"))
    rendered = await renderer.render(user("hello"))
    await renderer.close()
    assert caught.value.code == "invalid_template"
    assert rendered.text == "hello"


async def test_a_model_without_a_template_renders_nothing_and_has_no_child() -> None:
    renderer = renderer_of(None)
    await renderer.start()
    with pytest.raises(TurnRejected, match="no chat template") as caught:
        await renderer.render(user("hello"))
    assert caught.value.code == "invalid_template"
    assert renderer.pid is None


async def test_a_child_that_is_killed_is_started_again_for_the_next_turn() -> None:
    renderer = renderer_of(LAST)
    await renderer.start()
    pid = stop(renderer)
    rendering = asyncio.create_task(renderer.render(user("hello")))
    await asyncio.wait({rendering}, timeout=0.1)  # until it was asked
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(TurnRejected, match="the process died of it"):
        await rendering
    rendered = await renderer.render(user("again"))
    other = renderer.pid
    await renderer.close()
    assert rendered.text == "again"
    assert other not in (None, pid)


async def test_a_child_that_is_late_is_ended_and_the_next_turn_works() -> None:
    renderer = renderer_of(LAST, late_seconds=0.2)
    await renderer.start()
    pid = stop(renderer)
    with pytest.raises(TurnRejected, match=r"not done after 0\.2 s$"):
        await renderer.render(user("hello"))
    assert is_gone(pid)
    await renderer.start()  # so that starting it is not what takes too long
    rendered = await renderer.render(user("again"))
    await renderer.close()
    assert rendered.text == "again"


async def test_a_template_is_given_its_own_computing_time_and_not_the_clocks() -> None:
    renderer = renderer_of(LAST, computing_seconds=0.2)
    await renderer.start()
    pid = stop(renderer)
    rendering = asyncio.create_task(renderer.render(user("hello")))
    done, _ = await asyncio.wait({rendering}, timeout=0.4)
    assert not done
    os.kill(pid, signal.SIGCONT)
    rendered = await rendering
    await renderer.close()
    assert rendered.text == "hello"


async def test_a_turn_that_is_given_up_takes_the_child_with_it_as_its_answer_would_be_the_next_turns() -> None:
    renderer = renderer_of(LAST)
    await renderer.start()
    pid = stop(renderer)
    rendering = asyncio.create_task(renderer.render(user("hello")))
    await asyncio.wait({rendering}, timeout=0.1)
    rendering.cancel()
    await asyncio.gather(rendering, return_exceptions=True)
    assert is_gone(pid)
    rendered = await renderer.render(user("again"))
    await renderer.close()
    assert rendered.text == "again"


async def test_what_was_refused_is_refused_again_without_the_child() -> None:
    renderer = renderer_of("{{ raise_exception('never') }}")
    with pytest.raises(TurnRejected) as first:
        await renderer.render(user("hello"))
    await renderer.close()
    with pytest.raises(TurnRejected) as second:
        await renderer.render(user("hello"))
    assert str(second.value) == str(first.value)
    assert renderer.pid is None


async def test_who_comes_when_enough_others_wait_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    renderer = renderer_of(LAST)
    asked = [renderer.render(user(f"number {n}")) for n in range(5)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    await renderer.close()
    assert [getattr(one, "code", one.text if not isinstance(one, BaseException) else one) for one in found] == [
        "number 0",
        "number 1",
        "number 2",
        "overloaded",
        "overloaded",
    ]


async def test_where_memory_is_short_the_kernel_takes_the_child_first() -> None:
    renderer = renderer_of(LAST)
    await renderer.start()
    assert Path(f"/proc/{renderer.pid}/oom_score_adj").read_text() == "1000\n"
    await renderer.close()


async def test_a_closed_renderer_leaves_no_process_behind() -> None:
    renderer = renderer_of(LAST)
    await renderer.start()
    pid = renderer.pid
    assert pid is not None
    await renderer.close()
    await eventually(lambda: is_gone(pid))


async def test_a_child_that_cannot_start_stops_the_worker_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(TurnpikeError, match="renders chat templates does not start"):
        await renderer_of(LAST).start()


@pytest.mark.parametrize(("said", "told"), [("none", ""), ("2024-02-29", "29 Feb 2024")])
async def test_a_template_hears_the_date_that_the_setting_says(said: str, told: str) -> None:
    renderer = TemplateRenderer("{{ date_string }}", bos_token="", eos_token="", date=said)
    rendered = await renderer.render(user("hello"))
    await renderer.close()
    assert rendered.text == told


def test_today_is_the_machines_own() -> None:
    before = datetime.datetime.now().astimezone().date()
    found = dated("today")
    assert found in (before.isoformat(), datetime.datetime.now().astimezone().date().isoformat())
