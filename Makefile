# Everything that a person types. `make` alone prints what there is.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Index of CPU or CUDA builds of torch; empty: the package index that pip is set up with (see README, "Install").
TORCH_INDEX ?=
# Processes that `make test` spreads the tests over; 0 runs them in one.
TEST_WORKERS ?= logical
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := tracking,trainer,registry-api,infer,infra,embedded,docs,dev
INSTALLED := $(VENV)/.installed
CHECKOV := $(VENV)/checkov/bin/checkov
SOURCES := contracts libs embedded services infra twin tests benchmarks scripts

.DEFAULT_GOAL := help
.PHONY: help install demo serve up down logs test test-full test-integration test-browser test-extras test-twin test-security test-infra docs docs-serve sizes fidelity fidelity-base lint fmt lock clean

help:  ## print this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## make .venv and install everything into it (the others do so by themselves)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else f"Python 3.11 or 3.12 is needed; {sys.executable} is {v[0]}.{v[1]}: set PYTHON=/path/to/python3.11")'
	@echo "installing into $(VENV); this takes some minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) --no-deps) torch
	@$(BIN)/pip install --quiet --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(INSTALLED)  ## teach the tiny base to sketch, promote the version, draw: demo/contact-sheet.png
	@$(BIN)/python -m atelier_embedded demo

serve: $(INSTALLED)  ## run the services on what the demo left, until Ctrl-C
	@$(BIN)/python -m atelier_embedded serve

up:  ## build what is missing, start the twin with Docker, wait until it is ready, say where it is
	@running="$$(docker compose ps --services --status running)"; \
	docker compose run --rm --quiet-pull ports $$running || exit 1; \
	docker compose up --build --detach || { \
		[ -n "$$running" ] || docker compose stop; \
		echo "the twin did not start; docker compose logs says what each container said" >&2; exit 1; }
	@docker compose up --detach --wait tracking registry-api infer # the job first-version may have ended: not an error
	@docker compose run --rm --no-deps --quiet-pull secrets summary

down:  ## stop the twin; what it knows is kept (docker compose down --volumes forgets it)
	@docker compose --profile trainer down

logs:  ## follow what the twin's services say
	@docker compose logs --follow --tail 50

# Each worker computes with one thread, since together they take every core.
test: $(INSTALLED)  ## run the tests; nothing but the install is needed
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) --maxprocesses 8 --dist loadfile

test-full: $(INSTALLED)  ## run the long matrices, and what runs at full size (hours; needs terraform and Docker)
	@$(BIN)/python -m pytest -m full
	@$(MAKE) test-extras fidelity-base

test-integration: $(INSTALLED)  ## try the tracking image, and registry-api on PostgreSQL, with servers in containers (minutes; needs Docker)
	@$(BIN)/python -m pytest -m "integration and not browser"

test-browser: $(INSTALLED)  ## drive the pages and MLflow's dashboard in Chromium (minutes; needs Docker and Chromium)
	@$(BIN)/python -m pytest -m browser

test-extras: $(INSTALLED)  ## install registry-api and infer by themselves and use them (minutes)
	@$(BIN)/python -m pytest -m extras

test-twin: $(INSTALLED)  ## test the images and the whole twin, in containers of their own (minutes; needs Docker)
	@docker compose --profile trainer build --quiet
	@$(BIN)/python -m pytest -m "twin or e2e"

test-security: $(INSTALLED)  ## attack the images, and try what each role may do (minutes; needs Docker)
	@$(BIN)/python -m pytest -m security

test-infra: $(INSTALLED) $(CHECKOV)  ## check the Terraform files, and deploy to a stand-in for AWS and back (minutes; needs terraform)
	@$(BIN)/python -m pytest -m infra tests/infra

# checkov pins other versions of boto3, so it has an environment of its own
$(CHECKOV): infra/tests/checkov.txt
	@$(PYTHON) -m venv $(VENV)/checkov
	@$(VENV)/checkov/bin/pip install --quiet --requirement $<
	@touch $@

sizes: $(INSTALLED)  ## measure the images and how long they take to start; writes docs/reference/images.md
	@$(BIN)/python scripts/image_sizes.py --write docs/reference/images.md

fidelity-base: $(INSTALLED)  ## classify the tiny base model's images and compare with their prompts (minutes)
	@$(BIN)/python benchmarks/prompt_fidelity.py --base models/tiny-sd --min-one 0.8 --min-two 0.6 --max-sketches 0.05

fidelity: $(INSTALLED)  ## classify the images of the demo's version and compare with their prompts (minutes)
	@$(BIN)/python benchmarks/prompt_fidelity.py --base models/tiny-sd --adapter demo/adapter --style sketch --guidance 2 --min-one 0.7 --min-sketches 0.95

docs: $(INSTALLED)  ## build the documentation into build/site; a broken link fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

docs-serve: $(INSTALLED)  ## serve the documentation on http://127.0.0.1:8004 and rebuild it on every change
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8004

lint: $(INSTALLED)  ## ruff, formatting, types
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy

fmt: $(INSTALLED)  ## format the sources
	@$(BIN)/ruff check --fix --exit-zero $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

lock:  ## write constraints.txt anew from what pip resolves today
	@bash scripts/lock.sh "$(PYTHON)" "$(TORCH_INDEX)" "$(EXTRAS)"

clean:  ## remove what the demo left (the virtual environment stays)
	rm -rf demo .cache
