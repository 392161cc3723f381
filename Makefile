# Every target that needs the environment makes it first, or completes it.

# Idle OpenMP threads must sleep, not spin: on busy cores spinning costs more
# than the work. Read when the process starts, hence here.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0

# The Python that makes .venv: 3.10, 3.11 or 3.12. Empty: look for one.
PYTHON ?=
# More arguments for the demo or for pytest: make test ARGS='-k flora -x'
ARGS ?=

BIN := .venv/bin
# A worker needs up to 3 GB; a core that is idle takes tests from a busy one.
PARALLEL := -n logical --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow lint format clean distclean

help: ## list what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) \
		| while IFS='|' read -r name text; do \
			printf '%-18s %s\n' "$$name" "$$text"; done

venv: ## make .venv with the pinned stack, or complete it
	@PYTHON='$(PYTHON)' requirements/install.sh

demo: venv ## train, fine-tune and compare on generated data
	$(BIN)/python demo/run.py $(ARGS)

test: venv ## run the tests, without the slow ones
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-slow: venv ## run all tests
	$(BIN)/python -m pytest -m '' $(PARALLEL) $(ARGS)

lint: venv ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: venv ## rewrite the code in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove caches and build folders
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf .venv .venv.lock
