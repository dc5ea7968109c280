# The whole paper as a graph: generate (a strategy) -> distill (an arm) -> evaluate (an arm) -> compare, attention
# -> claims, which also needs the audit -> report.
# What is stale is decided by content (`response-priming why NODE` says it) and written to build/PROFILE/plan/plan.mk.

# Related methods take more test problems than the paper.
ifneq ($(filter related,$(MAKECMDGOALS)),)
PROFILE ?= related-laptop
endif
PROFILE ?= laptop
PYTHON ?= python3

# A profile's name becomes that of a folder, which `clean` removes. What is left of it without a name's characters is
# found without a shell, which would read it.
CHARACTERS := a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9 -
without = $(if $(2),$(call without,$(subst $(firstword $(2)),,$(1)),$(wordlist 2,$(words $(2)),$(2))),$(1))
ifneq ([$(call without,$(value PROFILE),$(CHARACTERS))$(filter -%,$(value PROFILE))$(if $(value PROFILE),,none)],[])
$(error PROFILE = '$(value PROFILE)': is no name; allowed: a-z, 0-9 and -, of which - is not the first)
endif

BUILD := build/$(PROFILE)
NB := $(BUILD)/notebooks
PAGE := $(BUILD)/report/_site/index.html
READY := $(BUILD)/plan/ready

# The active conda environment of environment.yml, or .venv, which is made; both are kept in step with the lock.
ifeq ($(origin BIN),undefined)
ifeq ($(CONDA_DEFAULT_ENV),response-priming)
VENV := $(CONDA_PREFIX)
else
VENV := .venv
endif
BIN := $(VENV)/bin
SETUP := $(VENV)/installed
endif
# Without a GPU, two notebooks at once with half of the cores each finish sooner than one after the other with all of them
# (training steps of the laptop profile: one every 1.5 s instead of 1.9 s). On a GPU they would compete for its memory. `-j1` overrides.
ifeq ($(shell command -v nvidia-smi),)
CORES := $(shell getconf _NPROCESSORS_ONLN)
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j2
endif
export OMP_NUM_THREADS ?= $(shell echo $$(( $(CORES) > 1 ? $(CORES) / 2 : 1 )))
endif
# Threads that wait for work sleep: spinning ones slow a shared machine by ten times and more.
export OMP_WAIT_POLICY := PASSIVE

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help paper view doctor ladder related search attribution compare explore reproduce cost gpu-check plan lab test test-cluster test-engines test-faults test-harness times lint lock clean clean-responses FORCE

help: ## what there is to make
	@echo "make TARGET [PROFILE=laptop]; profiles: $(filter-out prompts published-results,$(basename $(notdir $(wildcard params/*.yaml))))"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

paper: $(if $(CLUSTER),| $(READY),$(PAGE)) ## the paper: every stale notebook, then the page; on Ray: CLUSTER=auto|local|ray://HOST:10001 [STORAGE=s3://...]
	$(if $(CLUSTER),@$(BIN)/response-priming cluster $(PROFILE) "$(CLUSTER)" --storage "$(STORAGE)")
	@echo "The paper: $(abspath $(PAGE))"

view: $(SETUP) ## the finished page in a browser: serves it on this machine alone, and prints the address
	@test -f $(PAGE) || { echo "make: $(PAGE): not made yet; \`make paper PROFILE=$(PROFILE)\` makes it" >&2; exit 2; }
	@$(BIN)/python -u -m http.server $(or $(PORT),0) --bind 127.0.0.1 --directory $(dir $(PAGE))

# The plan is looked at by every goal that builds results, and by no other. It also says which notebook needs which.
ifneq ($(filter paper doctor ladder related search attribution plan $(BUILD)/%,$(or $(MAKECMDGOALS),help)),)
# What a kill cut short must not stop make, which writes it again.
$(shell tail -n 1 $(BUILD)/plan/plan.mk 2> /dev/null | grep -q '^# complete$$' || rm -f $(BUILD)/plan/plan.mk)
include $(BUILD)/plan/plan.mk
endif

$(BUILD)/plan/plan.mk: FORCE | $(SETUP)
	@$(BIN)/response-priming plan $(PROFILE)

attribution: $(NB)/attribution.ipynb ## which tokens of its prompt drive the teacher (twenty minutes on two cores)
	@echo "The attribution: $(abspath $<); make paper gives it a page"

doctor: $(NB)/doctor.ipynb ## is each student what it should be, and why does it lose to fine-tuning (a quarter of an hour on two cores)
	@echo "The doctor: $(abspath $<); make paper gives it a page"

compare: $(SETUP) ## two runs side by side: A=laptop B=single-gpu; instead of a profile, a run's folder
	@$(BIN)/response-priming compare-runs "$(A)" "$(B)"

explore: $(SETUP) ## one arm of a finished run with one parameter changed: SET=distill.alpha=0.7 [ARM=teacher]
	@$(BIN)/response-priming explore "$(SET)" --profile $(PROFILE) --arm "$(ARM)"

# The record's profile is made in a folder of its own, so that nothing is taken from what is compared.
reproduce: $(SETUP) ## make a finished run again by its record and compare every number of the page: FROM=build/laptop
	@profile=$$($(BIN)/response-priming reproduce "$(FROM)") && \
	    $(MAKE) --no-print-directory paper PROFILE=$$profile && \
	    $(BIN)/response-priming numbers "$(FROM)" build/$$profile

cost: $(SETUP) ## what a profile takes before it runs: GPUs, hours, money; GPU=h100 PRICE=2.5 (of an hour); CALIBRATE=1 measures here
	@$(BIN)/response-priming cost $(PROFILE) --gpu "$(GPU)" --price "$(or $(PRICE),0)" $(if $(CALIBRATE),--calibrate)

gpu-check: $(SETUP) ## the first hour on a GPU: what the suite does there, each with a verdict and a time (some minutes)
	@$(BIN)/response-priming gpu-check

plan: ## the notebooks that `make paper` would execute now
	@$(MAKE) --no-print-directory -n paper PROFILE=$(PROFILE) | sed -n 's/.*response-priming run //p; s/.*response-priming report/report/p'

# Nothing runs before the data and the models are known to be there.
$(READY):
	@$(BIN)/response-priming check $(PROFILE) > $@.$$$$ && mv $@.$$$$ $@

$(NB)/%.ipynb: | $(READY)
	@$(BIN)/response-priming run $* --profile $(PROFILE)
$(PAGE): | $(NB)/claims.ipynb
	@$(BIN)/response-priming report $(PROFILE)

ladder: $(NB)/ladder.ipynb ## what each deviation of the released code costs (20 to 40 minutes on two cores)
	@echo "The ladder: $(abspath $<); make paper gives it a page"
related: $(NB)/related.ipynb ## related methods, each beside its control; by default PROFILE=related-laptop (two and a half CPU hours)
	@echo "The related methods: $(abspath $<); make paper PROFILE=$(PROFILE) gives it a page"
search: $(if $(CLUSTER),| $(READY),$(NB)/search.ipynb) ## search for training values on the validation split; a killed search continues
	$(if $(CLUSTER),@$(BIN)/response-priming cluster $(PROFILE) "$(CLUSTER)" --goal search)
	@echo "The search: $(abspath $(NB)/search.ipynb); make paper gives it a page"

lab: $(SETUP) ## JupyterLab, opened at notebooks/start.ipynb
	$(BIN)/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks/start.ipynb

# A file's tests share what took long to make, so they stay in one process; files go out in the order of tests/conftest.py.
test: $(SETUP) lint ## all tests and static checks
	$(BIN)/pytest -n logical --maxprocesses 6 --dist loadfile --no-loadscope-reorder

test-faults: $(SETUP) ## kills, damage, edits, two at once, odd profiles, a full disk, on a tiny model; SEED=0 TIMES=1
	$(BIN)/python tests/faults/faults.py --seed $(or $(SEED),0) --times $(or $(TIMES),1)

test-cluster: $(SETUP) ## nodes of a Ray cluster of this machine that die while they make a tiny paper; SEED=0
	$(BIN)/python tests/faults/faults.py --seed $(or $(SEED),0) --only "nodes of a cluster that die"

test-engines: .venv-engines/installed ## the real vLLM engine and server on the embedded model (CPU)
	.venv-engines/bin/pytest -s tests/real/test_engines.py

# The standard harness brings packages that this project does not want, so it has an environment of its own. The released
# logs are more texts to compare, where they are.
HARNESS := .venv-harness
GSM8K_HERE := $(or $(GSM8K_DIR),$(wildcard ../shared/gsm8k))
LOGS_HERE := $(or $(PUBLISHED_LOGS),../shared/published-logs)

test-harness: $(HARNESS)/installed $(SETUP) ## our verdicts against those of lm-evaluation-harness, on GSM8K in GSM8K_DIR
	@test -f "$(GSM8K_HERE)/test.jsonl" || { echo "make: GSM8K_DIR = $(GSM8K_HERE): must be a folder with GSM8K's train.jsonl and test.jsonl" >&2; exit 2; }
	@echo "Scoring by lm-evaluation-harness (some minutes; log: build/harness.log) ..."
	@mkdir -p build
	@model=$$($(BIN)/python -c "from response_priming import models; print(models.locate('embedded'))") && \
	    $(HARNESS)/bin/python tests/real/harness.py "$(GSM8K_HERE)" "$$model" "$(LOGS_HERE)" build/harness/verdicts.jsonl > build/harness.log 2>&1 || \
	    { tail -n 5 build/harness.log >&2; exit 1; }
	$(BIN)/pytest tests/real/test_harness.py

$(HARNESS)/installed: requirements.lock
	@./setup.sh --harness $(PYTHON) $(HARNESS)

times: $(SETUP) ## what `make paper` takes on this machine, from nothing, in a copy; adds a row to benchmarks/results/times.json
	$(BIN)/python benchmarks/times.py $(PROFILE)

lint: $(SETUP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

$(SETUP): requirements.lock pyproject.toml
	@./setup.sh $(PYTHON) $(VENV)

.venv-engines/installed: requirements.lock pyproject.toml
	@./setup.sh --engines $(PYTHON) .venv-engines

lock: ## resolve pyproject.toml again into requirements.lock
	./setup.sh --lock $(PYTHON) requirements.lock

clean: $(SETUP) ## remove the profile's results, but for the teacher's responses
	@$(BIN)/response-priming clean $(PROFILE)

clean-responses: $(SETUP) ## remove the teacher's responses, too; asks before
	@$(BIN)/response-priming clean $(PROFILE) --responses
