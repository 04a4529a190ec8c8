"""JSON schemas and GBNF → grammars in GBNF, and matchers that say which token may come next."""
