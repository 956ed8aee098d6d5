# Everything a checkout needs: `make help` lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

BIN := .venv/bin
STAMP := .venv/.ready
SOURCES := numerics hw sim boards host models cli

# Python that makes the environment: the first of these that works, or what the caller names.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3.10 python3)
# Where `make demo` trains; `halfulp devices` lists what there is.
DEVICE ?= rtl:8x8
# Test processes. They share the cores, so more of them than cores only costs memory.
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
# Given to pytest as they are: make test ARGS="-k rounding".
ARGS ?=
# Of `make pynq`.
PYNQ_VERSIONS ?= 3.0.1 3.1.2 4.0.0
PYNQ_TESTS := tests/hw/test_handoff.py tests/sim/test_board_clock.py tests/sim/test_board_peripherals.py \
	tests/sim/test_virtual_board.py tests/host/test_board_check.py $(wildcard tests/host/test_pynq_*.py)
# Of `make fuzz`: a number repeats a run that failed.
SEED ?= fresh

.PHONY: help setup demo test proofs verify mutants pynq boards netlists lint format fuzz pictures wheel clean distclean

help: ## this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' Makefile | expand -t 18
	echo "  variables: PYTHON=, DEVICE= (demo), JOBS= ARGS= (test, fuzz), SEED= (fuzz)"

setup: $(STAMP) ## .venv with everything, pinned by constraints.txt (PYTHON=python3.12 to choose)

# Done again when the requirements change. A set-up that was interrupted leaves `incomplete` behind and no stamp:
# pip may then take half a package for a whole one, so the next set-up starts from nothing.
$(STAMP): pyproject.toml constraints.txt
	@exec 9>.setup.lock
	if command -v flock >/dev/null; then flock 9; fi
	if [[ -e $@ && ! pyproject.toml -nt $@ && ! constraints.txt -nt $@ ]]; then
		exit 0 # another make finished it while this one waited
	fi
	rm -f $@
	if [[ -e .venv/incomplete ]] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then
		python=
		for candidate in $(PYTHONS); do
			if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
					>/dev/null 2>&1; then
				python=$$candidate
				break
			fi
		done
		if [[ -z $$python ]]; then
			echo "make: no Python 3.10 to 3.12 with venv among: $(PYTHONS). Install one (Debian: python3 and" \
				"python3-venv) or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2
			exit 1
		fi
		echo "Making .venv with $$("$$python" --version)."
		rm -rf .venv
		mkdir .venv
		touch .venv/incomplete
		"$$python" -m venv .venv
	fi
	touch .venv/incomplete
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	rm .venv/incomplete
	touch $@

demo: setup ## train on cycle-accurate RTL, checked bit for bit against the emulator (DEVICE=rtl:8x8)
	$(BIN)/halfulp train mlp mnist5k --recipe fp8-hybrid --device $(DEVICE) --check emulator --epochs 1

test: setup ## the tests, one process a core
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

fuzz: setup ## the randomised tests only, with a fresh seed and more examples (SEED=… repeats)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --fuzz --seed $(SEED) $(ARGS)

# Three minutes of computing where the tools have been compiled, twice that on a busy machine.
proofs: setup ## proofs of small hardware blocks for all inputs, those too that take long
	$(BIN)/python -m pytest -n $(JOBS) --proofs tests/hw/test_*proofs.py tests/boards/test_netlist.py tests/boards/test_cells.py $(ARGS)

mutants: setup ## faults put into the hardware, one after the other, each of which a test must notice (an hour or two)
	$(BIN)/python tests/mutants/mutation.py --jobs $(JOBS) $(ARGS)

# Every kind of processing element is among these: tests/sim/test_configurations.py. An hour or two on a slow machine.
# Cores for serial links, of fewer address bits than the bench's memory, have tests of their own.
verify: setup ## cores of every kind under cocotb against the golden model (halfulp verify), and those of blocks on devices
	for config in $(filter-out %_serial.toml,$(wildcard docs/configs/*.toml tests/sim/configs/*.toml)); do
		$(BIN)/halfulp verify "$$config"
	done
	$(BIN)/python -m pytest --timeout 1800 -m "verify or not verify" tests/sim/test_configurations.py tests/sim/test_block_core.py tests/sim/test_forms.py $(ARGS)

# What PYNQ's images carry: each in an environment of its own, with NumPy 1.26 and nothing of what trains or simulates.
pynq: setup ## the tests of PYNQ boards with each of PYNQ_VERSIONS
	@for version in $(PYNQ_VERSIONS); do
		folder=build/pynq-$$version
		if [[ ! -e $$folder/.ready ]]; then
			rm -rf $$folder
			$(BIN)/python -m venv $$folder
			$$folder/bin/python -m pip install --disable-pip-version-check -q "pynq==$$version" "pycparser<3" \
				"numpy==1.26.4" "setuptools<81" tomli "pytest>=8.3" "pytest-timeout>=2.3" "hypothesis>=6.100" -e .
			touch $$folder/.ready
		fi
		echo "PYNQ $$version:"
		$$folder/bin/python -m pytest -q $(PYNQ_TESTS) $(ARGS)
	done

# A quarter of an hour on a slow machine: place and route of a whole core.
boards: setup ## real bitstreams by the open tools: of a small design for each tool chain, of a core for a ULX3S
	$(BIN)/python -m pytest -m "boards or not boards" tests/boards/test_bitstream.py $(ARGS)

# A quarter of an hour: each is synthesised, made plain Verilog of some ten thousand cells, and compiled.
netlists: setup ## what synthesis makes of cores for boards, cell by cell, against the golden model
	for core in int8_2x2_serial:ulx3s int8_2x2_compact_serial:ulx3s int8_2x2_serial:tang-nano-20k \
			int8_2x2_compact_serial:tang-nano-9k int8_2x2_compact_serial:ice40-hx8k int8_1x2_compact_serial:icebreaker; do
		$(BIN)/halfulp verify "docs/configs/$${core%:*}.toml" --netlist "$${core#*:}"
	done
	$(BIN)/halfulp verify docs/configs/int8_8x8_serial.toml --netlist ulx3s --tests 1

# The stubs of Amaranth want Python 3.11; without them its whole interface is unknown to pyright.
lint: setup ## style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
		$(BIN)/pyright
	else
		echo "Types are not checked on Python 3.10: there are no stubs of Amaranth for it."
	fi

format: setup ## what lint can mend by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Of docs/numerics.md and docs/hardware.md. The formats are those that a page can show side by side.
pictures: setup ## docs/pictures, drawn again from the golden model and the simulation
	$(BIN)/halfulp formats e4m3 e5m2 e3m2 e2m3 e2m1 e6m5 int8 fixed2.6 posit8_1 --plot docs/pictures/spacing.png >/dev/null
	$(BIN)/halfulp formats e6m5 --plot docs/pictures/rounding.png --picture rounding >/dev/null
	$(BIN)/halfulp formats e6m5 --plot docs/pictures/words.png --picture words >/dev/null
	$(BIN)/halfulp verify docs/configs/tiny_2x3.toml --tests 1 --timing docs/pictures >/dev/null

wheel: setup ## dist/halfulp-….whl
	$(BIN)/python -m hatchling build -t wheel

clean: ## what builds and tools leave in the tree (not results/, not .venv/)
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find $(wildcard $(SOURCES)) tests \( -name __pycache__ -o -name sim_build \) -prune -exec rm -rf {} +

distclean: clean ## and the environment
	rm -rf .venv .setup.lock
