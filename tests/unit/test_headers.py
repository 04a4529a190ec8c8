"""Headers as they come off the wire: read as nats-py reads them, in a fraction of its time."""

from __future__ import annotations

import pytest
from nats.aio.client import Client

from broker.nats_client import SafeClient

BLOCKS = [
    b"\r\n",
    b"Nats-Stream: REPLIES\r\nNats-Sequence: 12\r\nContent-Type: application/msgpack\r\n\r\n",
    b"a:b\r\nc :d\r\n e: f \r\ng:\th\x0b\r\n\r\n",
    b"a:b:c\r\n:nameless\r\nno colon\r\ntwice: 1\r\ntwice: 2\r\n\r\n",
    b"a b: 1\r\na\tb: 2\r\na\x0bb: 3\r\na\x1cb: 4\r\na\x00b: 5\r\n\x1ca: 6\r\n\r\n",
    b"\xc3\xa4: 1\r\n\xff: 2\r\nx: \xff\xfe\r\ny: \xc3\xa4\xc2\xa0\r\nz: \xe2\x80\x83\r\n\r\n",
    b"a: 1\nb: 2\rc: 3\r\n\r\n",
    b"no end: 1",
    b"x: \xc3\r\ny: 2\r\n",
]


@pytest.mark.parametrize("block", BLOCKS)
async def test_a_message_s_headers_are_what_nats_py_makes_of_them(block: bytes) -> None:
    theirs = Client._parse_header_lines(block)
    assert await SafeClient()._process_headers(b"NATS/1.0\r\n" + block) == (theirs or None)


@pytest.mark.parametrize("first", [b"NATS/1.0\r\n", b"NATS/1.1\r\n", b"whatever\r\n"])
async def test_no_publisher_s_header_is_taken_for_the_server_s_answer(first: bytes) -> None:
    found = await SafeClient()._process_headers(first + b"Status: 404\r\nDescription: gone\r\nx: 1\r\n\r\n")
    assert found == {"x": "1"}


async def test_the_server_s_status_is_its_answer() -> None:
    client = SafeClient()
    assert await client._process_headers(b"NATS/1.0 503\r\n\r\n") == {"Status": "503"}
    assert await client._process_headers(b"NATS/1.0 404 No Messages\r\n\r\n") == {
        "Status": "404",
        "Description": "No Messages",
    }
    assert await client._process_headers(b"NATS/1.0 100 \xff\xfe\r\n\r\n") is None
    assert await client._process_headers(b"NATS/1.0") is None
    assert await client._process_headers(b"") is None
