.DEFAULT_GOAL := help
PY := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# PROVIDER=host|kind|external: on which cluster (docs: e2e/cluster/README.md); K8S=1.35: of which Kubernetes.
ifneq ($(PROVIDER),)
export MILEPOST_PROVIDER := $(PROVIDER)
endif
ifneq ($(K8S),)
export MILEPOST_K8S := $(K8S)
endif
# A file of tests at a time, in their order: the long ones have few tests. Each worker has a Postgres and an API server.
WORKERS := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

demo: venv ## the main job: cluster, images, chart, a task that is killed and resumes
	@$(PY) -m e2e.demo

# Scenarios that need the cluster for themselves mostly wait: the engine's tests use that time, at the lowest priority.
test: check chaos chart shared ## everything, on a real Postgres, Helm and Kubernetes
	$(MAKE) --jobs=2 --output-sync=target alone integration BESIDE='nice -n 19'
	$(MAKE) edge

check: venv ## format, lint, import law, types, generated files, unit tests: seconds
	ruff format --check .
	ruff check .
	lint-imports --no-logo
	mypy
	$(PY) tools/crds.py --check
	$(PY) tools/chart_docs.py --check
	$(PY) tools/openapi.py --check
	pytest -q $(WORKERS) tests/unit

integration: programs ## the engine on a real Postgres, the operator and its client on a real API server
	$(BESIDE) pytest -q $(WORKERS) tests/integration tests/contract

chaos: venv ## faults on the engine, judged (SEED=…; MINUTES=30: each fault hits runs at work 20 times)
	@$(PY) -m tests.chaos --seed $(or $(SEED),1) --minutes $(or $(MINUTES),1.2)

mutants: venv ## planted bugs, each of which a named test or the chaos run has to notice
	@$(PY) -m tests.mutants
	MILEPOST_ALL_BUGS=1 pytest -q tests/integration/test_engine_model.py tests/integration/test_warm_model.py

crash-points: venv ## every death at every write of the tasks of tests/crashpoints (SEED=…, SAMPLES=… of two and three)
	MILEPOST_TEST_SEED=$(or $(SEED),1) MILEPOST_CRASH_SAMPLES=$(or $(SAMPLES),10) pytest -q --log-cli-level=INFO tests/integration/test_crash_points.py

chart: programs ## the chart, with a real Helm and a real API server
	pytest -q tests/chart

e2e: shared alone edge ## the fault scenarios on a real Kubernetes cluster (brought up when there is none)

shared: up images
	pytest -q -m "cluster and not alone" -n 2 --dist loadgroup --no-loadscope-reorder e2e/scenarios

alone: up images
	pytest -q -m "cluster and alone" e2e/scenarios

edge: up
	pytest -q -m cluster e2e/tests/test_edge.py

lifecycle: up ## the cluster itself: interrupted, killed, repaired, two nodes, removed (takes a running one down)
	$(if $(filter external,$(MILEPOST_PROVIDER)),$(error an external cluster is not ours to take down: PROVIDER=host or kind))
	MILEPOST_E2E_LIFECYCLE=1 pytest -q -m cluster e2e/tests/test_$(or $(MILEPOST_PROVIDER),host)_lifecycle.py

bench: venv ## the benchmarks, with their bars
	$(PY) -m e2e.bench

bench-start: venv ## how attempts start and end: warm, cold, many at once, after a death (with the bars)
	$(PY) -m e2e.bench warm_start cold_start many_starts death idle_pod warm_soak

bench-engine: venv ## the engine beside its peers on one Postgres, with the bars (installs the peers apart)
	@$(PY) -m tests.benchmarks.engine

bench-sdk: venv ## the SDK's bars, beside DBOS, absurd and Restate (installs them apart)
	@$(PY) -m tests.benchmarks.sdk

up: venv ## bring up a cluster (NODES=2 for two nodes)
	@$(PY) -m e2e.cluster up

down: venv ## remove the cluster without a trace
	@$(PY) -m e2e.cluster down

images: venv ## build the images
	@$(PY) -m e2e.images build

programs: venv ## build the programs of a cluster and of tests: minutes the first time, then cached
	@$(PY) -c 'from e2e.cluster.binaries import binaries, versitygw_program; binaries(); versitygw_program()'

venv: ## install the pinned Python packages into .venv
	@tools/bootstrap.sh

lock: venv ## resolve the lock files anew
	$(PY) tools/lock.py

fmt: venv ## format and fix what can be fixed
	ruff format . && ruff check --fix .

.PHONY: help demo test check integration chaos mutants crash-points chart e2e shared alone edge lifecycle bench bench-start bench-engine bench-sdk up down images programs venv lock fmt
