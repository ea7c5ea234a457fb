# Everything sets itself up: `make run` and `make test` need only Python >= 3.10.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
# Unbound threads are many times slower at random on shared machines.
THREADS := OMP_PROC_BIND=true OMP_PLACES=cores OMP_WAIT_POLICY=ACTIVE

.PHONY: run test test-slow lint bench evidence cards clean

run: $(VENV)/.run
	$(THREADS) $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no \
	    --dynamo_backend no recipes/vit_classify.py $(ARGS)

test: lint
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered --cov-fail-under=90 $(ARGS)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test
	$(BIN)/python tests/benchmarks/bench_losses.py $(ARGS)
	$(BIN)/python tests/benchmarks/bench_training.py $(ARGS)
	$(BIN)/python tests/benchmarks/bench_dense.py $(ARGS)

evidence: $(VENV)/.run
	$(BIN)/python recipes/evidence.py $(ARGS)

cards: run
	$(BIN)/python recipes/collect_cards.py runs/vit_classify model_cards/vit_classify

$(VENV)/.run: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[timm]'
	touch $@

$(VENV)/.test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.run

clean:
	rm -rf .venv build dist *.egg-info
