# rloss: training segmentation networks from scribbles. `make` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Settings: make TARGET NAME=VALUE
RUNTIME ?= auto# docker, local (.venv), or auto: docker where the image is, otherwise local
NO_GPU ?=# NO_GPU=1: leave the GPUs alone; build and setup then take PyTorch without CUDA, a few GB smaller
PYTHON ?= python3# interpreter that makes .venv, 3.10 or newer
TORCH_INDEX_URL ?= $(if $(NO_GPU),https://download.pytorch.org/whl/cpu)# where setup and build take PyTorch from; empty: PyPI
DATA_ROOT ?= /data/datasets# folder of the data sets
DATASET ?=# data set; empty: pascal where VOC is found, otherwise synthetic
SEEDS ?= 1# seeds of train-small, as 1 or 1,2,3
JOBS ?= 3# trainings of train-small side by side
FULL ?= 1# FULL=0: train-small without full supervision
CHECKPOINT ?=# network for inference and evaluate; empty: the newest under run/
IMAGE_PATH ?=# image, folder or quoted pattern for inference
OUTPUT ?= run/inference# folder for the pictures of inference
OPTIONS ?=# further options of the target's command
ADDRESS ?= 127.0.0.1# where jupyter, tensorboard and annotate listen
JUPYTER_PORT ?= 8888# port of jupyter
TENSORBOARD_PORT ?= 6006# port of tensorboard
DATA ?=# photographs or a data set for annotate; empty: a dozen pictures that it draws
CLASSES ?=# classes for annotate, as "cat,dog"
PORT ?= 8765# port of annotate
DOCKERFILE ?= $(if $(NO_GPU),Dockerfile,Dockerfile.a100)# what build makes the image from
IMAGE ?= $(if $(filter Dockerfile.a100,$(DOCKERFILE)),rloss:a100-ubuntu22.04,rloss:latest)# name of the image
CONTAINER_USER ?= $(shell id -u):$(shell id -g)# owner of the files that containers make; Docker without root: 0:0
DOCKER_OPTIONS ?=# further options of docker run, as -v /folder:/folder

$(foreach name,NO_GPU FULL,$(if $(filter-out 0 1,$($(name))),$(error $(name): expected 0 or 1, found '$($(name))')))
override NO_GPU := $(filter-out 0,$(NO_GPU))
# What follows a space would be another word of the command.
$(foreach name,DATASET SEEDS JOBS ADDRESS,$(if $(word 2,$($(name))),$(error $(name): expected one word, found '$($(name))')))

# Names of files reach the programs as they are given: make expands no $ in them, and `quoted` keeps them from the shell.
ROOTS := $(filter RLOSS_%_ROOT,$(.VARIABLES))
$(foreach name,DATA_ROOT CHECKPOINT IMAGE_PATH OUTPUT DATA CLASSES $(ROOTS),$(eval override $(name) := $$(value $(name))))
quoted = '$(subst ','\'',$(1))'

CODE := pytorch-deeplab_v3_plus
FILTER := wrapper/bilateralfilter
DATA_OPTION = $(if $(DATASET),--dataset $(DATASET))
# Not empty where a training draws its images: nobody asks for others, and VOC is not where mypath.py looks for it.
VOC = $(or $(RLOSS_PASCAL_ROOT),$(DATA_ROOT)/VOCdevkit/VOC2012)
DRAWN = $(if $(DATASET)$(findstring --data-root,$(subst _,-,$(OPTIONS))),$(filter synthetic,$(DATASET)),$(shell test -d $(call quoted,$(VOC)) || echo yes))
SETTINGS = $(shell sed -n 's/^\([A-Z_]*\) ?=.*/\1/p' Makefile)

ifeq ($(wildcard $(FILTER)/setup.py),)
  $(error run make in the folder of rloss, or as make -C FOLDER)
endif

# A container sees this folder, the data and the files named on the command line under the paths that they have outside.
absolute = $(if $(filter /%,$(firstword $(1))),$(1),$(CURDIR)/$(1))
mount = -v $(call quoted,$(call absolute,$(1)):$(call absolute,$(1)))
GPUS := $(if $(NO_GPU),,$(if $(shell command -v nvidia-smi 2>/dev/null),--gpus all))
TERMINAL := $(and $(or $(MAKE_TERMOUT),$(filter 3.%,$(MAKE_VERSION))),$(shell test -t 0 && echo yes))
MOUNTS =
DOCKER_RUN = docker run --rm $(if $(TERMINAL),-it) --ipc=host $(GPUS) --user $(CONTAINER_USER) \
  --label rloss.folder="$(CURDIR)" $(call mount,$(CURDIR)) -w "$(CURDIR)" -e TORCH_HOME="$(CURDIR)/run/.torch" \
  -e DATA_ROOT=$(call quoted,$(call absolute,$(DATA_ROOT))) \
  $(if $(shell test -e $(call quoted,$(DATA_ROOT)) && echo yes),$(call mount,$(DATA_ROOT))) \
  $(foreach name,$(ROOTS),-e $(name) $(call mount,$($(name)))$(shell mkdir -p $(call quoted,$($(name))))) \
  -e CUDA_VISIBLE_DEVICES -e OMP_NUM_THREADS -e GOMP_SPINCOUNT -e OMP_WAIT_POLICY $(MOUNTS) $(DOCKER_OPTIONS) $(IMAGE)
CHECK_IMAGE = docker image inspect $(IMAGE) >/dev/null \
  || { echo "error: the image $(IMAGE) is not there (make build), or Docker does not run" >&2; exit 2; }

# Where commands run: in a container, in .venv, or, inside a container, in the environment of its image.
ifdef RLOSS_CONTAINER
  WHERE := container
else ifeq ($(RUNTIME),auto)
  WHERE := $(shell docker image inspect $(IMAGE) >/dev/null 2>&1 && echo docker || echo local)
else ifneq ($(filter docker local,$(RUNTIME)),)
  WHERE := $(RUNTIME)
else
  $(error RUNTIME: expected auto, docker or local, found '$(RUNTIME)')
endif
IN =
PACKAGES =
DEVELOPMENT =
APP =
ifeq ($(WHERE),docker)
  IN = $(DOCKER_RUN)
  PLACE = container of $(IMAGE)$(if $(GPUS),, without GPUs)
else ifeq ($(WHERE),local)
  IN = PATH="$(CURDIR)/.venv/bin:$$PATH"
  PLACE = .venv$(if $(filter auto,$(RUNTIME)), (no Docker image $(IMAGE) here))
  PACKAGES = .venv/filter.stamp
  DEVELOPMENT = .venv/development.stamp
  APP = .venv/app.stamp
else
  PLACE = this container
endif

export DATA_ROOT $(ROOTS)
ifneq ($(NO_GPU),)
  export CUDA_VISIBLE_DEVICES :=
endif

.PHONY: help
help: ## list the targets and settings
	@echo "make TARGET [NAME=VALUE ...]"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' Makefile
	@echo; echo "Settings:"
	@env $(foreach name,$(SETTINGS),$(name)=$(call quoted,$($(name)))) awk -F ' [?]=|# ' '/^[A-Z_]+ [?]=/ \
	  {value = ENVIRON[$$1]; printf "  %-16s %s%s\n", $$1, $$3, value == "" ? "" : " [" value "]"}' Makefile

# Each stamp is newer than what it was made from, so that a second call does nothing.
.venv/packages.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: expected Python 3.10 or newer, found $$($(PYTHON) --version 2>&1); name one: make setup PYTHON=python3.12"; exit 2; }
	@echo "installing packages into .venv (PyTorch is large: a few minutes)"
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@[[ -z "$(TORCH_INDEX_URL)" ]] || .venv/bin/python -m pip install --quiet --disable-pip-version-check \
	  --index-url "$(TORCH_INDEX_URL)" $$(grep -oE '^torch[^ ]+' requirements.txt) \
	  || echo "$(TORCH_INDEX_URL) has no fitting PyTorch or cannot be reached: taking PyPI's"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/filter.stamp: .venv/packages.stamp $(filter-out %_wrap.cpp,$(wildcard $(addprefix $(FILTER)/,*.?pp *.i setup.py pyproject.toml)))
	@echo "building the bilateral filter"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps ./$(FILTER)
	@touch $@

.venv/development.stamp: .venv/packages.stamp requirements-dev.txt requirements-app.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv/app.stamp: .venv/packages.stamp requirements-app.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-app.txt
	@touch $@

.PHONY: runtime
runtime:
	@$(if $(filter docker,$(WHERE)),$(CHECK_IMAGE))
	@echo "runtime: $(PLACE)" >&2

.PHONY: setup
setup: runtime $(PACKAGES) ## make .venv: packages and the bilateral filter
	@[[ -z "$(PACKAGES)" || -x .venv/bin/python ]] || { echo "error: the interpreter of .venv is gone: delete that" \
	  "folder, then make setup" >&2; exit 2; }
	@[[ -z "$(PACKAGES)" || "$(origin PYTHON)" != "command line" || "$$($(PYTHON) --version)" == "$$(.venv/bin/python --version)" ]] \
	  || { echo "error: .venv has $$(.venv/bin/python --version), which PYTHON=$(PYTHON) is not: delete that folder," \
	  "then make setup" >&2; exit 2; }

.PHONY: build
build: ## build the image from DOCKERFILE
	@command -v docker >/dev/null || { echo "error: no docker command here; without a container: make setup" >&2; exit 2; }
	docker build -f $(DOCKERFILE) -t $(IMAGE) $(if $(TORCH_INDEX_URL),--build-arg TORCH_INDEX_URL=$(TORCH_INDEX_URL)) $(OPTIONS) .

.PHONY: run
run: ## start a container to work in
	@$(CHECK_IMAGE)
	@$(DOCKER_RUN) bash

.PHONY: test-env
test-env: setup ## check the environment: versions, devices, the filter against reference numbers
	@$(IN) python $(CODE)/check_environment.py $(OPTIONS)

.PHONY: download-data
download-data: ## download PASCAL VOC and the scribbles into DATA_ROOT (gigabytes)
	@data/VOC2012/fetchVOC2012.sh
	@data/pascal_scribble/fetchPascalScribble.sh

# No processes that load images: these are small, and three trainings share the cores. Drawn images take a higher
# weight of the loss than photographs, on which that of the preset was chosen.
.PHONY: train-small
train-small: setup ## train in two stages on small images from the bundled weights: minutes on a laptop; ends with a table
	@$(IN) python $(CODE)/train_two_stages.py --preset 80 $(if $(DRAWN),--densecrfloss 5) $(DATA_OPTION) --workers 0 \
	  --stage1-epochs 5 --stage2-epochs 5 \
	  --seeds $(SEEDS) --jobs $(JOBS) $(if $(filter-out 0,$(FULL)),--full) --output run/train-small $(OPTIONS)
	@echo "next:  make inference IMAGE_PATH=/path/to/image.jpg   segment an image of these classes; for others: README, your own images"

.PHONY: train-standard
train-standard: setup ## train the published recipe at 513x513 (needs a GPU)
	@$(IN) python $(CODE)/train_withdensecrfloss.py $(DATA_OPTION) --backbone mobilenet --workers 6 --epochs 60 --batch-size 12 \
	  --lr 0.007 --densecrfloss 2e-9 --rloss-scale 0.5 --sigma-xy 100 --eval-interval 2 --save-interval 2 --run-root run $(OPTIONS)

inference evaluate: NETWORK = $(or $(CHECKPOINT),$(shell ls -t $(foreach run,run $(CODE)/run,$(run)/*/model.pth.tar $(run)/*/*/model_best.pth.tar) 2>/dev/null | head -1))
inference evaluate: MOUNTS = $(call mount,$(NETWORK)):ro

.PHONY: network
network:
	@test -e $(call quoted,$(NETWORK)) || { echo "error: no trained network" \
	  $(call quoted,$(or $(CHECKPOINT),under run/ or $(CODE)/run/))": train first (make train-small) or give CHECKPOINT=" >&2; exit 2; }
	@echo checkpoint: $(call quoted,$(NETWORK)) >&2

.PHONY: image-path
image-path:
	@p=$(call quoted,$(IMAGE_PATH)); test -e "$$p" || { test -n "$$p" && compgen -G "$$p" >/dev/null; } \
	  || { echo "error: no image '$$p': make inference IMAGE_PATH=/path/to/image.jpg" >&2; exit 2; }

.PHONY: inference
# What there is of a pattern before its first wildcard.
inference: IMAGES_IN = $(shell p=$(call quoted,$(IMAGE_PATH)); test -e "$$p" && echo "$$p" || dirname "$${p%%[*?[]*}x")
inference: MOUNTS += $(call mount,$(IMAGES_IN)):ro $(call mount,$(OUTPUT))
inference: image-path network setup ## segment IMAGE_PATH with CHECKPOINT into OUTPUT
	@mkdir -p $(call quoted,$(OUTPUT))
	@$(IN) python $(CODE)/inference.py --checkpoint $(call quoted,$(NETWORK)) --image_path $(call quoted,$(IMAGE_PATH)) \
	  --output_directory $(call quoted,$(OUTPUT)) $(OPTIONS)

.PHONY: evaluate
evaluate: network setup ## score CHECKPOINT on the validation images
	@$(IN) python $(CODE)/evaluate.py --checkpoint $(call quoted,$(NETWORK)) $(DATA_OPTION) $(OPTIONS)

annotate: LISTENS = PORT
jupyter: LISTENS = JUPYTER_PORT
tensorboard: LISTENS = TENSORBOARD_PORT

.PHONY: check-port
check-port:
	@[[ $(call quoted,$($(LISTENS))) =~ ^(0|[1-9][0-9]{0,4})$$ && $(call quoted,$($(LISTENS))) -le 65535 ]] \
	  || { echo "error: $(LISTENS): expected a port of 0 to 65535, found '$($(LISTENS))'" >&2; exit 2; }

.PHONY: annotate
# The data set that annotate makes beside photographs; a container that made the folder would make it as root.
annotate: MADE = $(if $(DATA),$(shell p=$(call quoted,$(DATA)); test -d "$$p/JPEGImages" || echo "$${p%/}-rloss"))
annotate: MOUNTS = -p $(ADDRESS):$(PORT):$(PORT) $(if $(DATA),$(call mount,$(DATA))) $(if $(MADE),$(call mount,$(MADE)))
annotate: check-port setup $(APP) ## draw strokes on DATA, train, look and correct, in the browser
	@$(if $(filter docker,$(WHERE)),$(if $(MADE),test ! -d $(call quoted,$(DATA)) || mkdir -p $(call quoted,$(MADE))))
	@$(IN) python $(CODE)/annotate.py --address $(LISTEN) --port $(PORT) $(if $(CLASSES),--classes $(call quoted,$(CLASSES))) \
	  $(if $(filter local,$(WHERE)),,--no-browser) $(OPTIONS) $(if $(DATA),$(call quoted,$(DATA)))

.PHONY: benchmark
benchmark: setup ## time the filter and a training step; figures and a plot under run/benchmark
	@mkdir -p run/benchmark
	@$(IN) env PYTHONPATH=$(CODE) python benchmarks/bench_filter.py --json run/benchmark/filter.json --plot run/benchmark/filter.png
	@$(IN) env PYTHONPATH=$(CODE) python benchmarks/bench_step.py --json run/benchmark/step.json

# A container's own address is reached through the port that Docker publishes at ADDRESS.
annotate jupyter tensorboard: LISTEN = $(if $(filter docker,$(WHERE)),0.0.0.0,$(ADDRESS))
jupyter: MOUNTS = -p $(ADDRESS):$(JUPYTER_PORT):$(JUPYTER_PORT)
tensorboard: MOUNTS = -p $(ADDRESS):$(TENSORBOARD_PORT):$(TENSORBOARD_PORT)

.PHONY: jupyter
jupyter: check-port setup $(DEVELOPMENT) ## start Jupyter Lab; open the address that it prints
	@$(IN) python -m jupyterlab --no-browser --allow-root --ip=$(LISTEN) --port=$(JUPYTER_PORT) $(OPTIONS)

.PHONY: tensorboard
tensorboard: check-port setup $(DEVELOPMENT) ## show the curves of the runs
	@$(IN) python -m tensorboard.main --logdir run --host $(LISTEN) --port $(TENSORBOARD_PORT) $(OPTIONS)

.PHONY: test
test: setup $(DEVELOPMENT) ## run the tests and the linter
	@$(IN) python -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal $(OPTIONS)
	@$(LINT)

.PHONY: lint
lint: setup $(DEVELOPMENT) ## check the Python code's style
	@$(LINT)

LINT = $(IN) python -m ruff check --quiet . && $(IN) python -m ruff format --quiet --check . && echo "ruff: clean"

.PHONY: test-filter
test-filter: ## run the filter's C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory -C $(FILTER)/tests check

.PHONY: fuzz-filter
fuzz-filter: ## call the filter a million times with random arguments under the sanitizers
	@$(MAKE) --no-print-directory -C $(FILTER)/tests fuzz

.PHONY: clean
clean: ## delete .venv and what was built, containers of this folder and the images (not run/ and not data/)
ifneq ($(RUNTIME),docker)
	rm -rf .venv $(FILTER)/build $(FILTER)/dist $(FILTER)/*.egg-info $(FILTER)/*_wrap.c* $(FILTER)/bilateralfilter.py $(FILTER)/*.so
	find . \( -path ./run -o -path ./data \) -prune -o -name __pycache__ -prune -exec rm -rf {} +
endif
ifneq ($(RUNTIME),local)
	@docker info >/dev/null 2>&1 || exit 0; \
	for label in rloss.folder com.docker.compose.project.working_dir; do \
	  docker ps --all --quiet --filter label=$$label="$(CURDIR)" | xargs -r docker rm --force || exit; done; \
	for image in $(sort $(IMAGE) rloss:a100-ubuntu22.04 rloss:latest); do \
	  ! docker image inspect $$image >/dev/null 2>&1 || docker image rm $$image || exit; done
endif
