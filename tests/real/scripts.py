"""Texts of many scripts, of which no character may come in halves."""

from __future__ import annotations

import json

TEXTS = {
    "Chinese": "检查三号节点的风扇，然后等待十分钟。龘𠮷",
    "Japanese": "ﾊﾝｶｸとカタカナ、が（か\u3099）",
    "Korean": "안녕하세요 \u1112\u1161\u11ab",
    "Arabic": "مَرْحَبًا بِالعَالَم ١٢٣ ﷽",
    "Hebrew": "שָׁלוֹם \u200fעולם",
    "Hindi": "नमस्ते, क्षत्रिय श्री",
    "Thai": "สวัสดีที่นี่",
    "families": "👨‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 ❤️‍🔥",
    "flags and tones": "🇵🇱🇯🇵 👍🏿👋🏻 #️⃣ 🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "combining marks": "e\u0301o\u0302\u0323 Z\u0351\u036b\u0343 ñ n\u0303",
    "code": "def f(x):\n\treturn {\n\t\t'a': x,\t# ½\n\t}\n\n\n    # end\n",
    "line ends": "one\r\ntwo\r\n\r\n\tthree\rfour\n",
    "spaces": "a  b   c\u00a0d\u2003e\u200bf\u2028g ",
    "seldom": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𓀀 ꙮ \U0010fffd \u0001",
}


def literal(text: str) -> str:
    """The grammar of one text."""
    return f"root ::= {json.dumps(text, ensure_ascii=False)}"


def is_whole(chunk: str) -> bool:
    return "\ufffd" not in chunk and chunk.encode().decode() == chunk
