# `make quickstart` and `make test` each work as the first command on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Bytecode is kept, whatever an image says (PYTHONDONTWRITEBYTECODE): every process would compile what it imports anew.
RUN := PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE= $(BIN)
# The method, what is drawn at random, and what a resumed run goes on from: no line or branch of it without a test.
WHOLE := */losses.py,*/pretrain.py,*/learner.py,*/rng.py,*/sampling.py,*/schedules.py,*/transforms.py,*/gaze/fixations.py,*/gaze/masks.py
WHOLE := $(WHOLE),*/gaze/scanpath.py,*/datasets/clips.py,*/datasets/loader.py,*/datasets/slots.py,*/engine/backward.py
WHOLE := $(WHOLE),*/engine/bf16_cpu.py,*/engine/nvjpeg.py,*/checkpoint.py,*/journal.py,*/tracking/shipment.py,*/tracking/shipping_state.py
WHOLE := $(WHOLE),*/stages/run.py

.PHONY: quickstart test chaos fuzz coverage lint audit clean

$(VENV)/installed: setup.cfg constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "saccade needs Python 3.11 or newer; try make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[server,test]'
	@touch $@

quickstart: $(VENV)/installed  ## toy videos, a tracked pre-training run, a table of results
	$(RUN)/saccade data toy data
	$(RUN)/saccade run experiments/quickstart.yaml
	@echo "first: . $(VENV)/bin/activate"

test: $(VENV)/installed  ## the whole test-suite, with more processes than cores: tests wait much, for servers and for ends
	$(RUN)/pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder

chaos: $(VENV)/installed  ## whole runs ended at 60 random moments; half an hour
	SACCADE_CHAOS=1 $(RUN)/pytest --capture=no tests/chaos/test_long.py tests/sweep/test_chaos.py

fuzz: $(VENV)/installed  ## some 26,000 damaged and hostile files, others each time; ten minutes
	SACCADE_FUZZ=long $(RUN)/pytest tests/fuzz

coverage: $(VENV)/installed  ## lines and branches that no test reaches; the suite takes about twice as long
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder --timeout=900
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/coverage report --fail-under=100 --include='$(WHOLE)'

lint: $(VENV)/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/audit/installed:  # of its own: what it needs is not ours
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@touch $@

audit: $(VENV)/audit/installed  ## known vulnerabilities of the packages in constraints.txt, from osv.dev
	$(BIN)/python .ci/audit.py $(VENV)/audit/bin/pip-audit

clean:  ## what the other targets made, but never runs/ or data/
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
