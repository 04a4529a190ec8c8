"""JSON schemas → grammars. Pure: no model, no I/O."""

from workers.grammars.schemas.grammar import gbnf_of_schema
from workers.grammars.schemas.rules import SchemaRefused

__all__ = ["SchemaRefused", "gbnf_of_schema"]
