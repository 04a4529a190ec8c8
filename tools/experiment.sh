#!/bin/sh
# A plan's experiment with a broker of its own, in .cache/experiment/NAME. Usage: experiment.sh PLAN.toml [DATASET]
# With a DATASET (OpenAssistant trees or messages) the run is one of its own, in a folder of its own, named after it.
set -eu
cd "$(dirname "$0")/.."
plan=$1 dataset=${2:-}
name=$(basename "$plan" .toml)
[ -z "$dataset" ] || name=$name-$(basename "$dataset" | tr -c 'A-Za-z0-9\n' '-')
out=.cache/experiment/$name
mkdir -p "$out"
if [ -n "$dataset" ]; then
    sed -e "s|^name = .*|name = \"$name\"|" -e "s|^\[load\]|[load]\ndataset = \"$dataset\"|" "$plan" >"$out/plan.toml"
    plan=$out/plan.toml
fi
models=$(sed -n 's/^model = "\(.*\)"/--model \1/p' "$plan")
rm -f "$out/broker.log"
# shellcheck disable=SC2086
.venv/bin/turnpike broker --data-dir "$out/broker" --port 0 $models >"$out/broker.log" 2>&1 &
broker=$!
trap 'kill $broker; wait $broker || true' EXIT
until grep -qs "nats-server at" "$out/broker.log"; do
    kill -0 "$broker" 2>/dev/null || { cat "$out/broker.log" >&2; exit 1; }
    sleep 0.2
done
.venv/bin/turnpike experiment "$plan" --out "$out" --data-dir "$out/broker"
