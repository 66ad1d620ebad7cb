# make setup | test | test-slow | lint | reproduce | report | benchmark | demo | clean | distclean
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN = .venv/bin

.PHONY: setup test test-slow lint reproduce report benchmark demo clean distclean
setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,data,fid,semantic,report,slurm,demo,photos,deepinv]"
	touch $@

# One thread each: the tests are many small networks and processes
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 8 --dist loadfile

# Whole suites, full-size networks: what make test leaves out
test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --numprocesses auto --maxprocesses 8

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The suites benchmark_small and semantic_small, and three photographs. SUITE=theory runs another one alone, SUITE=paper a
# group of them; MODEL=ffhq256 IMAGES=64 STEPS="20 50 100" OUT=results/mine DRY=1; TUNE=1: choose all values first;
# SMOKE=1: its smallest size, on embedded models
PHOTOGRAPHS = model=photos task=super_resolution "metrics=[psnr,ssim,haarpsi]" out=results/photographs \
  sampler.steps=$(if $(SMOKE),2,20)
reproduce: setup
	$(BIN)/python scripts/reproduce.py --suite $(or $(SUITE),benchmark_small) $(if $(IMAGES),--images $(IMAGES)) \
	  $(if $(STEPS),--steps "$(STEPS)") $(if $(OUT),--out $(OUT)) $(if $(DRY),--dry) $(if $(SMOKE),--smoke) \
	  $(if $(MODEL),--models $(MODEL)) $(if $(TUNE),--tune) || status=$$?; \
	$(if $(SUITE)$(OUT),,[ "$$status" = 130 ] || $(BIN)/python scripts/reproduce.py --suite semantic_small \
	  $(if $(DRY),--dry) $(if $(SMOKE),--smoke) || status=$$?; \
	[ "$$status" = 130 ] || $(if $(DRY),echo) $(BIN)/python run.py $(PHOTOGRAPHS) || status=$$?;) \
	exit $${status:-0}

# One HTML page of a suite or run, and tables for a paper: SUITE=semantic, OUT=<folder>
report: setup
	$(BIN)/python scripts/report.py $(or $(OUT),$(SUITE),benchmark_small) --tables

benchmark: setup
	$(BIN)/python scripts/benchmark.py

# Restore a photograph in the browser
demo: setup
	$(BIN)/python scripts/demo.py

# Caches only: nothing that was computed or trained
clean:
	rm -rf *.egg-info .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -prune -exec rm -rf {} +

# Everything that git does not track, listed first. SURE=yes removes it
distclean: clean
	git clean -ndx
	@if [ "$(SURE)" = yes ]; then git clean -fdxq; else echo "SURE=yes removes these"; fi
