# Each target makes .venv by itself and installs what constraints.txt pins; a second call starts at once.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PIP_FLAGS := --quiet --disable-pip-version-check
DEMO_OUT := runs/demo

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-kill check rule-pages audit-corpus bench-audit bench-overhead bench-trackers bench-tune gpu-check clean python-version

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## train a byte-level GPT on real text in mixed precision; leaves runs/demo
	@rm -rf $(DEMO_OUT)
	$(RUN)/ampguard train text --size tiny --steps 300 --out $(DEMO_OUT)

# A file's tests stay in one process: what they share is made once. In order of their names: the longest file, of few tests, would
# come last otherwise, and be waited for alone.
test: $(VENV)/.installed ## run every test that a CPU can run, in a process a core
	$(RUN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-kill: $(VENV)/.installed ## the long form of one test: 200 kills of a run, each resumed (about an hour)
	AMPGUARD_KILLS=100 $(RUN)/python -m pytest tests/faults/test_kill.py --timeout 7200

check: $(VENV)/.installed ## format, lint, types, layers, our own audit
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/python -m pytest tests/test_layers.py
	$(RUN)/ampguard audit

rule-pages: $(VENV)/.installed ## write docs/rules/ from the audit rules themselves
	$(RUN)/python dev/rule_pages.py

audit-corpus: $(VENV)/.installed ## audit every installed Python file: no rule may fail on one (some minutes)
	$(RUN)/python benchmarks/audit_corpus.py

bench-audit: $(VENV)/.installed ## speed of the audit against ast.parse and the peers; writes benchmarks/results/audit.json
	$(RUN)/python benchmarks/audit.py $(AMP_FOLDERS)

bench-trackers: $(VENV)/.installed ## step time with trackers that fail in every way against none; writes benchmarks/results/trackers.json
	$(RUN)/python benchmarks/trackers.py

bench-tune: $(VENV)/.installed ## trials of a search against bare Optuna; writes benchmarks/results/tune.json
	$(RUN)/python benchmarks/tune.py

bench-overhead: $(VENV)/.installed ## step time against bare loops and the peers; writes benchmarks/results/
	$(RUN)/python benchmarks/overhead.py

# A GPU machine has its own python and torch, so no environment is made and nothing is installed.
gpu-check: ## check and measure on this machine's GPU with the python and torch (>= 2.8) at hand; writes one JSON record
	PYTHONPATH=src $(PYTHON) tests/gpu/check.py

clean: ## remove the environment, caches and the demo run
	rm -rf $(VENV) $(DEMO_OUT) dist .mypy_cache .ruff_cache .pytest_cache
	find src tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +

python-version:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  given="$$($(PYTHON) --version 2>&1 | head -n 1)"; \
	  echo "ampguard needs Python 3.11 or newer; $(PYTHON) is: $${given:-not found}" >&2; \
	  echo "Name another interpreter, for example: make $(or $(MAKECMDGOALS),help) PYTHON=python3.12" >&2; exit 1; }

# The version check is order-only: it runs each time and never makes the stamp old.
# pip itself is pinned and comes first: dependency groups need 25.1.
$(VENV)/.installed: pyproject.toml constraints.txt | python-version
	@echo "installing ampguard and its tools into $(VENV) (about 2 minutes)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(RUN)/python -m pip install $(PIP_FLAGS) -c constraints.txt pip
	@$(RUN)/python -m pip install $(PIP_FLAGS) -c constraints.txt --build-constraint constraints.txt \
	  -e ".[all]" --group dev
	@touch $@
	@echo "installed" >&2
