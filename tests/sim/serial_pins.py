"""cocotb's bench of a core behind its serial pins, and what runs it: ``python serial_pins.py build|simulate FOLDER``.

FOLDER holds the Verilog.

The host's own driver and link talk through cocotbext-uart, a serial line that is not this project's.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles, Timer
from cocotb_tools.runner import get_runner
from cocotbext.uart import UartSink, UartSource

from halfulp.host.serial_device import SerialDevice
from halfulp.hw.config import ArrayConfig
from halfulp.numerics.gemm import GemmSpec, golden_gemm

CONFIG = ArrayConfig(
    rows=2,
    columns=2,
    lanes=1,
    a_formats="int8",
    b_formats="int8",
    out_formats=("int32", "int8"),
    accumulator="exact:256",
    roundings=("nearest_even", "stochastic"),
    buffer_depth=64,
    reads_outstanding=2,
)
BAUD = 3_000_000
CLOCK_PS = 40_000  # 25 MHz
CLOCKS_A_BIT = 1e12 / CLOCK_PS / BAUD  # 8.33
MEMORY_BYTES = 1024
SPECS = (GemmSpec("int8", "int8", "int32"), GemmSpec("int8", "int8", "int8", rounding="stochastic:6", scale=-9))
"""One that rounds nothing and one with random bits; a GEMM of the shapes below is cut in several parts."""


class Pins:
    """A `BytePort` made of simulated pins: as much simulated time passes as the host waits for bytes."""

    def __init__(self, dut: Any) -> None:
        self._source, self._sink = UartSource(dut.rx, baud=BAUD), UartSink(dut.tx, baud=BAUD)
        # Off by 1.5 %, as two oscillators and an integer divisor may be.
        self._source._baud = round(BAUD * 1.015)
        self._source._restart()
        for port in (self._source, self._sink):
            port.log.setLevel("WARNING")

    def read(self, timeout_s: float) -> bytes:
        return self._read()

    @resume
    async def _read(self) -> bytes:
        for _ in range(50):
            if not self._sink.empty():
                return bytes(self._sink.read_nowait())
            await Timer(20, "us")
        return b""

    def write(self, raw: bytes) -> None:
        self._write(raw)

    @resume
    async def _write(self, raw: bytes) -> None:
        self._source.write_nowait(raw)

    def close(self) -> None:
        pass


async def glitches(dut: Any, rng: random.Random) -> None:
    """Now and then a level of a third of a bit on the line, whatever is sent."""
    while True:
        await Timer(rng.randrange(200, 1500), "us")
        dut.rx.value = 1 - int(dut.rx.value)
        await Timer(110, "ns")
        dut.rx.value = 1


def run_gemms(device: SerialDevice, rng: np.random.Generator, shapes: list[tuple[int, int, int]]) -> None:
    for number, (m, k, n) in enumerate(shapes):
        spec = SPECS[number % 2]
        a, b = rng.integers(0, 256, (m, k), np.uint8), rng.integers(0, 256, (k, n), np.uint8)
        np.testing.assert_array_equal(device.gemm(a, b, spec, seed=5).codes, golden_gemm(a, b, spec, seed=5).codes)


async def start(dut: Any) -> Pins:
    dut.rx.value = 1
    dut.aresetn.value = 0
    Clock(dut.aclk, CLOCK_PS, "ps").start()
    await ClockCycles(dut.aclk, 10)
    dut.aresetn.value = 1
    return Pins(dut)


@cocotb.test()
async def gemms_through_the_pins(dut: Any) -> None:
    """A GEMM, and one that the host cuts, on a line whose rate is a little off."""
    pins, rng = await start(dut), np.random.default_rng(int(os.environ["HALFULP_SEED"]))

    @bridge
    def run() -> None:
        device = SerialDevice("pins", pins, baud=BAUD, reply_timeout_s=60, timeout_s=60)
        run_gemms(device, rng, [(3, 20, 5), (13, 40, 11)])
        assert device.config == CONFIG
        assert device.link.stats.recoveries == 0

    await run()


@cocotb.test()
async def gemms_through_a_line_with_glitches(dut: Any) -> None:
    """The same on a line that is disturbed between the levels: repeated until it is right."""
    pins, rng = await start(dut), np.random.default_rng(int(os.environ["HALFULP_SEED"]))
    cocotb.start_soon(glitches(dut, random.Random(1)))

    @bridge
    def run() -> None:
        device = SerialDevice("pins", pins, baud=BAUD, reply_timeout_s=60, timeout_s=60, retries=100)
        run_gemms(device, rng, [(3, 20, 5), (5, 30, 4)])
        assert device.link.stats.recoveries > 0

    await run()


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    runner = get_runner("verilator")
    if what == "build":
        ports = "".join(f'public_flat_rw -module "halfulp_core" -var "{p}"\n' for p in ("aclk", "aresetn", "rx", "tx"))
        (folder / "ports.vlt").write_text(f"`verilator_config\n{ports}", encoding="utf-8")
        runner.build(
            sources=[folder / "ports.vlt", folder / "core.v"],
            hdl_toplevel="halfulp_core",
            build_dir=folder,
            build_args=["--no-public-flat-rw", "-Wno-fatal", "-Wno-lint", "-CFLAGS", "-O0"],
            timescale=("1ns", "1ps"),
            always=True,
        )
    else:
        runner.test(
            test_module="serial_pins",
            hdl_toplevel="halfulp_core",
            hdl_toplevel_lang="verilog",
            build_dir=folder,
            test_dir=Path.cwd(),
            results_xml=str(Path.cwd() / "results.xml"),
            timescale=("1ns", "1ps"),
        )
