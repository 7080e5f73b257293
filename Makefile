.DEFAULT_GOAL := help
PY := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

venv: ## install the pinned Python packages into .venv
	@tools/bootstrap.sh

lock: venv ## resolve the lock files anew
	$(PY) tools/lock.py

fmt: venv ## format and fix what can be fixed
	ruff format . && ruff check --fix .

check: venv ## format, lint, import law, types, unit tests: seconds
	ruff format --check .
	ruff check .
	lint-imports
	mypy
	pytest -q tests/unit

.PHONY: help venv lock fmt check
