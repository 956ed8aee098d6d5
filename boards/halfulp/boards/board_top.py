"""The top of a build with open tools: clock, reset, serial pins and LEDs of a board around a design."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.lib import io

from halfulp.boards.board import SerialBoard
from halfulp.boards.pll import PllPlan

__all__ = ["DESIGN", "BoardTop"]

DESIGN = "halfulp_design"
"""Name of the Verilog module inside, with the ports ``clk``, ``rst``, ``rx`` and ``tx``."""

RESET_SECONDS = 15e-6
"""How long reset lasts once the clock is stable: block RAM of iCE40 reads 0 for its first microseconds."""

FLASH_SECONDS = 0.05
"""How long the second LED shows a byte."""


class BoardTop(Elaboratable):
    """What lies between a board's pins and the design.

    Parameters
    ----------
    board
        Pins and PLL.
    pll
        Setting of the PLL, or None where the design runs on the board's own clock.
    """

    def __init__(self, *, board: SerialBoard, pll: PllPlan | None) -> None:
        self._board = board
        self._pll = pll

    @property
    def frequency(self) -> float:
        """Of the design's clock, in Hz."""
        return float(self._pll.frequency) if self._pll else self._board.oscillator_mhz * 1e6

    def elaborate(self, platform: Any) -> Module:
        """Build the top for Amaranth's `platform` of the board."""
        m = Module()
        locked = self._clock(m, platform)
        # No reset of its own: it counts from what the configuration loads.
        m.domains.start = ClockDomain(reset_less=True, local=True)
        m.domains.sync = ClockDomain()
        m.d.comb += [ClockSignal("sync").eq(self._sync), ClockSignal("start").eq(self._sync)]
        wait = int(RESET_SECONDS * self.frequency)
        waited, ready, stable = Signal(range(wait + 1)), Signal(), Signal(2)
        m.d.start += stable.eq(Cat(locked, stable[0]))
        with m.If(~stable[1]):
            m.d.start += [waited.eq(0), ready.eq(0)]
        with m.Elif(waited == wait):
            m.d.start += ready.eq(1)
        with m.Else():
            m.d.start += waited.eq(waited + 1)
        m.d.comb += ResetSignal("sync").eq(~ready)

        uart = _ports(platform, "uart", 0)
        m.submodules.rx_buffer = rx = io.Buffer(io.Direction.Input, uart.rx)
        m.submodules.tx_buffer = tx = io.Buffer(io.Direction.Output, uart.tx)
        m.submodules.design = Instance(DESIGN, i_clk=ClockSignal(), i_rst=ResetSignal(), i_rx=rx.i, o_tx=tx.o)
        self._leds(m, platform, rx.i, tx.o)
        return m

    def _clock(self, m: Module, platform: Any) -> Any:
        """Drive `_sync`, and return what is 1 while it is stable."""
        self._sync = Signal(name="clock")
        pin = platform.request(platform.default_clk, dir="-")
        if self._pll is None:
            m.submodules.clock_buffer = buffer = io.Buffer(io.Direction.Input, pin)
            m.d.comb += self._sync.eq(buffer.i)
            return Const(1)
        source: Any = pin.io
        if not self._board.pll_on_pad:
            m.submodules.clock_buffer = buffer = io.Buffer(io.Direction.Input, pin)
            source = buffer.i
        locked = Signal(name="locked")
        m.submodules.pll = PRIMITIVES[self._pll.family](self._pll, source, self._sync, locked, self._board.pll_on_pad)
        platform.add_clock_constraint(self._sync, self.frequency)
        return locked

    def _leds(self, m: Module, platform: Any, *wires: Any) -> None:
        leds = [_led(platform, name) for name in self._board.leds]
        # Two counters, for one as long as the clock's rate in bits would limit that rate on the smallest parts.
        low, high, carry = Signal(12), Signal(range(int(self.frequency) >> 12)), Signal()
        m.d.sync += [Cat(low, carry).eq(low + 1), high.eq(high + carry)]
        if leds:
            m.submodules.beat_buffer = first = io.Buffer(io.Direction.Output, leds[0])
            m.d.comb += first.o.eq(high[-1])
        if len(leds) > 1:
            clocks = int(FLASH_SECONDS * self.frequency)
            left, seen = Signal(range(clocks + 1)), Signal(2)
            idle = wires[0]
            for wire in wires[1:]:
                idle = idle & wire
            m.d.sync += seen.eq(Cat(idle, seen[0]))
            with m.If(~seen[1]):
                m.d.sync += left.eq(clocks)
            with m.Elif(left != 0):
                m.d.sync += left.eq(left - 1)
            m.submodules.traffic_buffer = second = io.Buffer(io.Direction.Output, leds[1])
            m.d.comb += second.o.eq(left != 0)


def _ports(platform: Any, name: str, number: int) -> Any:
    """The ports of a resource, without buffers; of one with parts, all of them."""
    parts = [str(part.name) for part in platform.lookup(name, number).ios if hasattr(part, "ios")]
    return platform.request(name, number, dir=dict.fromkeys(parts, "-") if parts else "-")


def _led(platform: Any, name: str) -> Any:
    resource, number, *parts = name.split(":")
    ports = _ports(platform, resource, int(number))
    return getattr(ports, parts[0]) if parts else ports


def _ecp5(plan: PllPlan, source: Any, clock: Signal, locked: Signal, on_pad: bool) -> Instance:
    mhz = {"a_FREQUENCY_PIN_CLKI": plan.reference, "a_FREQUENCY_PIN_CLKOP": plan.frequency}
    # Loop filter as Lattice's tools and ecppll set it for every frequency.
    filters = {"ICP_CURRENT": "12", "LPF_RESISTOR": "8", "MFG_ENABLE_FILTEROPAMP": "1", "MFG_GMCREF_SEL": "2"}
    return Instance(
        "EHXPLLL",
        **{name: f"{float(hertz) / 1e6:g}" for name, hertz in mhz.items()},
        **{f"a_{name}": value for name, value in filters.items()},
        **{f"p_{name}": value for name, value in plan.parameters.items()},
        p_FEEDBK_PATH="CLKOP",
        p_CLKOP_ENABLE="ENABLED",
        p_CLKOP_FPHASE=0,
        i_CLKI=source,
        i_CLKFB=clock,
        i_RST=Const(0),
        i_STDBY=Const(0),
        i_PHASESEL0=Const(0),
        i_PHASESEL1=Const(0),
        i_PHASEDIR=Const(1),
        i_PHASESTEP=Const(1),
        i_PHASELOADREG=Const(1),
        i_PLLWAKESYNC=Const(0),
        i_ENCLKOP=Const(0),
        o_CLKOP=clock,
        o_LOCK=locked,
    )


def _ice40(plan: PllPlan, source: Any, clock: Signal, locked: Signal, on_pad: bool) -> Instance:
    widths = {"DIVR": 4, "DIVF": 7, "DIVQ": 3, "FILTER_RANGE": 3}
    return Instance(
        "SB_PLL40_PAD" if on_pad else "SB_PLL40_CORE",
        p_FEEDBACK_PATH="SIMPLE",
        **{f"p_{name}": Const(value, widths[name]) for name, value in plan.parameters.items()},
        **{"i_PACKAGEPIN" if on_pad else "i_REFERENCECLK": source},
        i_RESETB=Const(1),
        i_BYPASS=Const(0),
        o_PLLOUTGLOBAL=clock,
        o_LOCK=locked,
    )


def _gowin(plan: PllPlan, source: Any, clock: Signal, locked: Signal, on_pad: bool) -> Instance:
    unused = {"FBDSEL": 6, "IDSEL": 6, "ODSEL": 6, "PSDA": 4, "DUTYDA": 4, "FDLY": 4}
    return Instance(
        "rPLL",
        p_FCLKIN=f"{float(plan.reference) / 1e6:g}",
        p_DEVICE={"gw1nr-9": "GW1NR-9C", "gw2ar-18": "GW2AR-18C"}[plan.family],
        **{f"p_{name}": value for name, value in plan.parameters.items()},
        **{f"i_{name}": Const(0, width) for name, width in unused.items()},
        i_CLKIN=source,
        i_CLKFB=Const(0),
        i_RESET=Const(0),
        i_RESET_P=Const(0),
        o_CLKOUT=clock,
        o_LOCK=locked,
    )


PRIMITIVES = {"ecp5": _ecp5, "ice40": _ice40, "gw1nr-9": _gowin, "gw2ar-18": _gowin}
"""Each family's PLL: what makes the instance of it."""
