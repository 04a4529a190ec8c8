"""The page's files: few bytes, none of them long, others' as they were published, each sent once. No browser here."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2

from producers.gateway.page_files import MEDIA_TYPES, PAGE
from tests.gateway import StartGateway
from tests.support import ROOT

MAX_PAGE_BYTES = 250 * 1024
MAX_LINES = 400


def sizes() -> dict[str, int]:
    return {str(path.relative_to(PAGE)): path.stat().st_size for path in PAGE.rglob("*") if path.is_file()}


def test_all_of_it_is_small_and_no_file_is_long() -> None:
    assert sum(size for name, size in sizes().items() if not name.endswith("LICENSE")) <= MAX_PAGE_BYTES
    lines = {path.name: len(path.read_text().splitlines()) for path in PAGE.glob("*.*") if path.suffix != ".png"}
    assert {name for name, number in lines.items() if number > MAX_LINES} == set()


def test_what_is_of_others_is_what_the_lock_file_says() -> None:
    packages = json.loads((ROOT / "tools/page_vendor/package-lock.json").read_text())["packages"]
    versions = {name.rpartition("node_modules/")[2]: one.get("version") for name, one in packages.items()}
    for file, package in (
        ("marked/marked.esm.js", "marked"),
        ("dompurify/purify.min.js", "dompurify"),
        ("highlight/core.min.js", "@highlightjs/cdn-assets"),
        ("highlight/languages/python.min.js", "@highlightjs/cdn-assets"),
    ):
        path = PAGE / "vendor" / file
        assert versions[package] in path.read_text()[:300], file
        assert any((folder / "LICENSE").exists() for folder in path.parents if folder.is_relative_to(PAGE)), file


async def test_its_files_come_with_their_kind_and_are_not_sent_twice(start_gateway: StartGateway) -> None:
    async with start_gateway() as url, httpx2.AsyncClient(base_url=url) as plain:
        for name in ("", *sizes()):
            first = await plain.get(f"/{name}")
            assert first.status_code == 200, name
            assert first.headers["content-type"] == MEDIA_TYPES[Path(name).suffix or (".html" if not name else "")]
            assert first.content == (PAGE / (name or "index.html")).read_bytes()
            again = await plain.get(f"/{name}", headers={"If-None-Match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b""), name
            assert "default-src 'self'" in again.headers["content-security-policy"]
        whole = await plain.get("/style.css", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in whole.headers
        for name in ("../app.py", "%2e%2e/app.py", "vendor", "vendor/", ".git", "page_files.py"):
            assert (await plain.get(f"/{name}")).status_code == 404, name
