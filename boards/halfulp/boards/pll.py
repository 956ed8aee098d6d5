"""Divisors of the clock multipliers (PLLs) of ECP5, iCE40 and Gowin parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["PLL_FAMILIES", "PllPlan", "plan_pll"]

TOLERANCE = Fraction(1, 200)
"""How far from the clock that was asked for the nearest possible one may be."""


@dataclass(frozen=True, kw_only=True)
class PllPlan:
    """One setting of a PLL.

    Attributes
    ----------
    family
        Whose PLL: a key of `PLL_FAMILIES`.
    reference, frequency, oscillator
        What goes in, what comes out, and the inner oscillator (VCO), in Hz, exactly.
    parameters
        The divisors, by the names that the vendor's primitive gives them.
    """

    family: str
    reference: Fraction
    frequency: Fraction
    oscillator: Fraction
    parameters: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """Least and largest frequency in MHz, from the vendor's data sheet."""

    detector: tuple[float, float]
    oscillator: tuple[float, float]
    output: tuple[float, float]

    def allow(self, detector: Fraction, oscillator: Fraction, output: Fraction) -> bool:
        pairs = (self.detector, detector), (self.oscillator, oscillator), (self.output, output)
        return all(low * 1_000_000 <= frequency <= high * 1_000_000 for (low, high), frequency in pairs)


# Lattice, ECP5 data sheet FPGA-DS-02012, table of the sysCLOCK PLL.
_ECP5 = _Limits(detector=(3.125, 400), oscillator=(400, 800), output=(3.125, 400))
# Lattice, iCE40 LP/HX data sheet FPGA-DS-02029 and UltraPlus FPGA-DS-02008, table of the sysCLOCK PLL.
_ICE40 = _Limits(detector=(10, 133), oscillator=(533, 1066), output=(16, 275))
# Gowin, DS117 (GW1NR, speed C6/I5) and DS226 (GW2AR, speed C8/I7), table of the PLL.
_GW1NR_9 = _Limits(detector=(3, 400), oscillator=(400, 1200), output=(3.125, 600))
_GW2AR_18 = _Limits(detector=(3, 500), oscillator=(500, 1250), output=(3.90625, 625))

ICE40_FILTERS = (17, 26, 44, 66, 101)
"""MHz at the phase detector up to which FILTER_RANGE is 1, 2, …; from the tool icepll."""

GOWIN_OUTPUT_DIVISORS = (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)


def _ecp5(reference: Fraction, wanted: Fraction) -> Iterator[PllPlan]:
    """EHXPLLL with the output CLKOP as its feedback: f = reference · CLKFB_DIV / CLKI_DIV."""
    for input_divisor in range(1, 129):
        detector = reference / input_divisor
        for feedback in _near(wanted / detector, 1, 80):
            frequency = detector * feedback
            for output in range(1, 129):
                if _ECP5.allow(detector, frequency * output, frequency):
                    # CPHASE is how many periods of the oscillator the edge is late: half a period of the output,
                    # the phase at which feedback and input agree.
                    parameters = {
                        "CLKI_DIV": input_divisor,
                        "CLKFB_DIV": feedback,
                        "CLKOP_DIV": output,
                        "CLKOP_CPHASE": output // 2,
                    }
                    yield _plan("ecp5", reference, frequency, frequency * output, parameters)


def _ice40(reference: Fraction, wanted: Fraction) -> Iterator[PllPlan]:
    """SB_PLL40 with simple feedback: f = reference · (DIVF + 1) / (DIVR + 1) / 2^DIVQ."""
    for divr in range(16):
        detector = reference / (divr + 1)
        for divq in range(1, 7):
            for factor in _near(wanted * (1 << divq) / detector, 1, 128):
                oscillator = detector * factor
                if _ICE40.allow(detector, oscillator, oscillator / (1 << divq)):
                    filters = sum(detector >= limit * 1_000_000 for limit in ICE40_FILTERS) + 1
                    parameters = {"DIVR": divr, "DIVF": factor - 1, "DIVQ": divq, "FILTER_RANGE": filters}
                    yield _plan("ice40", reference, oscillator / (1 << divq), oscillator, parameters)


def _gowin(family: str, limits: _Limits) -> Callable[[Fraction, Fraction], Iterator[PllPlan]]:
    """Settings of an rPLL: f = reference · (FBDIV_SEL + 1) / (IDIV_SEL + 1)."""

    def plans(reference: Fraction, wanted: Fraction) -> Iterator[PllPlan]:
        for input_divisor in range(1, 65):
            detector = reference / input_divisor
            for feedback in _near(wanted / detector, 1, 64):
                frequency = detector * feedback
                for output in GOWIN_OUTPUT_DIVISORS:
                    if limits.allow(detector, frequency * output, frequency):
                        parameters = {"IDIV_SEL": input_divisor - 1, "FBDIV_SEL": feedback - 1, "ODIV_SEL": output}
                        yield _plan(family, reference, frequency, frequency * output, parameters)

    return plans


PLL_FAMILIES: dict[str, Callable[[Fraction, Fraction], Iterator[PllPlan]]] = {
    "ecp5": _ecp5,
    "ice40": _ice40,
    "gw1nr-9": _gowin("gw1nr-9", _GW1NR_9),
    "gw2ar-18": _gowin("gw2ar-18", _GW2AR_18),
}
"""All settings near a wanted frequency that the data sheet allows, by the family of parts."""


def plan_pll(family: str, reference: float, wanted: float) -> PllPlan:
    """The setting nearest to a wanted frequency; of equally near ones that with the fastest phase detector.

    A fast phase detector corrects often, which keeps the jitter low.

    Parameters
    ----------
    family
        A key of `PLL_FAMILIES`.
    reference, wanted
        Hz.

    Raises
    ------
    ValueError
        Where no setting comes within 0.5 % of the wanted frequency, with the nearest one.
    """
    asked = Fraction(wanted)
    if asked <= 0 or reference <= 0:
        raise ValueError(f"a clock must be positive, not {float(wanted) / 1e6:g} MHz")
    plans = list(PLL_FAMILIES[family](Fraction(reference), asked))
    given = f"{float(reference) / 1e6:g} MHz"
    if not plans:
        raise ValueError(f"the PLL makes no clock near {float(wanted) / 1e6:g} MHz from {given}")
    # The tie is broken by the oscillator too: the slower one takes less power.
    best = min(plans, key=lambda plan: (abs(plan.frequency - asked), _input_divisor(plan), plan.oscillator))
    if abs(best.frequency - asked) > asked * TOLERANCE:
        raise ValueError(
            f"the PLL makes no clock within 0.5 % of {float(wanted) / 1e6:g} MHz from {given}; "
            f"the nearest is {float(best.frequency) / 1e6:.6g} MHz"
        )
    return best


def _plan(
    family: str, reference: Fraction, frequency: Fraction, oscillator: Fraction, parameters: dict[str, int]
) -> PllPlan:
    return PllPlan(
        family=family, reference=reference, frequency=frequency, oscillator=oscillator, parameters=parameters
    )


def _near(factor: Fraction, least: int, most: int) -> Iterator[int]:
    """The one or two whole numbers next to a factor, as far as they are in range."""
    below = int(factor)
    return (each for each in (below, below + 1) if least <= each <= most)


def _input_divisor(plan: PllPlan) -> int:
    names = ("CLKI_DIV", "DIVR", "IDIV_SEL")
    return next(plan.parameters[name] for name in names if name in plan.parameters)
