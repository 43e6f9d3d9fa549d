# make demo    set up, train two small models on generated objects, without and with self-distillation, leave out/demo/report.html (at most 5 minutes on two slow cores)
# make test    set up, run the tests, several at once (the slow ones: make test-slow)
# make check   set up, run formatter, linter and type checker without changing anything
# make elsewhere   set up, train a small model, export it and have open_clip, transformers and CLIP_benchmark answer (2 minutes)
# make bench   set up, time the start and the loader beside what one would use otherwise (2 minutes; PARTS=all: everything)
# make drill   set up, kill, corrupt, fill and poison real training processes, and count what survived (about an hour on two slow cores)
# make docs    the documentation site, in out/site; a warning is an error
# make dist    wheel and sdist, in dist/
# make audit   look every pinned dependency up in PyPI's advisories (needs the network)
# TORCH=cpu    with any of these on a new checkout: torch without CUDA's 5 GB, from PyTorch's own index (not by its hash)
# make lock    pin every dependency again

PYTHON ?= python3
PARTS ?= start loader
BIN := .venv/bin
TORCH ?= locked
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
# What of the lock has nothing to do with CUDA: whole entries, a line with == and those of its hashes.
WITHOUT_CUDA := awk '/==/ { cuda = /^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/ } !cuda' requirements.lock

# A process for each core, up to a number, for memory: default tests hold up to 2 GB each, slow ones models of full size.
# One that is done takes over half of what another has left.
TESTS := $(BIN)/python -m pytest --dist worksteal --numprocesses logical --maxprocesses

.PHONY: setup demo test test-slow check elsewhere bench drill docs dist audit lock clean

setup: .venv/.installed

# The stamp is newer than what it depends on, so a second `make` installs nothing.
.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "silc needs Python >= 3.11; name one: make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
ifeq ($(TORCH),cpu)
	@$(INSTALL) --no-deps --torch-backend cpu $$(grep -oE '^torch(vision)?==[^ ]+' requirements.lock) 2>.venv/torch.log \
	  || { echo "PyTorch's index of torch without CUDA cannot be had ($$(tail -n 1 .venv/torch.log | sed 's/^ *//'));" \
	  "\`make setup\` alone takes the torch of the lock, .venv/torch.log has the rest"; exit 2; }
	$(WITHOUT_CUDA) > .venv/cpu.lock
	$(INSTALL) --require-hashes --no-deps --requirement .venv/cpu.lock
else
	$(INSTALL) --require-hashes --requirement requirements.lock
endif
	$(INSTALL) --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/silc demo

test: setup
	$(TESTS) 4

test-slow: setup
	$(TESTS) 2 -m slow

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

elsewhere: setup
	SILC=$(BIN)/silc PYTHON=$(BIN)/python UV=$(BIN)/uv scripts/export_elsewhere.sh

bench: setup
	$(BIN)/silc bench $(PARTS)

drill: setup
	$(BIN)/python -m scripts.drill

docs: setup
	rm -rf out/site
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs out/site
	@echo "documentation: out/site/index.html"

dist: setup
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist
	ls -l dist

# --strict: a dependency that could not be looked up is a failure, not a pass.
audit: setup
	$(BIN)/uv tool run pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

lock: setup
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv out
