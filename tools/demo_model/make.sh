#!/bin/sh
# Trains the demo model from nothing and puts the file where the package ships it: about an hour on two cores.
# The training has an environment of its own, with a Python that PyTorch has a wheel for; the rest is the project's.
set -eu
cd "$(dirname "$0")/../.."
work=${1:-.cache/demo_model}
tools/setup.sh
if [ ! -x "$work/venv/bin/python" ]; then
    "${TRAINING_PYTHON:-python3}" -m venv "$work/venv"
    "$work/venv/bin/pip" install -q -r tools/demo_model/requirements.txt
fi
"$work/venv/bin/python" tools/demo_model/train.py "$work/run"
.venv/bin/python tools/demo_model/convert.py "$work/run" workers/models/demo.gguf Q8_0
.venv/bin/python tools/demo_model/evaluate.py
