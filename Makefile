# Everything that is done to this repository, by name. `make` alone prints the list.
# Nothing has to be set up beforehand: each target makes the environment it needs in .venv, and only once.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
# Arguments for pip, e.g. an index with the CPU-only build of torch: see CONTRIBUTING.md.
PIP_ARGS ?=
# A folder of slides for `make demo` and `make bench`; a subfolder a slide.
SLIDES ?=
# The images that models are made of and measured on, for `make model-report`.
DATA ?=
# More arguments for pytest, e.g. `make test ARGS="tests/unit -k lease"`.
ARGS ?=
# How many processes share the tests: many of these wait for a worker, a lease or a database. Of some tests only, one.
TEST_PROCESSES ?= $(if $(ARGS),0,2)

ROOMS := allq imaging models db worker review cli
CHECKED := $(ROOMS) tests benchmarks
RUN_STAMP := $(VENV)/.ready-to-run
DEV_STAMP := $(VENV)/.ready-to-develop

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "The first of them downloads several GB, most of it torch with its CUDA libraries. For the smaller CPU-only build"
	@echo "add PIP_ARGS='--extra-index-url ADDRESS', with the address on PyTorch's installation page for pip and \"CPU\"."
	@echo "PYTHON=path/to/python3 chooses the interpreter."

.PHONY: setup
setup: $(RUN_STAMP) ## the environment to run allq in: .venv/bin/allq
	@:

.PHONY: develop
develop: $(DEV_STAMP) ## the same, with what tests and checks need
	@:

$(RUN_STAMP): pyproject.toml deploy/make-venv
	@deploy/make-venv $(VENV) run $(PIP_ARGS)
	@touch $@

$(DEV_STAMP): pyproject.toml deploy/make-venv
	@deploy/make-venv $(VENV) develop $(PIP_ARGS)
	@touch $(RUN_STAMP) $@

.PHONY: demo
demo: setup ## renders slides and screens them; SLIDES=folder screens your own
	@$(BIN)/python -m cli.demo $(if $(SLIDES),"$(SLIDES)")

.PHONY: test
test: develop ## every test; ARGS="tests/unit" for some
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(ARGS)

.PHONY: check
check: develop ## ruff, formatting, mypy strict, and who may import whom
	@$(BIN)/ruff check $(CHECKED)
	@$(BIN)/ruff format --check $(CHECKED)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: bench
bench: develop ## every bar of speed, about 40 minutes; SLIDES=folder, ARGS="--only status" or ARGS=--quick
	@$(BIN)/python benchmarks/bars.py $(if $(SLIDES),"$(SLIDES)") $(ARGS)

.PHONY: model-report
model-report: develop ## docs/model/README.md: every bar of the model; DATA=folder of the images (docs/model.md)
	@$(BIN)/python benchmarks/model_report.py $(if $(DATA),--data "$(DATA)") $(ARGS)

.PHONY: docs
docs: setup ## regenerates the pages that are made from the code (schema, queries)
	@$(BIN)/python -m db.document

.PHONY: wheel
wheel: develop ## dist/allq-*.whl
	@rm -rf build
	@$(BIN)/python -m build --wheel --no-isolation

.PHONY: hooks
hooks: develop ## runs the quick checks before every commit
	@$(BIN)/pre-commit install

.PHONY: clean
clean: ## removes what was built; keeps .venv, which takes minutes to make
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find $(ROOMS) tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
