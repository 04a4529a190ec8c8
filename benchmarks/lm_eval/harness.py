"""Runs lm-evaluation-harness's Winogrande on a file of items, with a model that only looks answers up.

Run by an interpreter that has lm-eval: harness.py ITEMS FOLDER. Writes asked.json, and where FOLDER has scores.json,
what the harness chooses with them, chosen.json.
"""

import json
import sys
import tempfile
from pathlib import Path

import lm_eval
import lm_eval.tasks.winogrande
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

TASK = """
task: items
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {items}}}}}
validation_split: validation
output_type: multiple_choice
doc_to_text: !function preprocess_winogrande.doc_to_text
doc_to_target: !function preprocess_winogrande.doc_to_target
doc_to_choice: !function preprocess_winogrande.doc_to_choice
metric_list: [{{metric: acc}}]
"""


class Shim(LM):
    """Answers from `scores`; 0 for what is not known yet."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.asked = scores, []

    def loglikelihood(self, requests, disable_tqdm=False):
        pairs = [list(request.args) for request in requests]
        self.asked += pairs
        return [(self.scores.get(json.dumps(pair), 0.0), False) for pair in pairs]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        raise NotImplementedError


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: harness.py ITEMS FOLDER")
    items, folder = Path(sys.argv[1]).absolute(), Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    known = folder / "scores.json"
    shim = Shim(json.loads(known.read_text()) if known.exists() else {})
    with tempfile.TemporaryDirectory() as tasks:
        theirs = Path(lm_eval.tasks.winogrande.__path__[0]) / "preprocess_winogrande.py"
        (Path(tasks) / theirs.name).write_text(theirs.read_text())
        (Path(tasks) / "items.yaml").write_text(TASK.format(items=items))
        manager = TaskManager(include_path=tasks)
        found = lm_eval.simple_evaluate(
            model=shim, tasks=["items"], task_manager=manager, log_samples=True, bootstrap_iters=0
        )
    (folder / "asked.json").write_text(json.dumps(shim.asked))
    if known.exists():
        samples = found["samples"]["items"]
        scores = [[float(one[0]) for one in sample["filtered_resps"]] for sample in samples]
        (folder / "chosen.json").write_text(json.dumps(scores))
        print(found["results"]["items"])


if __name__ == "__main__":
    main()
