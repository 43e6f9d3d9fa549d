# make demo   set up, train a small SILC on generated scenes, evaluate it, write out/demo/report.html
# make test   set up, run the test suite
# make check  set up, run the formatter's and linter's checks and the type checker
# make lock   pin every dependency again (needs a package index)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test check lock clean

setup: $(VENV)/.installed

# The stamp is newer than everything it depends on, so a second `make` installs nothing.
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "silc needs Python >= 3.11, $(PYTHON) is $$($(PYTHON) --version): make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/python -m ensurepip --version >/dev/null
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@
