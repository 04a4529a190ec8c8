# Every target does the set-up it needs; the second run starts in seconds.
.PHONY: help demo llama-server-tests test real-models check bench chaos chaos-boards hostile fuzz soak lock images dist clean setup e2e-kubernetes e2e-clients experiment long

setup: ## what every other target does first: .venv, with the pinned packages and llama.cpp compiled; plain `make` too
	@tools/setup.sh

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

demo: setup ## server, worker and a small load in one process tree, then a table
	@.venv/bin/turnpike demo

test: setup ## the whole test suite; what a machine lacks (InfluxDB, kubectl, Chromium, Node) is skipped with its reason
	@if command -v npm >/dev/null; then for at in examples/node tests/axe tests/clients/programs; do npm ci --silent --no-audit --no-fund --prefix $$at; done; fi
	@# Hundreds of commands are started: each would compile our modules anew where an environment has no bytecode kept.
	@PYTHONDONTWRITEBYTECODE= .venv/bin/python -m pytest -n $$(($$(nproc) + 1)) --cov --cov-report=term --cov-fail-under=0

real-models: setup ## the real models of tests and benchmarks (791 MB), by hash, into .cache/real-models
	@.venv/bin/python tools/real_models.py

check: setup ## lint and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

chaos: setup ## 20 minutes of faults on workers and 10 on boards, and an account of every turn; MODEL=FILE for workers of a real model
	@.venv/bin/python -m tests.chaos $(if $(MODEL),20 1 "" "$(MODEL)")
	@.venv/bin/python -m tests.chaos.boards 600

chaos-boards: setup ## 500 turns on 4 boards with 8 models and a kill every 20 s; TP_MODELS=FOLDER for real ones among them
	@.venv/bin/python -m tests.chaos.boards 500 1 "" 4 8 8 20

hostile: setup ## ten minutes in peace, ten with a hostile client: everybody else's turns end
	@.venv/bin/python -m tests.chaos.hostile

fuzz: setup ## a million hostile inputs through every door of a cluster
	@.venv/bin/python -m tests.fuzz

soak: setup ## an hour at full load: memory, descriptors and streams stay flat
	@.venv/bin/python -m tests.chaos.soak

e2e-kubernetes: setup ## on the Kubernetes that KUBECONFIG names, in the network namespace NETNS if that is set
	@$(if $(NETNS),nsenter --net=/run/netns/$(NETNS)) .venv/bin/python -m tests.kubernetes

e2e-clients: setup ## a dozen well-known clients before a real model: calls of tools, and the table of docs/clients.md; CLIENT=NAME for one
	@.venv/bin/python -m tests.clients $(CLIENT)

llama-server-tests: setup ## llama-server's own tests against a gateway; ARGS="-k tokenize" for some, ARGS=--docs writes docs/llama-server-tests.md
	@.venv/bin/python -m tests.llama_server $(ARGS)

experiment: setup ## the paper's experiment, in .cache/experiment, with its report, on shapes made on the spot; PLAN=FILE for another, DATASET=FILE for OpenAssistant trees
	@tools/experiment.sh $(or $(PLAN),experiments/shapes.toml) $(if $(DATASET),"$(DATASET)")

long: chaos hostile fuzz soak experiment bench ## all that takes long: about three hours

bench: setup ## the benchmarks, beside llama.cpp's own tools
	@benchmarks/build_tools.sh >/dev/null
	@.venv/bin/python -m benchmarks

lock: ## renew requirements.lock and k3s/*.lock from pyproject.toml; the only target that wants uv
	uv pip compile -q --universal --python-version 3.12 --generate-hashes --extra dev --no-header --no-annotate \
		pyproject.toml -o requirements.lock
	@tools/setup.sh
	.venv/bin/python tools/image_locks.py

images: ## REGISTRY=host:port pushes both architectures and names them in k3s/images; PLATFORMS=linux/arm64 makes an archive
	@tools/images.sh

dist: ## sdist and wheel, in dist/
	@tools/dist.sh

clean: ## removes .venv, .cache and what was built
	rm -rf .venv .cache build dist *.egg-info
