# Two commands, each with all of its own set-up: `make quickstart` and `make test`. `make help` lists the rest.
#
# The set-up is a virtual environment in .venv. It is made again when it is broken or the folder has moved, and brought
# up to date when pyproject.toml has changed; otherwise nothing is installed and no network is needed.
#
# torch is the big part (GBs): the usual build carries CUDA, and runs on machines without a GPU too. For the small
# CPU-only build, let pip's own settings point to an index of such wheels before the first `make`
# (PIP_EXTRA_INDEX_URL or PIP_INDEX_URL, or the same keys in pip.conf).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help quickstart test lint bench simulations wheel docs doctor clean runtime tools documents

python := .venv/bin/python

# pyright would ask the network for a newer pyright at every run; pip may be set to install for the user, which an
# environment refuses.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PIP_USER := 0

help: ## print this
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20
	echo "  PYTHON=/path/to/python3.12 chooses the Python of a new .venv; else the first of 3.11 to 3.13 that works"

quickstart: runtime ## install, then search for the best policy on the embedded digits (CPU, no download)
	@.venv/bin/automixsearch search quickstart

test: lint ## install with the developers' tools, then all checks and all tests: what CI runs
	@$(python) -m pytest -n logical --maxprocesses 8 --dist loadfile

lint: tools ## ruff check, ruff format --check, pyright
	@$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m pyright

bench: tools ## every benchmark in tests/bench, with its own defaults (minutes)
	@for script in tests/bench/*.py; do
	  echo "== $$script"
	  $(python) "$$script"
	done

simulations: tools ## coverage, type-I errors and power of the analysis; writes automixsearch/analysis/coverage.md
	@$(python) -m pytest -m slow tests/analysis
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(python) tests/analysis/simulate.py

wheel: tools ## build the wheel, and use it in a fresh environment from an empty directory
	@$(python) tests/e2e/wheel.py --offline

docs: documents ## the documents and the public API as pages, in site/; warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict

doctor: runtime ## check this machine, with a remedy for everything amiss
	@.venv/bin/automixsearch doctor

clean: ## remove .venv, caches and builds; results/ stays
	@rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist site
	find automixsearch tests -name __pycache__ -type d -exec rm -rf {} +

# The set-up: `runtime` is what a user needs, `tools` adds the dependency group dev, `documents` the group docs.
runtime: wanted := -e .
tools: wanted := -e . --group dev
documents: wanted := -e . --group docs

# .venv/runtime, .venv/tools and .venv/documents say what was installed, and where; .venv/half-made lies there while pip is at work, so
# an environment that was left in the middle (Ctrl-C, power cut) is made from scratch.
runtime tools documents:
	@now="$$(pwd -P)"$$'\n'"$$(cat pyproject.toml)"
	moved() { [ -e .venv/runtime ] && [ "$$(head -n 1 .venv/runtime)" != "$$(pwd -P)" ]; }
	fits() { "$$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
	if [ ! -e .venv/half-made ] && [ "$$(cat .venv/$@ 2>/dev/null)" = "$$now" ] && fits $(python); then
	  exit
	fi
	if [ -e .venv/half-made ] || moved || ! fits $(python) || ! $(python) -m pip --version >/dev/null 2>&1; then
	  found= bare=
	  # A pyenv shim may stand before the Python that works: try all of PATH, and try them by running.
	  while read -r each; do
	    fits "$$each" || continue
	    if "$$each" -c 'import ensurepip, venv' 2>/dev/null; then found=$$each; break; fi
	    bare=$${bare:-$$each}
	  done < <(type -aP "$${PYTHON:-python3}" || true; [ -n "$${PYTHON:-}" ] || type -aP python3.13 python3.12 python3.11 python || true)
	  if [ -z "$$found" ] && [ -n "$$bare" ]; then
	    version=$$("$$bare" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	    echo "make: $$bare cannot make virtual environments: its ensurepip is missing."
	    echo "  Debian, Ubuntu: apt install python$$version-venv    then: make $(MAKECMDGOALS)"
	    exit 1
	  fi >&2
	  if [ -z "$$found" ]; then
	    echo "make: no Python 3.11, 3.12 or 3.13 that runs$${PYTHON:+: PYTHON=$$PYTHON is none}."
	    echo "  Debian, Ubuntu: apt install python3 python3-venv    elsewhere: uv python install 3.13, pyenv or conda"
	    echo "  then: make $(MAKECMDGOALS)    or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.13"
	    exit 1
	  fi >&2
	  echo "make: new virtual environment in .venv: $$("$$found" --version), $$found"
	  rm -rf .venv
	  "$$found" -m venv .venv
	fi
	touch .venv/half-made
	trap 'exit 130' INT
	echo "make: installing; with the CUDA build of torch this takes minutes and about 6 GB"
	status=0
	install="$(python) -m pip install --prefer-binary"
	[ -t 1 ] || install+=" --quiet"  # a terminal gets pip's progress bars
	# --group needs pip 25.1. --compile: Ray's workers would otherwise compile torch anew at every start.
	$$install 'pip>=25.1' && $$install --compile $(wanted) || status=$$?
	if [ $$status -ne 0 ]; then
	  # pip changes nothing before it has everything, so what was there before is still good.
	  if [ $$status -eq 1 ] && [ -e .venv/runtime ]; then rm .venv/half-made; fi
	  echo "make: pip failed, see above. No network: set pip's proxy or index (PIP_PROXY, PIP_INDEX_URL)." >&2
	  echo "  No space left: pip unpacks in /tmp; free some, or name another place: TMPDIR=DIR make $(MAKECMDGOALS)" >&2
	  exit 1
	fi
	for each in runtime $@; do echo "$$now" >.venv/$$each; done
	rm .venv/half-made
