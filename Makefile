# Needs make and Python 3.11 or 3.12; .venv is made by the first target that needs it.
.DEFAULT_GOAL := help
.SILENT:

ifdef PYTHON
ready :=
ready_dev :=
else
PYTHON := .venv/bin/python
# The backend that .venv was made for stays until another is asked for.
made_for := $(patsubst .venv/ready-%,%,$(filter-out %-dev,$(wildcard .venv/ready-*)))
BACKEND ?= $(or $(KERAS_BACKEND),$(firstword $(made_for)),tensorflow)
ready := .venv/ready-$(BACKEND)
ready_dev := $(ready)-dev
endif
ifdef BACKEND
export KERAS_BACKEND := $(BACKEND)
endif

# Running it shows that it is there: a version manager's shim may stand for nothing.
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
make TARGET [NAME=value ...]        the environment's variables of these names count too

Start    tune       faces, two searches, test, registry, exports (DATA= MINUTES= SEED= TRIALS=)
         data       download the real faces into data/ (non-commercial research only)
Look     ui         runs and models in MLflow, in the browser (PORT=)
         explore    a page about the faces: labels, duplicates, pictures, splits (DATA=)
         report     the champions in HTML and PDF, in reports/ (GENERATED=1 FACES=1)
         compare    the best settings of a search over several seeds (SETTINGS= SEEDS=)
         ablate     the defaults with one choice undone at a time (MODEL= SEEDS= EPOCHS=)
Use      predict    ages and genders in photos (PHOTO="a file, a folder or several" OUT= MODEL=)
         app        the same on a page, with the camera (PORT= HOST=)
         pull       a registered model, checked (MODEL= TO= ALIAS= VERSION= FORMAT=onnx ...)
Share    rollback   the previous champion back (MODEL=)
         reproduce  train a registered version again and judge it (MODEL= VERSION= DATA=)
         release    train a model for models/, hours (MODEL= DATA= TEST_DATA=)
         notebook   the coursework's steps, run, in reports/ (DATA=)
Develop  prepare, search, train, evaluate, promote    the stages of tune, one alone
         test       the quick tests, 4 minutes; check: lint, these and all others, 20 minutes
         soak       the long tests; bench: speed (DATA= ONLY=)
         format     format the code; lint: check it; lock: resolve requirements.lock anew
         setup      make .venv (BACKEND=jax: without TensorFlow; PYTHON= takes another)
         clean      remove what can be made again (du -sh .cache/* mlruns .venv: what there is)
endef

help:
	$(info $(help_text))

# What a variable holds goes to the program as it was typed: neither make nor a shell reads it.
typed := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
typed := $(filter-out PYTHON BACKEND KERAS_BACKEND SHELL MAKE%,$(typed))
variables := ALGORITHM ALIAS DATA EPOCHS FACES FAMILY FEATURES_GIGABYTES FORMAT GENERATED HOST MEMORY \
  MINUTES MIRROR MODEL ONLY OUT PHOTO PORT PRESET SEED SEEDS SETTINGS TEST_DATA TIER TO TRIAL_CPUS TRIAL_GPUS \
  TRIALS VERSION WORKERS
given := $(foreach name,$(variables),$(if $(filter command environment,$(origin $(name))),$(name)))
# Conda's compilers and some shells set HOST for themselves.
given := $(filter-out $(if $(filter environment,$(origin HOST)),HOST),$(given))
$(foreach name,$(given),$(eval override $(name) := $$(value $(name)))$(eval export $(name)))
export AGEGENDER_TYPED := $(typed)
export AGEGENDER_GIVEN := $(given)

# A mistake is answered before anything is set up. Before make 4.4 its shell function exports nothing.
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
