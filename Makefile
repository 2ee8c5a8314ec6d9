# The menu: make demo | test | check | bench | docs | lock | clean. Everything stays in this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export UV_PYTHON_DOWNLOADS := never
export NO_MKDOCS_2_WARNING := 1
export PYTHONPATH :=
# Every Airflow process would compile all it imports anew.
unexport PYTHONDONTWRITEBYTECODE
# uv does not read pip's settings: hand over the index a company may have set there.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

.PHONY: help env demo test check bench docs lock clean

help:
	@echo "make demo [ARGS=--once]  run the whole story on a real local Airflow, then keep its UI up"
	@echo "make test [ARGS=...]     every test: unit, integration on a real Airflow, e2e in Chromium"
	@echo "make check               ruff, mypy --strict, import-linter, docs, packaging tests"
	@echo "make bench [NAME=...]    ours beside its peers; ARGS=--quick for a small case of ours alone"
	@echo "make docs | lock | clean"

env: $(VENV)/.ready

$(VENV)/.ready: requirements.txt requirements-bootstrap.txt pyproject.toml scripts/env
	scripts/env $(PYTHON) $(VENV)

demo: env
	exec $(BIN)/python -m demo $(ARGS)

test: env
	scripts/chromium
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m pytest -n 2 tests/unit
	$(BIN)/python -m pytest tests/integration tests/e2e
else
	$(BIN)/python -m pytest --ignore=tests/packaging $(ARGS)
endif

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --quiet --strict
	$(BIN)/python -m pytest tests/packaging

bench: env
	@for bench in $(or $(NAME),dbt contracts sla sync vault); do $(BIN)/python -m benchmarks.$$bench $(ARGS) || exit 1; done

docs: env
	$(BIN)/mkdocs serve

lock: env
	scripts/lock $(ARGS)

clean:
	rm -rf $(VENV) .demo .test build dist site *.egg-info .mypy_cache .ruff_cache .cache
