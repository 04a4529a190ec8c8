"""JSON schemas and GBNF → grammars that are followed token by token."""
