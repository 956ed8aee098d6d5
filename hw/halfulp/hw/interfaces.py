"""Shapes and signatures that the core's blocks share. A block's own shapes stay in its file.

Data flows: descriptor queue → scheduler → loader (AXI reads → operand buffers) and sequencer (buffers → array);
array → drain (rounding lanes) → writer (AXI writes).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from amaranth import unsigned
from amaranth.hdl import Module, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from halfulp.hw.config import ArrayConfig
from halfulp.hw.float_adder import sum_layout
from halfulp.numerics.accumulators import FixedAccumulator, FloatAccumulator

__all__ = [
    "ArrayFeedSignature",
    "AxiLiteSignature",
    "AxiReadSignature",
    "AxiWriteSignature",
    "descriptor_layout",
    "output_group_layout",
    "result_layout",
    "seed_layout",
    "tile_layout",
]


def payload_register(m: Module, port: Any) -> Any:
    """A register behind an output, of its shape, which a reset leaves as it is.

    For what counts only where something else says so, like a stream's payload: one net less over the whole core.
    """
    signal: Any = Value.cast(port)
    register = Signal(port.shape(), name=f"{signal.name}_register", reset_less=True)
    m.d.comb += port.eq(register)
    return register


def payload_registers(m: Module, interface: Any) -> SimpleNamespace:
    """Such registers behind all outputs of an interface but its `valid`."""
    members = interface.signature.members
    names = [name for name, member in members.items() if member.flow is Out and name != "valid"]
    return SimpleNamespace(**{name: payload_register(m, getattr(interface, name)) for name in names})


def descriptor_layout(config: ArrayConfig) -> data.StructLayout:
    """One GEMM as the descriptor registers give it, after its checks. Field names are the registers'.

    Seed and offsets have no bits where nothing is rounded at random.
    """
    address, size = unsigned(config.address_bits), unsigned(config.size_bits)
    random = config.draws_random_bits
    return data.StructLayout(
        {
            "a_address": address,
            "b_address": address,
            "c_address": address,
            "a_stride": size,
            "b_stride": size,
            "c_stride": size,
            "m": size,
            "n": size,
            "k": size,
            "a_across_k": unsigned(1),
            "b_across_k": unsigned(1),
            "a_format": unsigned(3),
            "b_format": unsigned(3),
            "out_format": unsigned(3),
            "rounding_mode": unsigned(2),
            "overflow_ieee": unsigned(1),
            "random_bits": unsigned(5),
            "scale": signed(16),
            "seed": unsigned(64 if random else 0),
            "row_offset": unsigned(32 if random else 0),
            "column_offset": unsigned(32 if random else 0),
        }
    )


def tile_layout(config: ArrayConfig) -> data.StructLayout:
    """One output tile, handed to the drain: where its results are in C, and how they are rounded.

    row, column: i and j of its first result, in the larger GEMM where the descriptor's is a part of one; rows,
    columns: how many are valid (1 to R, 1 to C); address: of C[row, column]; last: no further tile in this GEMM. The
    others are the descriptor's.
    """
    position = unsigned(32 if config.draws_random_bits else config.size_bits)
    return data.StructLayout(
        {
            "row": position,
            "column": position,
            "rows": unsigned(ceil_log2(config.rows + 1)),
            "columns": unsigned(ceil_log2(config.columns + 1)),
            "address": unsigned(config.address_bits),
            "c_stride": unsigned(config.size_bits),
            "a_format": unsigned(3),
            "b_format": unsigned(3),
            "out_format": unsigned(3),
            "rounding_mode": unsigned(2),
            "overflow_ieee": unsigned(1),
            "random_bits": unsigned(5),
            "scale": signed(16),
            "seed": unsigned(64 if config.draws_random_bits else 0),
            "last": unsigned(1),
        }
    )


def output_group_layout(config: ArrayConfig) -> data.StructLayout:
    """Up to L neighbouring results of one row of C, on their way from the drain to the writer.

    codes: each in the low bits of a field as wide as the widest output's container; count: how many are valid, from
    index 0 (1 to L); bytes_log2: 0, 1 or 2, for codes of 1, 2 or 4 bytes; address: of the first code; last_of_row: of
    this tile's row; last_of_gemm.
    """
    return data.StructLayout(
        {
            "codes": data.ArrayLayout(unsigned(8 * config.out_bytes), config.lanes),
            "count": unsigned(ceil_log2(config.lanes + 1)),
            "bytes_log2": unsigned(2),
            "address": unsigned(config.address_bits),
            "last_of_row": unsigned(1),
            "last_of_gemm": unsigned(1),
        }
    )


def result_layout(config: ArrayConfig) -> data.StructLayout:
    """One accumulated sum: an integer in units of both formats' least ulps, and what NaN and Inf operands made of it.

    When `nan` is set, or both infinities are, the sum is NaN; else one infinity decides. A float accumulator's number
    is its code: `negative`, and `magnitude` without the sign; `overflow`: a step was beyond its largest number. A
    `fixed` accumulator's integer is in its own units, and has `overflow` too.
    """
    if isinstance(config.accumulator, FloatAccumulator):
        return sum_layout(config.accumulator, ("nan", "plus_inf", "minus_inf"))
    fields = {"sum": signed(config.accumulator_bits), "nan": unsigned(1)}
    fields |= {"plus_inf": unsigned(1), "minus_inf": unsigned(1)}
    if isinstance(config.accumulator, FixedAccumulator):
        fields["overflow"] = unsigned(1)
    return data.StructLayout(fields)


def seed_layout(config: ArrayConfig) -> data.StructLayout:
    """A row's or column's first random word of the tile that starts next.

    index: of the row, or R + that of the column.
    """
    return data.StructLayout({"valid": 1, "index": range(config.rows + config.columns), "word": 32})


class ArrayFeedSignature(wiring.Signature):
    """Operands entering the array: codes at its left and upper edge, already skewed.

    `a_code[i]` belongs to step k in the clock i clocks after `valid` of that step, `b_code[j]` j clocks after it;
    `first` and `last` mark the tile's first and last step; nothing is accumulated where `valid` is 0 (a bubble may
    stand between any two steps). `a_format` and `b_format` are constant over a tile and belong to the step like
    `first` (not skewed: the array delays them). Interleaved P times, a step comes at most every P clocks, always a
    multiple of P clocks behind the one before, unless all of that one's tile has left the array.

    `seed`, where the accumulator is rounded at random: the words of the tile that starts next, all R + C of them
    between the first step of the tile before, from 20 clocks behind it and in the order of the index, and its own.
    """

    def __init__(self, config: ArrayConfig) -> None:
        members: dict[str, Any] = {
            "valid": Out(1),
            "first": Out(1),
            "last": Out(1),
            "a_format": Out(3),
            "b_format": Out(3),
            "a_code": Out(data.ArrayLayout(unsigned(8 * config.a_bytes), config.rows)),
            "b_code": Out(data.ArrayLayout(unsigned(8 * config.b_bytes), config.columns)),
        }
        if config.step_random_bits:
            members["seed"] = Out(seed_layout(config))
        super().__init__(members)


class AxiLiteSignature(wiring.Signature):
    """AXI4-Lite of 32 bits, as the initiator sees it. Names are the standard's, so that vendor tools infer it."""

    def __init__(self, address_width: int = 12) -> None:
        super().__init__(
            {
                "awaddr": Out(address_width),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_width),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class AxiReadSignature(wiring.Signature):
    """The read channels of AXI4 (64-bit addresses, INCR bursts, one id), as the initiator sees them."""

    def __init__(self, bus_width: int) -> None:
        super().__init__(
            {
                "arid": Out(1),
                "araddr": Out(64),
                "arlen": Out(8),
                "arsize": Out(3),
                "arburst": Out(2),
                "arlock": Out(1),
                "arcache": Out(4),
                "arprot": Out(3),
                "arqos": Out(4),
                "arvalid": Out(1),
                "arready": In(1),
                "rid": In(1),
                "rdata": In(bus_width),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class AxiWriteSignature(wiring.Signature):
    """The write channels of AXI4, as the initiator sees them."""

    def __init__(self, bus_width: int) -> None:
        super().__init__(
            {
                "awid": Out(1),
                "awaddr": Out(64),
                "awlen": Out(8),
                "awsize": Out(3),
                "awburst": Out(2),
                "awlock": Out(1),
                "awcache": Out(4),
                "awprot": Out(3),
                "awqos": Out(4),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(bus_width),
                "wstrb": Out(bus_width // 8),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bid": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
            }
        )


def tile_stream(config: ArrayConfig) -> stream.Signature:
    """Tiles from the sequencer to the drain."""
    return stream.Signature(tile_layout(config))


def output_stream(config: ArrayConfig) -> stream.Signature:
    """Rounded results from the drain to the writer."""
    return stream.Signature(output_group_layout(config))
