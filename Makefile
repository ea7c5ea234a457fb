# Everything sets itself up: `make run` and `make test` need only Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
CARD_RUNS ?= runs/vit_classify
RECIPE ?= vit_classify
SUITES ?= teachers temperature_weight n_peers label_free few_labels weak_with_strong pairs
BENCHMARKS := losses training dense saliency cost peer_parallel others startup
BIN := $(VENV)/bin
# Unbound threads are many times slower at random on shared machines.
THREADS := OMP_PROC_BIND=true OMP_PLACES=cores OMP_WAIT_POLICY=ACTIVE

.PHONY: run test test-slow test-oldest lint docs bench gpu evidence hunt few-labels suites land-cover cards clean

run: $(VENV)/.run
	$(THREADS) $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no \
	    --dynamo_backend no recipes/$(RECIPE).py $(ARGS)

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --cov --cov-report=term-missing:skip-covered \
	    --cov-fail-under=90 $(ARGS)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow $(ARGS)

# In the oldest versions that pyproject.toml allows, which uv reads there.
test-oldest: $(VENV)-oldest/.test
	$(VENV)-oldest/bin/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

# A missed bar fails the whole, after all have run.
bench: $(VENV)/.test
	missed=; for name in $(BENCHMARKS); do $(BIN)/python tests/benchmarks/bench_$$name.py $(ARGS) || missed="$$missed $$name"; \
	    done; test -z "$$missed" || { echo "Missed a bar, or failed:$$missed"; exit 1; }

gpu: $(VENV)/.test
	$(BIN)/python tests/gpu/check.py $(ARGS)

evidence: $(VENV)/.run
	$(BIN)/python recipes/evidence.py $(ARGS)

hunt: $(VENV)/.test
	$(BIN)/python recipes/hunt.py $(ARGS)

few-labels: $(VENV)/.run
	$(BIN)/python recipes/few_labels.py $(ARGS)

suites: $(VENV)/.run
	$(BIN)/python recipes/suites/make_peers.py
	set -e; for suite in $(SUITES); do OMP_NUM_THREADS=1 $(BIN)/hf-mutual-kd compare \
	    --config recipes/suites/$$suite.yaml $(ARGS); done
	$(BIN)/python recipes/suites/collect.py

land-cover: $(VENV)/.test
	$(BIN)/python recipes/land_cover_benchmark.py $(ARGS)

cards: run
	$(BIN)/python recipes/collect_cards.py model_cards $(CARD_RUNS)

$(VENV)/.run: pyproject.toml
	@test -x $(BIN)/python || echo "Installing into $(VENV): about 6 GB, most of it CUDA's libraries. Without a GPU torch's CPU" \
	    "build is enough: PIP_INDEX_URL=https://download.pytorch.org/whl/cpu PIP_EXTRA_INDEX_URL=https://pypi.org/simple"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[timm]'
	touch $@

$(VENV)/.test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.run

$(VENV)-oldest/.test: pyproject.toml
	test -x $(VENV)-oldest/bin/uv || { $(PYTHON) -m venv $(VENV)-oldest; $(VENV)-oldest/bin/python -m pip install --quiet uv; }
	$(VENV)-oldest/bin/uv pip install --quiet --python $(VENV)-oldest/bin/python --resolution lowest-direct \
	    --editable '.[test]'
	touch $@

$(VENV)/.docs: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info
