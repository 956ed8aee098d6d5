"""The register map, declared once: RTL, driver offsets, docs and the hand-off file are derived from it. NumPy only."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["CORE_ID", "CORE_VERSION", "REGISTERS", "ErrorCode", "Field", "Register", "register"]

CORE_ID = 0x68756C70
"""The ID register: "hulp" in ASCII."""

CORE_VERSION = 0x0001_0000
"""Major in the high half: changes when a driver must; minor in the low half."""


class ErrorCode(enum.IntEnum):
    """Why a GEMM was refused or stopped: STATUS.error_code."""

    NONE = 0
    ZERO_SIZE = 1
    K_TOO_LARGE = 2
    UNSUPPORTED_FORMAT = 3
    UNSUPPORTED_ROUNDING = 4
    MISALIGNED = 5
    SCALE_OUT_OF_RANGE = 6
    READ_ERROR = 7
    WRITE_ERROR = 8
    QUEUE_OVERFLOW = 9
    TOO_WIDE = 10


@dataclass(frozen=True)
class Field:
    """Bits [lsb + width - 1 : lsb] of a register."""

    name: str
    lsb: int
    width: int
    doc: str


@dataclass(frozen=True)
class Register:
    """A 32-bit register.

    access: ``ro`` read only; ``rw`` read and write; ``w1`` writing ones acts, reads 0. A register without `fields`
    is one number.
    """

    name: str
    offset: int
    access: str
    doc: str
    fields: tuple[Field, ...] = ()

    def field(self, name: str) -> Field:
        """The field of this name."""
        return next(f for f in self.fields if f.name == name)


def _pair(name: str, offset: int, access: str, doc: str) -> tuple[Register, Register]:
    return (
        Register(f"{name}_low", offset, access, f"{doc}: bits 31:0."),
        Register(f"{name}_high", offset + 4, access, f"{doc}: bits 63:32."),
    )


REGISTERS: tuple[Register, ...] = (
    # Identity and configuration: constants of the core.
    Register("id", 0x000, "ro", "Fixed word 0x68756C70."),
    Register("version", 0x004, "ro", "Version of this register map: major in bits 31:16, minor in bits 15:0."),
    Register(
        "config_array", 0x008, "ro", "Shape of the array.", (Field("rows", 0, 16, "R."), Field("columns", 16, 16, "C."))
    ),
    Register(
        "config_datapath",
        0x00C,
        "ro",
        "Datapath.",
        (
            Field("lanes", 0, 8, "L: results rounded a clock."),
            Field("bus_bytes", 8, 8, "Bytes a bus word."),
            Field("queue_depth", 16, 8, "Descriptors that can wait."),
            Field("reads_outstanding", 24, 8, "Read bursts in flight."),
        ),
    ),
    Register("config_buffer", 0x010, "ro", "Operand buffer depth: bus words a bank."),
    Register(
        "config_accumulator",
        0x014,
        "ro",
        "Accumulator.",
        (
            Field("kind", 0, 4, "0: exact; 1: a window of fixed point; 2: a float, rounded at each step."),
            Field("bits", 8, 8, "Width, sign included."),
            Field("pack_multipliers", 16, 1, "The products of two rows are made with one multiplier."),
            Field("shift_in_multipliers", 17, 1, "Multipliers shift floats by the low bits of their exponents."),
        ),
    ),
    Register("config_max_k", 0x018, "ro", "Largest K."),
    Register(
        "config_rounding",
        0x01C,
        "ro",
        "Rounding modes built in.",
        (Field("modes", 0, 4, "One bit a mode: nearest_even, toward_zero, stochastic, stochastic_floor."),),
    ),
    Register(
        "config_formats",
        0x020,
        "ro",
        "How many formats are built in.",
        (Field("a", 0, 4, "Formats of A."), Field("b", 4, 4, "Formats of B."), Field("out", 8, 4, "Output formats.")),
    ),
    Register(
        "config_accumulator_float",
        0x024,
        "ro",
        "A float accumulator; 0 of others.",
        (
            Field("exponent_bits", 0, 4, "Exponent bits."),
            Field("mantissa_bits", 4, 5, "Fraction bits."),
            Field("rounding_mode", 9, 2, "0 nearest_even, 1 toward_zero, 2 stochastic, 3 stochastic_floor."),
            Field("random_bits", 11, 5, "r, of the stochastic modes."),
            Field("overflow_ieee", 16, 1, "Overflow to Inf or NaN, not to the largest finite."),
            Field("specials", 17, 2, "What its topmost codes mean: 0 ieee, 1 fn, 2 finite."),
            Field("subnormals", 19, 1, "It has subnormal numbers."),
        ),
    ),
    Register(
        "config_accumulator_lsb", 0x028, "ro", "Exponent of a window's least place, two's complement; 0 of others."
    ),
    Register(
        "config_interleave", 0x02C, "ro", "P: outputs of a processing element, and clocks from a step to the next."
    ),
    Register(
        "config_block",
        0x030,
        "ro",
        "Block-scaled operands: the formats of A and B are those of elements; 0 where operands are plain.",
        (
            Field("length", 0, 16, "Elements that share a scale, along K."),
            Field("scale", 16, 4, "0: a power of two, e8m0; 1: an e4m3 number."),
        ),
    ),
    Register(
        "config_widths",
        0x034,
        "ro",
        "Widths of the descriptor, 0 of cores older than this register: 64 and 32; and what a small core lacks.",
        (
            Field("address_bits", 0, 8, "Of addresses."),
            Field("size_bits", 8, 8, "Of M, N, K and strides."),
            Field("no_counters", 16, 1, "Clocks are not counted: the counters read 0."),
            Field(
                "is_compact",
                17,
                1,
                "Registers are words of a memory and keep all that is written; GEMMs do not overlap.",
            ),
        ),
    ),
    *(
        Register(f"config_a_format{n}", 0x040 + 4 * n, "ro", f"Format {n} of A; 0 where there is none.")
        for n in range(8)
    ),
    *(
        Register(f"config_b_format{n}", 0x060 + 4 * n, "ro", f"Format {n} of B; 0 where there is none.")
        for n in range(8)
    ),
    *(
        Register(f"config_out_format{n}", 0x080 + 4 * n, "ro", f"Output format {n}; 0 where there is none.")
        for n in range(8)
    ),
    # Control and status.
    Register(
        "control",
        0x100,
        "w1",
        "Actions.",
        (
            Field("start", 0, 1, "Queue the GEMM that the descriptor registers hold."),
            Field("clear", 1, 1, "Clear the sticky status bits, the failing address and the counters."),
            Field(
                "reset", 2, 1, "Drop all queued GEMMs and stop the running one; bursts already promised are completed."
            ),
        ),
    ),
    Register(
        "status",
        0x104,
        "ro",
        "State and sticky flags.",
        (
            Field("busy", 0, 1, "A GEMM is running or queued."),
            Field("done", 1, 1, "Sticky: a GEMM has ended."),
            Field("error", 2, 1, "Sticky: a GEMM was refused or stopped; error_code says why."),
            Field("invalid", 3, 1, "Sticky: a NaN had no code in the output format."),
            Field("overflow", 4, 1, "Sticky: a result was beyond the largest finite one."),
            Field("queue_full", 5, 1, "No more descriptors fit."),
            Field("error_code", 8, 8, "First error since the last clear; see ErrorCode."),
        ),
    ),
    Register("completed", 0x108, "ro", "GEMMs ended since reset, modulo 2**32, refused ones included."),
    Register(
        "interrupt_enable",
        0x10C,
        "rw",
        "Interrupt line = (done and bit 0) or (error and bit 1).",
        (Field("done", 0, 1, "On done."), Field("error", 1, 1, "On error.")),
    ),
    *_pair("fail_address", 0x110, "ro", "Address of the first read or write burst that failed"),
    *_pair("cycles", 0x120, "ro", "Clocks while busy, since the last clear"),
    *_pair("array_busy_cycles", 0x128, "ro", "Clocks in which operands entered the array"),
    *_pair("read_stall_cycles", 0x130, "ro", "Clocks in which the array waited for operands"),
    *_pair("write_stall_cycles", 0x138, "ro", "Clocks in which the array waited for results to leave"),
    # Descriptor of the next GEMM.
    *_pair("a_address", 0x180, "rw", "Byte address of A"),
    *_pair("b_address", 0x188, "rw", "Byte address of B"),
    *_pair("c_address", 0x190, "rw", "Byte address of C"),
    Register("a_stride", 0x198, "rw", "Bytes from a row of A in memory to the next (of the layout that is set)."),
    Register("b_stride", 0x19C, "rw", "Bytes from a row of B in memory to the next."),
    Register("c_stride", 0x1A0, "rw", "Bytes from a row of C to the next."),
    Register("m", 0x1A4, "rw", "M: rows of A and C."),
    Register("n", 0x1A8, "rw", "N: columns of B and C."),
    Register("k", 0x1AC, "rw", "K: columns of A, rows of B. Scales count: blocks are a scale, then elements."),
    Register(
        "layout",
        0x1B0,
        "rw",
        "Operand layouts.",
        (
            Field("a_across_k", 0, 1, "0: A[m, k] at a + m·stride + k·bytes; 1: at a + k·stride + m·bytes."),
            Field("b_across_k", 1, 1, "0: B[k, n] at b + n·stride + k·bytes; 1: at b + k·stride + n·bytes."),
        ),
    ),
    Register(
        "formats",
        0x1B4,
        "rw",
        "Numbers of the formats.",
        (Field("a", 0, 8, "Of A."), Field("b", 8, 8, "Of B."), Field("out", 16, 8, "Of the output.")),
    ),
    Register(
        "rounding",
        0x1B8,
        "rw",
        "Output rounding.",
        (
            Field("mode", 0, 4, "0 nearest_even, 1 toward_zero, 2 stochastic, 3 stochastic_floor."),
            Field("overflow_ieee", 4, 1, "Overflow to Inf or NaN, not to the largest finite."),
            Field("random_bits", 8, 8, "r, 1 to 16, of the stochastic modes."),
        ),
    ),
    Register("scale", 0x1BC, "rw", "s, two's complement: results are multiplied by 2**s; -16384 to 16384."),
    *_pair("seed", 0x1C0, "rw", "Seed of the random bits"),
    Register("row_offset", 0x1C8, "rw", "Row of C[0, 0] in a larger GEMM of which this is a part; a multiple of 8."),
    Register("column_offset", 0x1CC, "rw", "Column of C[0, 0] in that GEMM; a multiple of 8."),
)

_BY_NAME = {r.name: r for r in REGISTERS}


def register(name: str) -> Register:
    """The register of this name."""
    return _BY_NAME[name]
