"""Tool calls and reasoning in what a model writes: text in pieces becomes text, thoughts and calls. Pure, and bounded.

`syntax_of` chooses a model's syntax by its chat template, a `Parser` reads one answer.
"""

from workers.calls.choosing import syntax_of
from workers.calls.deltas import Arguments, Broken, CallBegun, CallEnded, Delta, Reason, Reasoning, Text
from workers.calls.deriving import Written
from workers.calls.parser import Parser
from workers.calls.syntax import Form, Syntax, Thoughts, Tool
from workers.calls.syntaxes import SYNTAXES

__all__ = [
    "SYNTAXES",
    "Arguments",
    "Broken",
    "CallBegun",
    "CallEnded",
    "Delta",
    "Form",
    "Parser",
    "Reason",
    "Reasoning",
    "Syntax",
    "Text",
    "Thoughts",
    "Tool",
    "Written",
    "syntax_of",
]
