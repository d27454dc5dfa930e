# make demo, make test: all that they need is set up in .venv the first time.
PYTHON ?= python3
BIN := .venv/bin
RUN := PYTHONDONTWRITEBYTECODE=1 $(BIN)

.PHONY: demo test test-slow bench lint chromium clean

demo: .venv/.with-nothing
	$(RUN)/whyalike demo --out demo

# Two processes, one thread of torch each: threads that wait for one another are slower.
TWO := -n 2 --dist loadfile

test: .venv/.with-test chromium
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest $(TWO)

test-slow: .venv/.with-test .venv/.with-ray chromium
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m slow $(TWO)

bench: .venv/.with-bench chromium
	$(RUN)/python -m benchmarks

lint: .venv/.with-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Debian's chromium for the tests that look at the page; without it they are skipped, and say so.
chromium:
	@command -v chromium >/dev/null || command -v apt-get >/dev/null || \
	  echo "chromium is missing: the browser tests will be skipped"
	@command -v chromium >/dev/null || ! command -v apt-get >/dev/null || { \
	  if [ "$$(id -u)" = 0 ]; then sudo=; else sudo="sudo -n"; fi; \
	  $$sudo apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends \
	    chromium fonts-liberation || \
	  echo "chromium is missing and cannot be installed: the browser tests will be skipped"; }

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "whyalike needs Python 3.11 or newer; try make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.with-nothing: .venv/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/.with-%: .venv/.with-nothing
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	@touch $@

clean:
	rm -rf .venv demo test-artefacts
