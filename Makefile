# Two commands for newcomers: `make demo` and `make test`. Both install everything they need into .venv first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
# The environment is made anew when the pins change or the folder has moved (scripts in it hold absolute paths).
READY := $(VENV)/ready
MOVED := $(shell [ ! -f $(READY) ] || [ "$$(cat $(READY))" = "$(CURDIR)" ] || echo moved)
# How often `make chaos` kills a whole search, the journal's writer and a process that saves checkpoints, from which seed,
# and the trials of `make soak`.
KILLS ?= 30
WRITER_KILLS ?= 2000
SAVING_KILLS ?= 200
SEED ?= 0
TRIALS ?= 300
DEMO_STORAGE ?= runs

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint docs walk chaos soak release format clean moved

help:
	@echo "make demo    install, then run a search on synthetic data (minutes)"
	@echo "make test    install, then run checks and tests"
	@echo "make check   formatting, lint, types, import directions"
	@echo "make docs    the documentation as a site, in build/docs"
	@echo "make walk    follow README, tutorial and how-to pages as a reader does: every command, its exit code, the lines shown"
	@echo "make chaos   kill searches and the journal's writer at random moments, count what is lost (KILLS, SEED)"
	@echo "make soak    a search of many trials of milliseconds: memory, time per suggestion (TRIALS)"
	@echo "make release build wheel and source distribution into dist/, check them, try the wheel in an empty environment"
	@echo "make format  format the code"
	@echo "make clean   remove the environment; runs and data stay"

install: $(READY)

# Byte code is made at once: without it Ax alone takes 14 s of processor time to import, every time where Python may not
# keep it; 5 s with it.
$(READY): setup.cfg constraints.txt pyproject.toml Makefile $(MOVED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one with: make PYTHON=/path/to/python3.11 ..." >&2; exit 5; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "this Python has no venv; install it (Debian: apt-get install python3-venv)" >&2; exit 5; }
	@echo "installing into $(VENV), which takes about a minute"
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(RUN) uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python --constraint constraints.txt --editable '.[test,dev,docs]'
	@echo "$(CURDIR)" > $(READY)

demo: $(READY)
	$(RUN) orchestrator launch --space demo.yaml --storage $(DEMO_STORAGE)

# The end-to-end tests wait for Ray half of the time, so that two modules of them at once fill two cores. In the order of
# their paths the last ones are short; by default those with one test, however long, would be last.
test: lint
	@echo "mypy, which fills one core, runs beside the unit tests"
	@$(RUN) mypy & types=$$!; $(RUN) pytest -n 2 -m "not e2e"; units=$$?; wait $$types && exit $$units
	$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder -m "e2e and not long"

check: lint
	$(RUN) mypy

lint: $(READY)
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(VENV)/bin/python -c 'import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())'

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build
	@echo "open build/docs/index.html"

WALK := pytest -s -n 0 -m e2e $(CURDIR)/tests/project/test_documents.py $(CURDIR)/tests/project/test_own_data_page.py

# WHEEL: from an empty folder, with the libraries of .venv and without the checkout.
walk: $(READY)
ifdef WHEEL
	rm -rf build/walk
	mkdir -p build/walk/empty
	$(RUN) uv venv --quiet build/walk/venv
	$(RUN) uv pip install --quiet --no-deps --python build/walk/venv/bin/python $(WHEEL)
	$(VENV)/bin/python -c 'import pytest, pathlib; print(pathlib.Path(pytest.__file__).parents[1])' > \
		"$$(echo build/walk/venv/lib/*/site-packages)/libraries.pth"
	cd build/walk/empty && ../venv/bin/python -c 'import orchestrator; print(orchestrator.__file__)'
	cd build/walk/empty && ../venv/bin/python -m $(WALK) -c $(CURDIR)/setup.cfg -o pythonpath=tests/helpers
else
	$(RUN) $(WALK)
endif

chaos: $(READY)
	$(VENV)/bin/python tests/helpers/chaos.py journal --kills $(WRITER_KILLS) --seed $(SEED)
	$(VENV)/bin/python tests/helpers/chaos.py checkpoint --kills $(SAVING_KILLS) --seed $(SEED)
	$(VENV)/bin/python tests/helpers/chaos.py search --kills $(KILLS) --seed $(SEED)
	$(RUN) pytest -m long

soak: $(READY)
	$(VENV)/bin/python tests/helpers/soak.py --trials $(TRIALS)

release: $(READY)
	$(VENV)/bin/python tests/helpers/release.py

format: $(READY)
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

clean:
	rm -rf $(VENV)
