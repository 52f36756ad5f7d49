# make demo : set up .venv and run the main job offline on the embedded sandbox
# make test : set up .venv and pass the tests
# The CPU choice lives here, not in the package: CI and the demo need no CUDA build. On a GPU machine: make TORCH=torch demo
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
# processes that share the tests; each of them computes on one thread
WORKERS ?= 2
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test slow lint clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "teachfair needs Python 3.11 or newer; make PYTHON=python3.11 …"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/teachfair survival --config recipes/configs/demo.yaml

test: setup
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

slow: setup
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info runs
