# Needs make and Python 3.11 or 3.12; .venv is made by the first target that needs it.
.DEFAULT_GOAL := help
ui: PORT ?= 5000
app: PORT ?= 7860
serve: PORT ?= 5001
server: PORT ?= 5002

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

setup: $(ready) ## make .venv from the lock (BACKEND=jax: without TensorFlow)

lock: $(ready_dev) ## resolve pyproject.toml into requirements.lock anew
	$(PYTHON) -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --fork-strategy fewest --no-annotate --custom-compile-command "make lock" --upgrade \
	  --quiet --output-file requirements.lock

data_flags := $(if $(DATA),--data "$(DATA)") $(if $(SEED),--seed $(SEED))
flags := $(strip $(data_flags) $(if $(PRESET),--preset $(PRESET)) \
  $(if $(MINUTES),--minutes $(MINUTES)) $(if $(TRIALS),--trials $(TRIALS)) \
  $(if $(ALGORITHM),--algorithm $(ALGORITHM)) $(if $(WORKERS),--workers $(WORKERS)) \
  $(if $(TRIAL_CPUS),--trial-cpus $(TRIAL_CPUS)) $(if $(TRIAL_GPUS),--trial-gpus $(TRIAL_GPUS)) \
  $(if $(MIRROR),--mirror-images) \
  $(if $(FEATURES_GIGABYTES),--features-gigabytes $(FEATURES_GIGABYTES)))

.PHONY: help tune smoke test check ui data prepare search train evaluate promote \
  ablate bench explore report notebook rollback pull serve server predict app compare reproduce release lint \
  soak format disk clean lock setup

version_flags := $(strip $(if $(MODEL),--model "$(MODEL)") $(if $(VERSION),--version $(VERSION)) \
  $(if $(GENERATED),--generated))

help: ## list the targets
	@echo "make TARGET [DATA=folder, .zip or .tar.gz] [PRESET=] [MINUTES=] [TRIALS=] [SEED=]"
	@echo "            [ALGORITHM=] [WORKERS=] [MIRROR=1] [BACKEND=jax] [PYTHON=an environment's, instead of .venv]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-10s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

tune: $(ready) ## the whole job: faces, two searches, test, registry, exports (15 minutes)
	$(PYTHON) -m pipelines.run_all $(flags)

smoke: $(ready) ## the same on a few generated faces (2 minutes)
	$(PYTHON) -m pipelines.run_all $(flags) --preset smoke

test: $(ready_dev) ## unit tests and the pipeline on a small preset
	$(PYTHON) -m pytest

check: lint test ## format, lint, import contracts, types, tests

ui: $(ready) ## MLflow in the browser, on this machine only (PORT=5000)
	$(PYTHON) -m pipelines.show_runs --port $(PORT)

data: $(ready) ## download the real faces into data/ (non-commercial research only)
	$(PYTHON) -m pipelines.download_data

prepare: $(ready) ## one stage alone: faces to manifest and pixels
	$(PYTHON) -m pipelines.prepare_data $(data_flags)

explore: $(ready) ## a page about the faces: labels, duplicates, pictures, splits
	$(PYTHON) -m pipelines.explore_data $(data_flags)

search: $(ready) ## one stage alone: the best settings of A and of B
	$(PYTHON) -m pipelines.search_models $(flags)

train: $(ready) ## one stage alone: the best settings trained again
	$(PYTHON) -m pipelines.train_finalists $(flags)

evaluate: $(ready) ## one stage alone: both candidates on the locked test
	$(PYTHON) -m pipelines.evaluate_models $(flags)

promote: $(ready) ## one stage alone: into the registry, through the gate, champions to exports/
	$(PYTHON) -m pipelines.promote_models $(flags)

report: $(ready) ## the champions in one HTML page and a PDF, in reports/ (GENERATED=1 FACES=1)
	$(PYTHON) -m pipelines.write_report $(strip $(if $(GENERATED),--generated) $(if $(FACES),--faces))

notebook: $(ready_dev) ## the coursework's steps in a notebook, run and kept in reports/
	$(PYTHON) -m pipelines.run_notebook $(data_flags)

rollback: $(ready) ## the previous champion back (MODEL=B)
	$(PYTHON) -m pipelines.roll_back $(version_flags)

pull: $(ready) ## a version's .h5, checked before it is handed over (MODEL=B ALIAS=champion TO=)
	$(PYTHON) -m pipelines.pull_model $(version_flags) $(if $(ALIAS),--alias $(ALIAS)) --to "$(TO)"

serve: $(ready) ## a version, checked, behind MLflow's model server (MODEL=B ALIAS=champion PORT=5001)
	$(PYTHON) -m pipelines.serve_model $(version_flags) $(if $(ALIAS),--alias $(ALIAS)) --port $(PORT)

server: $(ready) ## a team's MLflow on PostgreSQL, behind a password, to try (PORT=5002 FOLDER=)
	$(PYTHON) -m pipelines.run_server --port $(PORT) $(if $(FOLDER),--folder "$(FOLDER)")

predict: $(ready) ## ages and genders in photos (PHOTO="a file, folder or several" OUT=predictions)
	$(PYTHON) -m pipelines.predict $(if $(OUT),--out "$(OUT)") $(if $(GENERATED),--generated) "$(PHOTO)"

app: $(ready) ## the same on a page, with the camera too, on this machine only (PORT=7860)
	$(PYTHON) -m pipelines.app --port $(PORT) $(if $(GENERATED),--generated)

compare: $(ready) ## the best settings of a search over several seeds (SETTINGS=3 SEEDS=3)
	$(PYTHON) -m pipelines.compare $(flags) $(if $(SETTINGS),--settings $(SETTINGS)) \
	  $(if $(SEEDS),--seeds $(SEEDS))

ablate: $(ready) ## the defaults with one choice undone at a time (MODEL=A SEEDS=2 EPOCHS=)
	$(PYTHON) -m pipelines.ablate --model "$(MODEL)" $(flags) $(if $(SEEDS),--seeds $(SEEDS)) \
	  $(if $(EPOCHS),--epochs $(EPOCHS))

release: $(ready) ## train a model for models/ with settings fixed before (MODEL=A, hours)
	$(PYTHON) -m pipelines.release_models --model "$(MODEL)" $(data_flags)

reproduce: $(ready) ## train a registered version again and judge the result (MODEL=A VERSION=1)
	$(PYTHON) -m pipelines.reproduce $(version_flags) $(if $(DATA),--data "$(DATA)") \
	  $(if $(SEEDS),--seeds $(SEEDS))

lint: $(ready_dev) ## the part of check without the tests
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -c 'from importlinter import cli; cli.lint_imports_command()'
	$(PYTHON) -m mypy

bench: $(ready_dev) ## speed, beside the notebook's way and plain Keras Tuner (35 minutes, ONLY=one)
	$(PYTHON) -m tests.bench.bench $(if $(DATA),--data "$(DATA)") $(if $(ONLY),--only $(ONLY))

soak: $(ready_dev) ## the long tests
	$(PYTHON) -m pytest -m slow

format: $(ready_dev) ## format the code and mend what lint can mend
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

disk: ## what is kept on disk, why, and what removes it
	@$(firstword $(wildcard $(PYTHON)) python3) -m pipelines.show_disk $(if \
	  $(FEATURES_GIGABYTES),--features-gigabytes $(FEATURES_GIGABYTES))

clean: ## remove working files; keeps mlruns/, exports/, reports/, data/, fetched weights and .venv
	rm -rf .cache/data .cache/features .cache/searches .pytest_cache .ruff_cache .import_linter_cache \
	  .mypy_cache
	find agegender tuning pipelines tests -name __pycache__ -prune -exec rm -rf {} +
