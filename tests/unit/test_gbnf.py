"""Grammars in GBNF: what llama.cpp takes is taken and means the same, what is none is refused by its place."""

from __future__ import annotations

import pytest

from tests.follow import TABLE, accepts, made
from workers.grammars.gbnf import GrammarRefused, lark_of_gbnf
from workers.grammars.matcher import Matcher, MatchFailed

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"""
CHESS = r"""
root    ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move    ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle  ::= "O-O" "-O"?
"""
ARITHMETIC = r"""
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"""
LIST = r"""
root ::= item+

# Excludes various line break characters
item ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n"
"""
TAKEN = [
    # (grammar, texts that are taken, texts that are not)
    ('root ::= ("a" | "ab") "b"', ["ab", "abb"], ["a", "b", "abbb"]),
    ('root ::= "a"* "ab"', ["ab", "aaab"], ["a", "aba"]),
    ("root ::= [a-z]+ [a-z0-9]+ [0-9]", ["ab1", "aab12"], ["a1", "1ab"]),
    ('root ::= x{2,3} "end"\nx ::= [^"\\\\]', ["ééend", "日本語end"], ["éend", '""end', "日本語語end"]),
    ("root ::= [\\u65E5-\\u672C\\x41\\U0001F600]{2}", ["日A", "😀本"], ["ab", "A"]),
    ('root ::= s\ns ::= "(" s ")" s |', ["", "()", "(())()"], ["(", ")("]),
    ('root ::= list\nlist ::= [a-z] "," list | [a-z]', ["a", "a,b,c"], ["a,", ",a"]),
    ('root ::= "a" | # one\n  "b"\n# end\n', ["a", "b"], ["", "ab"]),
    ('root ::= ( "x" |\n "y" )? "\\"\\\\\\t\\[\\]" .', ['x"\\\t[]z', '"\\\t[]日'], ["x"]),
    ('root ::= [-a] [a-] [\\]\\-]{2}', ["-a]-", "a--]"], ["ab]-"]),
    ('root ::= "" a-b{0} a-b{1,}\na-b ::= "z"', ["z", "zzz"], [""]),
    ('root ::= expr\nexpr ::= expr "+" [0-9] | [0-9]', ["1", "1+2+3"], ["+1", "1+"]),
    ("root ::= " + "(" * 32 + '"a"' + " [b-c]?)?" * 32, ["", "a", "abc"], ["d", "b" * 40]),
    (JSON, ['{"a": [1, -2.5e3, "x\\u00e9"], "b": {}} ', "{}"], ["[]", '{"a": 1,}']),
    (CHESS, ["1. e4 e5\n2. Nf3 Nc6\n3. O-O exd5+\n"], ["e4 e5\n"]),
    (ARITHMETIC, ["x = 1\n", "(a +2) *b_1= 3\n"], ["x=\n"]),
    (LIST, ["- one\n- two\n"], ["- one", "one\n"]),
]  # fmt: skip


@pytest.mark.parametrize(("gbnf", "valid", "invalid"), TAKEN, ids=range(len(TAKEN)))
def test_a_grammar_means_what_it_says(gbnf: str, valid: list[str], invalid: list[str]) -> None:
    assert [text for text in valid if not accepts(gbnf, text)] == []
    assert [text for text in invalid if accepts(gbnf, text)] == []
    for seed in range(5):
        assert accepts(gbnf, made(gbnf, seed))


@pytest.mark.parametrize(
    ("gbnf", "reason"),
    [
        ("", "no rule `root`"),
        ("no root here", "line 1, character 4: `::=` is wanted"),
        ('root ::= "a', "line 1, character 12: it ends too early"),
        ("root ::= missing", "`missing` is not defined"),
        ("root ::= root", "makes no text"),
        ('root ::= a b\na ::= "x" a\nb ::= "y"', "makes no text"),
        ('root ::= "a" )', "line 1, character 14: a line end is wanted"),
        ('root ::= ("a"', r"`\)` is wanted"),
        ("root ::= *", "nothing stands before the repetition"),
        ("root ::= [z-a]", "a range of characters that is none"),
        ("root ::= []", "a class without characters"),
        ('root ::= "\\q"', r"there is no escape `\\q`"),
        ('root ::= "\\uD800"', "no character has this number"),
        ('root ::= "a"{3,2}', "the wrong way round"),
        ('root ::= "a"{9999999}', "more than 1,000,000 repetitions"),
        ("root ::= <[17]>", "references to tokens are not supported"),
        ("root ::= " + "(" * 60 + '"a"' + ")" * 60, "nested deeper than 32"),
    ],
)
def test_what_is_no_grammar_is_refused_by_its_place(gbnf: str, reason: str) -> None:
    with pytest.raises(GrammarRefused, match=reason):
        lark_of_gbnf(gbnf)


def test_a_long_right_recursion_is_followed_to_its_end() -> None:
    matcher = Matcher(TABLE, 'root ::= "\\"" chars\nchars ::= [a-z ] chars | "\\""')
    assert matcher.take(ord('"'))
    for _ in range(6000):
        assert matcher.take(ord("x"))


def test_a_grammar_that_cannot_be_followed_says_so() -> None:
    rules = "".join(f'r{n} ::= [a-z ] s | ""\n' for n in range(1200))
    with pytest.raises(MatchFailed, match="too ambiguous"):
        Matcher(TABLE, "root ::= s\ns ::= " + " | ".join(f"r{n}" for n in range(1200)) + "\n" + rules).take(ord("x"))
