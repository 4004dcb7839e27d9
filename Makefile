# `make demo` shows the whole loop, `make test` tests it; both install first what is missing.

VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS := postgres,tables,gnn,minilm,dev
STAMP  := $(VENV)/.installed

# The first Python that works; not the one of an activated .venv, which may be about to be replaced.
ifndef PYTHON
PYTHON := $(shell PATH="$(subst $(CURDIR)/$(BIN):,,$(PATH))"; \
	for name in python3.11 python3.12 python3.13 python3; do \
		if $$name -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
		then command -v $$name; break; fi; done)
endif

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What the environment was made from, and where: a moved one is of no use.
wanted = { cat pyproject.toml constraints.txt; echo "$(EXTRAS) $(CURDIR)"; "$(PYTHON)" --version; } | cksum
# Whether the environment can hold packages, and whether those that matter are whole.
usable = $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' && $(BIN)/python -m pip --version
whole  = $(BIN)/python -c 'import tuneloop, torch, sentence_transformers, mlflow, optuna, dbos, ibis, duckdb, lightgbm, sklearn, torch_geometric, torch_frame, pytest, psycopg'
get    = $(BIN)/python -m pip install --constraint constraints.txt --editable ".[$(EXTRAS)]"

install: ## make .venv, or bring an older one up to date
	@test -n "$(PYTHON)" \
		|| { echo "Tuneloop needs Python 3.11 or newer with venv: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@if test "$$( $(wanted) )" = "$$(cat $(STAMP) 2>/dev/null)" && test -x $(BIN)/tuneloop; then exit 0; fi; \
	set -e; rm -f $(STAMP); \
	fresh() { echo "making $(VENV)"; "$(PYTHON)" -m venv --clear $(VENV); }; \
	{ $(usable); } >/dev/null 2>&1 || fresh; \
	echo "installing Tuneloop and its libraries (PyTorch is the big one; a few minutes the first time)"; \
	$(get) && { $(whole); } >/dev/null 2>&1 || { \
		echo "the old $(VENV) cannot be repaired"; fresh; $(get); $(whole); }; \
	$(wanted) > $(STAMP)

demo: install ## the whole loop on a made-up shop: before and after
	@$(BIN)/python -m tuneloop.demo

test: install ## run the tests
	@if ! command -v chromium chromium-browser google-chrome >/dev/null 2>&1; then \
		run=""; test "$$(id -u)" = 0 || run="sudo -n"; \
		if command -v apt-get >/dev/null 2>&1 && $$run true 2>/dev/null; then \
			echo "installing chromium for the browser tests"; \
			{ $$run apt-get install -y --no-install-recommends chromium \
				|| { $$run apt-get update && $$run apt-get install -y --no-install-recommends chromium; }; } \
				|| echo "no chromium: the browser tests will be skipped"; \
		else echo "no chromium, and no right to install it: the browser tests will be skipped"; fi; \
	fi
	$(BIN)/python -m pytest $(ARGS)

lint: install ## style, types, and the arrows between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## apply the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and caches; your data stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist src/*.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
