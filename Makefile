# Two commands matter: `make demo` and `make test`. Both set everything up.
PY := .venv/bin/python
STAMP := .venv/.installed
TOOLS := .venv/tools/.installed
.PHONY: help demo demo-stop demo-reset test lint bench soak clean
.DEFAULT_GOAL := help

help:            ## what can be made
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(STAMP): pyproject.toml client/pyproject.toml
	@test -x $(PY) || python3 -m venv .venv 2>/dev/null || python3 -m virtualenv -q .venv 2>/dev/null \
	  || { rm -rf .venv; python3 -m pip install -q --user virtualenv 2>/dev/null && python3 -m virtualenv -q .venv; } \
	  || { rm -rf .venv; [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null && python3 -m venv .venv; } \
	  || { echo "Python has no venv module here. Type: sudo apt-get install python3-venv"; exit 1; }
	@echo "installing into .venv …"
	@$(PY) -m pip install -q --disable-pip-version-check -e '.[test]' -e ./client 2>&1 | { grep -v '^WARNING: Location' || true; }
	@$(PY) -c 'import gateway, penstock'
	@touch $@

# Validators that tests run as programs of their own: focus-validator wants an older multimethod, beancount is GPL.
$(TOOLS): $(STAMP)
	@$(PY) -m pip install -q --disable-pip-version-check --target .venv/tools 'focus-validator==1.0.0' 'multimethod<2' \
	  'beancount>=3.2,<4' 2>&1 | { grep -v '^WARNING: \(Location\|Target\)' || true; }
	@touch $@

demo: $(STAMP)   ## a small federation on this machine, and a job through all of it
	@$(PY) -m gateway.admin.demo

demo-stop: $(STAMP) ## stop the demo's gateway
	@$(PY) -m gateway.admin.demo --stop

demo-reset: $(STAMP) ## forget the demo: its gateway, its centres, its jobs
	@$(PY) -m gateway.admin.demo --reset

LINTS := lint-types lint-style lint-imports lint-schema
.PHONY: $(LINTS)
lint: $(STAMP)   ## ruff, mypy --strict, import contracts, alembic check
	$(MAKE) --no-print-directory -j 2 --output-sync $(LINTS)

lint-types: $(STAMP)
	.venv/bin/mypy

lint-style: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

lint-imports: $(STAMP)
	.venv/bin/lint-imports

lint-schema: $(STAMP)
	$(PY) -W error -m gateway.migrations check

test: $(STAMP) $(TOOLS) ## everything: real Slurm, PostgreSQL, sshd, browser where they can be had
	@if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then tests/lab/install.sh; fi
	$(MAKE) --no-print-directory lint
	$(PY) -m pytest -q -n 2 -m unit tests/unit
	$(PY) -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder -m 'not unit'

soak: $(STAMP)   ## the long campaigns
	$(PY) -m pytest -q -m soak

bench: $(STAMP)  ## the figures of the README
	$(PY) -m benchmarks all

clean:           ## forget the virtual environment and the demo
	rm -rf .venv .penstock
