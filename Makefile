# Everything runs from a clone with nothing but Python 3.11 (or newer) and make: the first target
# that needs them installs the pinned dependencies into .venv, in this folder.
#
#   make demo     three hosts, a thousand groups, a leader killed on the way   (ARGS="--groups 5000")
#   make test     every test                                                   (ARGS="-m 'not slow'")
#   make check    style, types, and who may import whom
#   make bench    the load tester                                              (ARGS="--mode read --json")
#   make figures  every benchmark, its figures kept in bench/results             (ARGS="--quick")
#   make plots    the plots and tables of bench/README.md, from those figures
#   make clean    removes what was built, .venv included

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed
BENCH_STAMP := .venv/.installed-bench
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: demo test check bench figures plots clean
.DEFAULT_GOAL := demo

demo: $(STAMP)
	$(BIN)/multiraft demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(STAMP)
	$(BIN)/multiraft bench $(ARGS)

figures: $(BENCH_STAMP)
	$(BIN)/python bench/figures.py $(ARGS)

plots: $(BENCH_STAMP)
	$(BIN)/python bench/plots.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# setuptools goes in first and the build is not isolated, because a constraints file does not
# reach into the environment that an isolated build makes for itself.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "multiraft needs Python 3.11 or newer, and '$(PYTHON)' is not: $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another one:  make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing the pinned dependencies into .venv ..."
	@$(PYTHON) -m venv --clear .venv || { \
		echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu it is in the package python3-venv." >&2; exit 1; }
	@$(PIP) install -c constraints.txt setuptools
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[test]'
	@touch $@

# What only the benchmarks need: a plotting library, and the systems to compare with.
$(BENCH_STAMP): $(STAMP)
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[test,bench]'
	@touch $@
