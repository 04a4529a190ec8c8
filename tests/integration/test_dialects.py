"""A dialect of a few lines shows what one has to bring along: all else is the gateway's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
import msgspec
import pytest
from msgspec import Struct
from starlette.responses import Response

from broker.messages import Chunk, Done, Failed, Message, Sampling, Started
from producers.gateway.dialect import Asked, Finished, Plain, Turned
from producers.gateway.errors import ApiError
from producers.gateway.failures import error_of
from producers.gateway.keys import ClientKeys, new_key
from producers.gateway.openai.dialect import OpenAi
from producers.gateway.responses import json_response
from producers.gateway.visits import Visit
from tests.fakes import FakeEngine
from tests.gateway import USER, StartGateway, num_queued
from tests.integration.conftest import StartWorker


def line(**fields: Any) -> bytes:
    return msgspec.json.encode(fields) + b"\n"


class LinesWriter:
    """A line of JSON for each piece, with the question's number."""

    media_type = "application/x-ndjson"

    def goes_to(self, index: int, turn: str, model: str) -> None:
        pass

    def begun_with(self, index: int, started: Started) -> None:
        pass

    def failure(self, failed: Failed) -> ApiError:
        return error_of(failed, {})

    def whole(self, answers: Sequence[Finished]) -> list[str]:
        return [one.done.text for one in answers]

    def begin(self, index: int) -> bytes:
        return line(begins=index)

    def piece(self, index: int, chunk: Chunk) -> bytes:
        return line(number=index, more=chunk.text)

    def go_on_at(self, index: int, num_characters: int) -> None:
        pass

    def end(self, index: int, done: Done) -> bytes:
        return line(number=index, ends=done.finish_reason)

    def finish(self, dones: Sequence[Done], details: bytes = b"") -> bytes:
        return line(answered=len(dones))

    def broken_off(self, error: ApiError) -> bytes:
        return line(**LinesDialect().error_body(error))

    def comment(self, text: str) -> bytes:
        return b""


class Questions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    questions: tuple[str, ...]
    model: str = "m"
    is_streamed: bool = False
    limit: int = 500
    mood: str | None = None
    conversation: str | None = None

    @property
    def ignored(self) -> tuple[str, ...]:
        return () if self.mood is None else ("mood",)

    def check(self) -> None:
        if not self.questions:
            raise ApiError(400, "no questions", param="questions")

    def asked(self) -> list[Asked]:
        return [Asked((Message("user", one),), Sampling(max_tokens=self.limit)) for one in self.questions]

    def writer(self, turn: str, model: str) -> LinesWriter:
        return LinesWriter()


async def names(visit: Visit) -> Response:
    return json_response([*await visit.models()])


class LinesDialect:
    media_type = "application/x-ndjson"
    error_schema: Mapping[str, Any] = {"type": "object", "required": ["oops"]}
    turns: Mapping[str, Turned] = {"/lines/ask": Turned(Questions, "Asks")}
    plain = (
        Plain("GET", "/lines/names", names, "Who is there"),
        Plain("GET", "/lines/open", names, "The same", needs_key=False),
    )

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return {"oops": error.message, "field": error.param}


BOTH = (OpenAi(), LinesDialect())


async def test_a_second_dialect_asks_several_questions_and_is_answered_in_its_own_words(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with (
        start_worker(),
        start_gateway(dialects=BOTH) as url,
        httpx2.AsyncClient(base_url=url, timeout=30) as plain,
    ):
        answer = await plain.post("/lines/ask", json={"questions": ["one", "two"], "mood": "good", "odd": 1})
        assert answer.json() == ["echo one", "echo two"]
        assert answer.headers["turnpike-ignored"] == "odd, mood"
        assert len(answer.headers["turnpike-turn"].split(", ")) == 2
        answer = await plain.post("/lines/ask", json={"questions": ["one", "two"], "is_streamed": True})
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(one) for one in answer.text.splitlines()]
        for number, text in enumerate(("echo one", "echo two")):
            assert "".join(one["more"] for one in lines if one.get("number") == number and "more" in one) == text
            assert {"number": number, "ends": "stop"} in lines
            assert {"begins": number} in lines
        assert lines[-1] == {"answered": 2}
        assert "m" in (await plain.get("/lines/names")).json()
        followed = await plain.get(f"/turns/{answer.headers['turnpike-turn'].split(', ')[1]}")
        assert "chat.completion.chunk" in followed.text, "by its id a turn is told in the first dialect's words"
        assert (await plain.post("/v1/chat/completions", json={"messages": USER, "model": "m"})).status_code == 200


async def test_what_goes_wrong_is_told_in_the_words_of_whose_path_it_is(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    async with (
        start_worker(FakeEngine(num_ctx=100)),
        start_gateway(dialects=BOTH) as url,
        httpx2.AsyncClient(base_url=url, timeout=30) as plain,
    ):
        for body, param in (({"questions": []}, "questions"), ({"questions": 5}, "questions")):
            answer = await plain.post("/lines/ask", json=body)
            assert (answer.status_code, answer.json()["field"]) == (400, param)
        assert "oops" in (await plain.get("/lines/nothing")).json()
        assert (await plain.get("/lines/ask")).status_code == 405
        assert "error" in (await plain.get("/v1/nothing")).json()
        for is_streamed in (False, True):
            many = {"questions": ["short", "x" * 300], "is_streamed": is_streamed}
            assert "context" in (await plain.post("/lines/ask", json=many)).text
        paths = (await plain.get("/openapi.json")).json()["paths"]
        assert {"/lines/ask", "/lines/names", "/v1/chat/completions", "/turns/{turn}"} <= {*paths}


async def test_a_strict_gateway_refuses_what_any_dialect_would_ignore(start_gateway: StartGateway) -> None:
    async with start_gateway(dialects=BOTH, is_strict=True) as url, httpx2.AsyncClient(base_url=url) as plain:
        for more, param in (({"odd": 1}, "odd"), ({"mood": "good"}, "mood")):
            answer = await plain.post("/lines/ask", json={"questions": ["one"]} | more)
            assert (answer.status_code, answer.json()["field"]) == (400, param)


async def test_a_key_may_come_as_either_header_and_counts_each_question(
    start_worker: StartWorker, start_gateway: StartGateway
) -> None:
    key, digest = new_key()
    keys = {"alice": ClientKeys((digest,), turns_at_once=4)}
    async with (
        start_worker(),
        start_gateway(keys, dialects=BOTH) as url,
        httpx2.AsyncClient(base_url=url, timeout=30) as plain,
    ):
        for headers in ({"x-api-key": key}, {"Authorization": f"Bearer {key}"}):
            answer = await plain.post("/lines/ask", json={"questions": ["one", "two"]}, headers=headers)
            assert answer.status_code == 200
        assert (await plain.post("/lines/ask", json={"questions": ["one"]})).status_code == 401
        assert (await plain.get("/lines/names", headers={"x-api-key": key + "x"})).status_code == 401
        assert (await plain.get("/lines/open")).status_code == 200
        answer = await plain.post("/lines/ask", json={"questions": list("abcde")}, headers={"x-api-key": key})
        assert (answer.status_code, "no more than 4" in answer.text) == (400, True)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_who_leaves_leaves_none_of_several_turns_behind(
    start_worker: StartWorker, start_gateway: StartGateway, is_streamed: bool
) -> None:
    engine = FakeEngine(answer="y" * 400, step_seconds=0.01)
    async with (
        start_worker(engine) as running,
        start_gateway(dialects=BOTH) as url,
        httpx2.AsyncClient(base_url=url) as plain,
    ):
        body = {"questions": ["one", "two"], "is_streamed": is_streamed}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await plain.post("/lines/ask", json=body)
        assert await num_queued(running.nc) == 2
        async with asyncio.timeout(5):
            while await num_queued(running.nc):
                pass
