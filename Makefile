# Words: launch test faults check docs smoke format. Each sets up what it needs; nothing to do by hand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROFILE ?= laptop
JOBS ?= 2
MISSIONS ?= A,B,C,D,E

.PHONY: launch smoke test faults check docs format clean

launch: $(STAMP)
	$(BIN)/python fleet.py launch --missions $(MISSIONS) --profile $(PROFILE)

smoke: $(STAMP)
	$(BIN)/python fleet.py launch --missions $(MISSIONS) --profile smoke

# Tests that start Ray take all cores for themselves; the others share them.
test: $(STAMP)
	$(BIN)/python -m pytest -m "not ray" -n $(JOBS) --dist loadfile
	$(BIN)/python -m pytest -m "ray and not slow"

# Faults injected into real launches, node loss, a real Prometheus: minutes each. A process for each
# file: in one process Ray keeps what the first test set up. 5: a file without such a test.
faults: $(STAMP)
	set -e; for file in $$(grep -rl "pytest.mark.slow" tests --include=test_*.py | sort); do \
	  $(BIN)/python -m pytest -m "ray and slow" $$file || [ $$? -eq 5 ]; done

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m pytest tests/docs

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
