"""The examples of docs/numerics.md give what they show."""

from __future__ import annotations

import doctest
from pathlib import Path

from halfulp.numerics.accumulators import ExactAccumulator
from halfulp.numerics.formats import get_format

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_examples():
    result = doctest.testfile(str(DOCS / "numerics.md"), module_relative=False)
    assert result.attempted > 10
    assert result.failed == 0


def test_widths_of_exact_accumulators_are_what_the_page_says():
    widths = {
        name: ExactAccumulator.width(get_format(name), get_format(name), 1024) for name in ("e4m3", "e5m2", "int8")
    }
    assert widths == {"e4m3": 37 + 10, "e5m2": 65 + 10, "int8": 16 + 10}
