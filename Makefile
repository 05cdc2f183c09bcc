# rloss: training segmentation networks from scribbles. `make` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Settings: make TARGET NAME=VALUE
PYTHON ?= python3# interpreter that makes .venv, 3.10 or newer
DATASET ?=# data set; empty: pascal where VOC is found, otherwise synthetic
SEEDS ?= 1# seeds of train-small, as 1 or 1,2,3
JOBS ?= 2# trainings of train-small side by side
FULL ?=# FULL=1: train-small also trains with full supervision
CHECKPOINT ?=# trained network of inference; empty: the newest under run/
IMAGE_PATH ?=# image of inference
OUTPUT ?= run/inference# folder for the pictures of inference
TRAIN_OPTIONS ?=# further options of the training script

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
CODE := pytorch-deeplab_v3_plus
FILTER := wrapper/bilateralfilter
RUN := $(CURDIR)/run
DATA_OPTION = $(if $(DATASET),--dataset $(DATASET))

.PHONY: help
help: ## list the targets and settings
	@echo "make TARGET [NAME=VALUE ...]"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo; echo "Settings:"
	@awk -F ' [?]= ?|# ?' '/^[A-Z_]+ [?]=/ {printf "  %-16s %s%s\n", $$1, $$3, $$2 == "" ? "" : " [" $$2 "]"}' $(firstword $(MAKEFILE_LIST))

# Each stamp is newer than what it was made from, so that a second call does nothing.
$(VENV)/packages.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: expected Python 3.10 or newer, found $$($(PYTHON) --version 2>&1); name one: make PYTHON=python3.12"; exit 2; }
	@echo "installing packages into .venv (PyTorch is large: a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/filter.stamp: $(VENV)/packages.stamp $(wildcard $(FILTER)/*.hpp $(FILTER)/bilateralfilter.cpp $(FILTER)/*.i $(FILTER)/setup.py $(FILTER)/pyproject.toml)
	@echo "building the bilateral filter"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps ./$(FILTER)
	@touch $@

$(VENV)/dev.stamp: $(VENV)/packages.stamp requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.PHONY: setup
setup: $(VENV)/filter.stamp ## make .venv: packages and the bilateral filter

.PHONY: train-small
train-small: setup ## train in two stages on small images (40x40): minutes on a laptop; ends with a table
	@cd $(CODE) && $(BIN)/python train_two_stages.py --preset 40 $(DATA_OPTION) --backbone mobilenet --pretrained none \
	  --stage1-epochs 16 --stage2-epochs 12 --seeds $(SEEDS) --jobs $(JOBS) $(if $(FULL),--full) \
	  --output $(RUN)/train-small $(TRAIN_OPTIONS)

.PHONY: train-standard
train-standard: setup ## train the published recipe at 513x513 (wants a GPU)
	@cd $(CODE) && $(BIN)/python train_withdensecrfloss.py $(DATA_OPTION) --backbone mobilenet --epochs 60 --batch-size 12 \
	  --lr 0.007 --densecrfloss 2e-9 --rloss-scale 0.5 --sigma-xy 100 --eval-interval 2 --save-interval 2 --run-root $(RUN) $(TRAIN_OPTIONS)

.PHONY: inference
inference: setup ## segment IMAGE_PATH with CHECKPOINT into OUTPUT
	@test -n "$(IMAGE_PATH)" || { echo "error: name the image: make inference IMAGE_PATH=/path/to/image.jpg"; exit 2; }
	@checkpoint="$(CHECKPOINT)"; \
	  test -n "$$checkpoint" || checkpoint="$$(ls -t $(RUN)/*/model.pth.tar $(RUN)/*/*/model_best.pth.tar 2>/dev/null | head -1)"; \
	  test -n "$$checkpoint" || { echo "error: no trained network under run/: train first (make train-small) or give CHECKPOINT="; exit 2; }; \
	  echo "checkpoint: $$checkpoint"; \
	  $(BIN)/python $(CODE)/inference.py --checkpoint "$$checkpoint" --image_path "$(IMAGE_PATH)" --output_directory "$(OUTPUT)"

.PHONY: test
test: setup $(VENV)/dev.stamp ## run the tests
	@$(BIN)/python -m pytest -q
	@$(BIN)/ruff check --quiet . && echo "ruff: clean"

.PHONY: test-env
test-env: setup ## check the environment: versions, devices, the filter against reference numbers
	@$(BIN)/python $(CODE)/test_environment.py

.PHONY: clean
clean: ## delete .venv and what was built (not run/ and not data/)
	rm -rf $(VENV) $(FILTER)/build $(FILTER)/*.egg-info $(FILTER)/bilateralfilter_wrap.c* $(FILTER)/bilateralfilter.py $(FILTER)/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: benchmark
benchmark: setup ## time the filter and a training step; figures and plot under run/benchmark
	@mkdir -p $(RUN)/benchmark
	@PYTHONPATH=$(CODE) $(BIN)/python benchmarks/bench_filter.py \
	  --json $(RUN)/benchmark/filter.json --plot $(RUN)/benchmark/filter.png
	@PYTHONPATH=$(CODE) $(BIN)/python benchmarks/bench_step.py --json $(RUN)/benchmark/step.json
