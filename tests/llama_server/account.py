"""What became of the tests, and why: for the terminal and for docs/llama-server-tests.md."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.llama_server.verdicts import Verdicts, test_id

Verdict = Literal["passed", "failed", "not ours", "no model"]
HEAD = """# llama-server's own tests

`make llama-server-tests` runs the suite of llama.cpp's server (`tools/server/tests` of the source that the pinned
llama-cpp-python {version} is of) against a gateway, with a broker and a worker behind it. It is run as it is fetched;
what it starts is replaced by [tests/llama_server](../tests/llama_server), and so are

- **the models.** It wants stories260K and others from the hub. A folder that `TP_LLAMA_SERVER_MODELS` names may have
  them, by repository; without it the model that Turnpike ships stands in for the small ones, changed so that it goes on
  as a teller of stories does ([standin.py](../tests/llama_server/standin.py)), and Qwen2.5-Coder-0.5B (`make
  real-models`) for those of 1 to 8 billion weights, all-MiniLM-L6-v2 for bge-small.
- **words.** What a model says word for word (`match_regex`) is not asked of another one: any text is taken then.
- **numbers of tokens of stories260K's vocabulary**: llama.cpp's tokenizer counts them for the model that is there
  ([counts.py](../tests/llama_server/counts.py)).
- **what llama-server's command line says of all requests** and no flag of a gateway does (`--temp`, `--seed`,
  `--n-predict`, `--verbose`): each request says it that leaves it open.
- **what it says of the server**: `--origins` for `--cors-origins`, all where it says nothing, `--without-slots`,
  `--without-page`, `--gateway-host` ([models.py](../tests/llama_server/models.py)).
- **names of models that are not there** (`gpt-3.5-turbo`, `davinci-002`, `test`, …), which llama-server answers to with
  its one model and a gateway refuses: its file of routes has a policy for each, and `auto` as the default
  ([serving.py](../tests/llama_server/serving.py)).
- **the case of header names**, which have none, and which the suite looks up in a dictionary.

Nothing else is. `make llama-server-tests ARGS=--docs` writes this page.
"""


@dataclass(frozen=True)
class Outcome:
    """Of one test."""

    test: str
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Account:
    """Of a run."""

    outcomes: list[Outcome]
    verdicts: Verdicts

    @classmethod
    def read(cls, path: Path, verdicts: Verdicts) -> Account:
        """What the plugin wrote."""
        lines = path.read_text().splitlines() if path.is_file() else []
        return cls([_outcome(json.loads(line), verdicts) for line in lines], verdicts)

    def of(self, verdict: Verdict) -> list[Outcome]:
        """Those that came to it."""
        return [one for one in self.outcomes if one.verdict == verdict]

    @property
    def num_applying(self) -> int:
        """Those that say something of a gateway, and of models that are here."""
        return len(self.of("passed")) + len(self.of("failed"))

    @property
    def surprises(self) -> list[str]:
        """Failures that are not known, and known ones that pass."""
        known = {one.test: self.verdicts.known(one.test) for one in self.outcomes}
        unknown = [f"failed: {one.test}: {one.why}" for one in self.of("failed") if known[one.test] is None]
        return unknown + [f"passes: {one.test}" for one in self.of("passed") if known[one.test] is not None]

    def told(self) -> str:
        """In lines."""
        passed, share = len(self.of("passed")), 100 * len(self.of("passed")) / max(1, self.num_applying)
        lines = [f"{len(self.outcomes)} tests: {passed} of the {self.num_applying} that apply pass ({share:.1f} %)"]
        for verdict in ("failed", "no model", "not ours"):
            counts = Counter(one.why.splitlines()[0] if one.why else "" for one in self.of(verdict))
            lines += [f"{count:4} {verdict}: {why}" for why, count in counts.most_common()]
        return "\n".join([*lines, *self.surprises])


def page(account: Account) -> str:
    """The page in docs/."""
    passed = len(account.of("passed"))
    lines = [HEAD.format(version=_version()), "| | tests |", "|---|---|"]
    lines += [f"| pass | {passed} |", f"| do not pass, for the reasons below | {len(account.of('failed'))} |"]
    lines += [f"| say something of a gateway and of models that are here | {account.num_applying} |"]
    lines += [f"| are of other things | {len(account.of('not ours')) + len(account.of('no model'))} |"]
    lines += [f"| in all | {len(account.outcomes)} |", "", "## What does not pass", "", "| test | why |", "|---|---|"]
    why = {one.test: account.verdicts.known(one.test) or one.why.splitlines()[0] for one in account.of("failed")}
    lines += [f"| `{_cell(test)}` | {_cell(reason)} |" for test, reason in why.items()]
    lines += ["", "## What is of other things", "", "| tests | why |", "|---|---|"]
    counts = Counter(one.why for verdict in ("not ours", "no model") for one in account.of(verdict))
    lines += [f"| {count} | {_cell(reason)} |" for reason, count in counts.most_common()]
    return "\n".join(lines) + "\n"


def _outcome(found: dict[str, str], verdicts: Verdicts) -> Outcome:
    test, why = test_id(found["test"]), found["why"]
    if found["outcome"] == "skipped":
        kind: Verdict = "no model" if "no model: " in why else "not ours"
        for mark in ("Skipped: ", "does not apply: ", "no model: "):
            why = why.removeprefix(mark)
        return Outcome(test, kind, why)
    return Outcome(test, "passed" if found["outcome"] == "passed" else "failed", why)


def _version() -> str:
    from importlib.metadata import version

    return version("llama_cpp_python")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
