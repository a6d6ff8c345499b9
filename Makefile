# `make` alone lists the targets. Each works in a fresh clone and installs what it needs into .venv, once.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help book lab test check execute experiments bench pages clean

PYTHON ?= python3
CH ?=
SEEDS ?= 0-4

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
JUPYTER_BOOK := $(BIN)/jupyter-book build . --config book/_config.yml --toc book/_toc.yml --path-output book
HTML := book/_build/html/index.html
# Two workers, one thread each: the models of the book are too small to share out.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

help: ## list the targets
	@echo "Recommenders That Reason"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'
	@echo "  CH=02 chooses a chapter, SEEDS=0-4 seeds, PYTHON=python3.12 the Python that .venv is made with."

book: .venv/.rendering book/_extra/vendor/.complete book/_extra/replay/.complete ## render the book and print where to open it
	@echo "==> Rendering the book (warnings are errors)"
	@$(JUPYTER_BOOK) -W -n --keep-going
	@echo "==> Open file://$(CURDIR)/$(HTML)"

lab: .venv/.everything ## open the chapters in JupyterLab
	@echo "==> Starting JupyterLab in chapters/"
	@$(BIN)/jupyter lab --notebook-dir chapters

test: .venv/.everything book/_extra/vendor/.complete book/_extra/replay/.complete ## everything CI runs: style, types, floors, book, tests, notebooks, browser
	@echo "==> Style, types, floors"
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@echo "==> Rendering the book (warnings are errors)"
	@$(JUPYTER_BOOK) --all -W -n --keep-going --quiet
	@echo "==> Tests, every notebook, and the rendered pages in a browser"
	@$(PYTEST) --nbval-lax --nbval-current-env --nbval-cell-timeout 300 tests chapters

check: .venv/.everything ## style, types, floors and the quick tests, in about a minute
	@echo "==> Style, types, floors"
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@echo "==> Quick tests"
	@$(PYTEST) -m "not slow" --quiet tests

execute: .venv/.everything ## run the chapters (or CH=02) from a clean kernel and write them back
	@echo "==> Running $(if $(CH),chapter $(CH),all chapters), writing the notebooks and the computed pages"
	@$(BIN)/python -m reclib.notebooks $(CH)
	@$(BIN)/python book/pages.py

experiments: .venv/.everything ## repeat the recorded runs of a chapter: CH=02 SEEDS=0-4
	@$(if $(CH),,echo "make experiments: say which chapter, as in: make experiments CH=02 SEEDS=0-4" >&2; exit 2)
	@echo "==> Experiments of chapter $(CH), seeds $(SEEDS)"
	@$(BIN)/python -m reclib experiments $(CH) --seeds $(SEEDS)
	@$(BIN)/python book/pages.py

bench: .venv/.everything ## speed and memory beside other libraries, into data/results/benchmarks.json
	@echo "==> Benchmarks"
	@$(BIN)/python -m tests.benchmarks

pages: .venv/.everything ## write the computed pages: ledger and status
	@echo "==> Writing the computed pages"
	@$(BIN)/python book/pages.py

clean: ## remove what was built (not .venv, not data)
	@echo "==> Removing rendered pages and caches"
	@rm -rf book/_build book/_extra node_modules build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# ---------------------------------------------------------------- what the targets stand on

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer, or name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$$($(PYTHON) --version) is too old: name Python 3.11 or newer with PYTHON=..." >&2; exit 1; }
	@echo "==> Making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

.venv/.rendering: requirements-book.txt | $(BIN)/python
	@if [ .venv/.everything -nt requirements-book.txt ]; then :; else \
		echo "==> Installing what rendering needs"; $(PIP) -r requirements-book.txt; fi
	@touch $@

.venv/.everything: requirements.txt pyproject.toml | $(BIN)/python
	@echo "==> Installing the exact set of requirements.txt (some minutes, once)"
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# Scripts that let the pages work offline. Without npm the pages take them from a CDN, and the build says so.
book/_extra/vendor/.complete: package.json package-lock.json
	@mkdir -p $(@D)
	@if ! command -v npm >/dev/null; then \
		echo "==> npm not found: the pages will need a network for mathematics and widgets"; \
	elif ! { echo "==> Fetching MathJax and the widget manager"; npm ci --silent; }; then \
		echo "==> npm could not fetch them: the pages will need a network for mathematics and widgets"; \
	else \
		mkdir -p $(@D)/mathjax; \
		cp node_modules/@jupyter-widgets/html-manager/dist/{embed.js,*.woff2} $(@D); \
		cp -r node_modules/mathjax/es5/{tex-mml-chtml.js,a11y,adaptors,input,output,sre,ui} $(@D)/mathjax; \
		rm -rf node_modules; \
		touch $@; \
	fi

# Inspect's viewer for the logs in data/replay: only its assets are taken from the package.
book/_extra/replay/.complete: requirements.txt $(wildcard data/replay/*.html data/replay/logs/*) | $(BIN)/python
	@rm -rf $(@D) build/inspect && mkdir -p $(@D) && cp -r data/replay/. $(@D)
	@echo "==> Fetching the viewer of the agents' logs"
	@if $(PIP) --no-deps --target build/inspect "$$(grep '^inspect-ai==' requirements.txt)"; then \
		cp -r build/inspect/inspect_ai/_view/dist/assets $(@D) && touch $@; \
	else \
		echo "==> pip could not fetch it: the page book/replay.html will open no viewer"; \
	fi
	@rm -rf build/inspect
