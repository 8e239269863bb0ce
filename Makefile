# Needs make and Python 3.11 or 3.12. The first target that needs .venv creates it.
.DEFAULT_GOAL := help
.SILENT:

ifdef PYTHON
ready :=
ready_dev :=
else
PYTHON := .venv/bin/python
# Keep the backend that .venv was made for until another is requested.
made_for := $(patsubst .venv/ready-%,%,$(filter-out %-dev,$(wildcard .venv/ready-*)))
BACKEND ?= $(or $(KERAS_BACKEND),$(firstword $(made_for)),tensorflow)
ready := .venv/ready-$(BACKEND)
ready_dev := $(ready)-dev
endif
ifdef BACKEND
export KERAS_BACKEND := $(BACKEND)
endif

# Run each Python to see that it exists: a version manager's shim may lead nowhere.
find_python = for python in python3 python3.12 python3.11; do $$python -c 'import sys; \
  sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$python && break; done

.venv/ready-%: requirements.lock pyproject.toml
	@$(or $(shell $(find_python)),$(error Python 3.11 or 3.12 is needed, and none of python3, \
	  python3.12 and python3.11 is one. Install one, or name an environment that has everything: \
	  make ... PYTHON=/path/to/python)) -m pipelines.set_up $*

setup: $(ready)

lock: $(ready_dev)
	$(PYTHON) -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --fork-strategy fewest --no-annotate --custom-compile-command "make lock" --upgrade \
	  --quiet --output-file requirements.lock

define help_text
make TARGET [NAME=value ...]        environment variables of these names count too

Start    tune       faces, two searches, test, registry, exports (DATA= MINUTES= SEED= TRIALS=)
         data       download the real faces into data/ (non-commercial research only)
Look     ui         runs and models in MLflow, in the browser (PORT=)
         explore    a page about the faces: labels, duplicates, pictures, splits (DATA=)
         report     the champions in HTML and PDF, in reports/ (GENERATED=1 FACES=1)
         compare    the best settings of a search with several seeds (SETTINGS= SEEDS=)
         ablate     the defaults with one choice undone at a time (MODEL= SEEDS= EPOCHS=)
Use      predict    ages and genders in photos (PHOTO="a file, a folder or several" OUT= MODEL=)
         app        the same on a page, with the camera (PORT= HOST=)
         pull       a registered model, checked (MODEL= TO= ALIAS= VERSION= FORMAT=onnx ...)
Share    rollback   bring back the previous champion (MODEL=)
         reproduce  train a registered version again and compare (MODEL= VERSION= DATA=)
         release    train a model for models/; takes hours (MODEL= DATA= TEST_DATA=)
         notebook   run the coursework's steps; result in reports/ (DATA=)
Develop  prepare, search, train, evaluate, promote    single stages of tune
         test       the quick tests, 4 minutes; check: lint, these and the system tests, 20 minutes
         soak       the long tests; bench: speed (DATA= ONLY=)
         format     format the code; lint: check it; lock: renew requirements.lock
         setup      create .venv (BACKEND=jax: without TensorFlow; PYTHON=: use another environment)
         clean      remove what can be made again (`du -sh .cache/* mlruns .venv` shows the sizes)
endef

help:
	$(info $(help_text))

# Variables reach the program exactly as typed: neither make nor a shell expands them.
typed := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
typed := $(filter-out PYTHON BACKEND KERAS_BACKEND SHELL MAKE%,$(typed))
variables := ALGORITHM ALIAS DATA EPOCHS FACES FAMILY FEATURES_GIGABYTES FORMAT GENERATED HOST LEAST_GAIN \
  MEMORY MINUTES MIRROR MODEL ONLY OUT PHOTO PORT PRESET SEED SEEDS SETTINGS TEST_DATA TIER TO TRIAL_CPUS \
  TRIAL_GPUS TRIALS VERSION WORKERS
given := $(foreach name,$(variables),$(if $(filter command environment,$(origin $(name))),$(name)))
# Conda's compilers and some shells set HOST for their own use.
given := $(filter-out $(if $(filter environment,$(origin HOST)),HOST),$(given))
$(foreach name,$(given),$(eval override $(name) := $$(value $(name)))$(eval export $(name)))
export AGEGENDER_TYPED := $(typed)
export AGEGENDER_GIVEN := $(given)

# Report mistakes before setting anything up. Make's shell function exports nothing before make 4.4.
quoted = '$(subst ','\'',$(value $1))'
ifneq ($(MAKECMDGOALS)$(typed),)
refusal := $(shell $(foreach name,$(given) AGEGENDER_TYPED AGEGENDER_GIVEN,$(name)=$(call \
  quoted,$(name))) $(firstword $(wildcard $(PYTHON)) python3) -m pipelines --check $(MAKECMDGOALS) \
  2> /dev/null)
ifneq ($(refusal),)
$(error $(refusal))
endif
endif

.PHONY: help setup test check lint format soak bench clean lock
stages := tune search train evaluate promote compare ablate release reproduce prepare explore report \
  notebook data ui predict app pull rollback
.PHONY: $(stages)
$(filter-out notebook,$(stages)): $(ready)
notebook: $(ready_dev)
$(stages):
	$(PYTHON) -m pipelines $@

test: $(ready_dev)
	$(PYTHON) -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: lint test
	$(PYTHON) -m pytest -m "system and not slow"

lint: $(ready_dev)
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -c 'from importlinter import cli; cli.lint_imports_command()'
	$(PYTHON) -m mypy

soak: $(ready_dev)
	$(PYTHON) -m pytest -m slow

bench: $(ready_dev)
	$(PYTHON) -m tests.bench.$(if $(filter search,$(ONLY)),search,bench) \
	  $(if $(DATA),--data "$$DATA") $(if $(filter-out search,$(ONLY)),--only "$$ONLY")

format: $(ready_dev)
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

clean:
	rm -rf .cache/data .cache/features .cache/searches .pytest_cache .ruff_cache .import_linter_cache \
	  .mypy_cache
	find agegender tuning pipelines tests -name __pycache__ -prune -exec rm -rf {} +
