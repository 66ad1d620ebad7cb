# make setup | test | reproduce | benchmark | lint | clean
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN = .venv/bin

.PHONY: setup test reproduce benchmark lint clean
setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,data,semantic]"
	touch $@

# One thread each: the tests are many small networks and processes
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv results/avatars64 results/gaussian_mixture *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The suites embedded and semantic. IMAGES=64 STEPS="20 50 100" change the first; SUITE=theory runs another one alone, OUT= the first alone
reproduce: setup
	$(BIN)/python scripts/reproduce.py $(if $(SUITE),--suite $(SUITE)) $(if $(IMAGES),--images $(IMAGES)) $(if $(STEPS),--steps "$(STEPS)") $(if $(OUT),--out $(OUT))
	$(if $(SUITE)$(OUT),,$(BIN)/python scripts/reproduce.py --suite semantic)

benchmark: setup
	$(BIN)/python scripts/benchmark.py
