"""llama-server's own tests, as they are in llama.cpp's source, against a gateway of ours: `make llama-server-tests`.

The source is fetched, never a part of this project. `source.py` lays it out, `plugin.py` puts our own processes behind
its `ServerProcess` (`serving.py`), `models.py` says what stands in for its models, and `verdicts.py` keeps the account:
`verdicts.toml` names each test that does not apply or that we do not pass, with its reason.
"""
