"""`ArrayConfig`: the one description of a core that generates, names, sizes and drives it. NumPy only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from halfulp.hw.config_rules import (
    BLOCK_SCALES,
    BURST_BEATS,
    MAX_FORMATS,
    MAX_INTEGER_BITS,
    MAX_INTERLEAVE,
    check_arithmetic,
    check_compact,
    check_packing,
    check_sizes,
    format_names,
)
from halfulp.numerics.accumulators import (
    Accumulator,
    ExactAccumulator,
    FixedAccumulator,
    FloatAccumulator,
    parse_accumulator,
)
from halfulp.numerics.block_formats import BlockFormat, block_format_of, get_any_format
from halfulp.numerics.block_gemm import AnyGemmSpec
from halfulp.numerics.formats import Format, get_format
from halfulp.numerics.names import unknown_name
from halfulp.numerics.rounding import KINDS

__all__ = [
    "BLOCK_SCALES",
    "BURST_BEATS",
    "MAX_INTEGER_BITS",
    "MAX_INTERLEAVE",
    "POSITION_REGISTERS",
    "SIZE_REGISTERS",
    "ArrayConfig",
    "UnsupportedSpecError",
]

SIZE_REGISTERS = ("a_stride", "b_stride", "c_stride", "m", "n", "k")
"""As wide as `size_bits` says."""

POSITION_REGISTERS = ("seed_low", "seed_high", "row_offset", "column_offset")
"""What only random bits depend on."""

LARGEST_K = 1 << 20
"""max_k of accumulators that are rounded at each step: they hold any sum, but steps are counted."""

FormatNames: TypeAlias = str | Format | BlockFormat | Sequence[str | Format | BlockFormat]
"""One format or several, each as an object or by name."""


class UnsupportedSpecError(ValueError):
    """A GEMM that a core cannot run; the message names what the core has."""


@dataclass(frozen=True, kw_only=True)
class ArrayConfig:
    """One accelerator core.

    Parameters
    ----------
    rows, columns
        R and C: processing elements of the output-stationary array, 1 to 64 each.
    a_formats, b_formats, out_formats
        Operand and output formats, selectable a GEMM; the position in the tuple is the number in the registers. Where
        operands are block-scaled formats, all of one block and kind of scale, `a_formats` and `b_formats` hold their
        elements' formats, and `block` and `block_scale` the rest.
    accumulator
        `ExactAccumulator` with its max_k, a `FixedAccumulator` or a `FloatAccumulator`.
    roundings
        Rounding modes built in, of ``nearest_even``, ``toward_zero``, ``stochastic``, ``stochastic_floor``.
    lanes
        L: results rounded a clock at the array's edge; 1, 2, 4 or 8, dividing `columns`.
    bus_width
        AXI data width in bits: 32, 64 or 128.
    buffer_depth
        Bus words a bank (a bank serves one row or one column); a power of two, at least 4 blocks of 16 words.
    queue_depth
        Descriptors that can wait: a power of two up to 64.
    reads_outstanding
        Read bursts in flight.
    address_bits
        Width of the addresses of operands and results: 12 to 64. The ports of the bus stay 64 bits wide.
    size_bits
        Width of M, N, K and of the bytes from row to row: 8 to 32, enough for max_k. A small core's addresses and
        sizes are a large part of it.
    interleave
        P, a divisor of `rows`: each of R/P × C processing elements keeps P neighbouring outputs of a column, in turn,
        and a step of K is issued every P clocks. Gives the adder of a float accumulator P clocks a step, 1 to 6.
    block, block_scale
        Elements that share a scale, along K, and what a scale is: ``e8m0`` or ``e4m3``; block 0: operands are plain.
        Sums inside a block are exact; the accumulator, a float, is rounded once a block. In memory each block's scale
        lies in front of its elements, in a container of their size.
    pack_multipliers
        Make the products of two neighbouring rows with one multiplier, of 25 × 18 bits as in AMD's DSP blocks, and add
        them in lookup tables: for integer operands of at most 8 bits, an exact accumulator and an even number of rows.
        Results and clocks are the same.
    shift_in_multipliers
        Multiply floats in DSP blocks of 25 × 18 bits, which do a part of the shifting too: with an exact accumulator,
        a third fewer lookup tables a processing element. Results and clocks are the same.
    counters
        Count clocks: those while busy, those in which operands enter the array, and those in which it waits.
    compact
        Build from as few cells as there is a way to, for small parts: registers are words of a memory block, from which
        a GEMM is read after its start; no other GEMM is taken before it has ended; there are fewer registers on the way
        of operands and results. Takes more clocks, and no counters. `queue_depth` is 1, `reads_outstanding` may be.
    """

    rows: int = 8
    columns: int = 8
    a_formats: tuple[Format, ...] = (get_format("float8_e4m3fn"), get_format("float8_e5m2"))
    b_formats: tuple[Format, ...] = (get_format("float8_e4m3fn"),)
    out_formats: tuple[Format, ...] = tuple(map(get_format, ("float32", "bfloat16", "float8_e4m3fn", "float8_e5m2")))
    accumulator: Accumulator = field(default_factory=lambda: ExactAccumulator(8192))
    roundings: tuple[str, ...] = KINDS
    lanes: int = 4
    bus_width: int = 64
    buffer_depth: int = 512
    queue_depth: int = 4
    reads_outstanding: int = 16
    address_bits: int = 64
    size_bits: int = 32
    interleave: int = 1
    block: int = 0
    block_scale: str = "e8m0"
    pack_multipliers: bool = False
    shift_in_multipliers: bool = False
    counters: bool = True
    compact: bool = False

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            rows: int = ...,
            columns: int = ...,
            a_formats: FormatNames = ...,
            b_formats: FormatNames = ...,
            out_formats: FormatNames = ...,
            accumulator: str | Accumulator = ...,
            roundings: str | Sequence[str] = ...,
            lanes: int = ...,
            bus_width: int = ...,
            buffer_depth: int = ...,
            queue_depth: int = ...,
            reads_outstanding: int = ...,
            address_bits: int = ...,
            size_bits: int = ...,
            interleave: int = ...,
            block: int = ...,
            block_scale: str = ...,
            pack_multipliers: bool = ...,
            shift_in_multipliers: bool = ...,
            counters: bool = ...,
            compact: bool = ...,
        ) -> None:
            # What the constructor takes: names serve as well as the objects that the attributes then hold.
            ...

    def __post_init__(self) -> None:
        for name in ("a_formats", "b_formats", "out_formats"):
            given = getattr(self, name)
            if isinstance(given, (str, Format, BlockFormat)):
                given = (given,)
            formats = tuple(get_any_format(f) for f in given)
            if name == "out_formats" and any(isinstance(f, BlockFormat) for f in formats):
                raise ValueError(f"{name} must be plain formats, not {', '.join(map(str, formats))}")
            object.__setattr__(self, name, formats)
        self._take_blocks()
        for name in ("a_formats", "b_formats", "out_formats"):
            formats = getattr(self, name)
            if not 1 <= len(formats) <= MAX_FORMATS or len(set(formats)) != len(formats):
                raise ValueError(f"{name} must be 1 to {MAX_FORMATS} different formats, not {format_names(formats)}")
        object.__setattr__(self, "accumulator", parse_accumulator(self.accumulator))
        roundings = (self.roundings,) if isinstance(self.roundings, str) else tuple(self.roundings)
        object.__setattr__(self, "roundings", roundings)
        check_sizes(self)
        check_arithmetic(self)
        check_packing(self)
        check_compact(self)
        if self.max_k >> self.size_bits:
            raise ValueError(
                f"size_bits = {self.size_bits} holds no max_k = {self.max_k}: take {self.max_k.bit_length()} or more"
            )

    def _take_blocks(self) -> None:
        """Part block-scaled operand formats into those of their elements, and what they have in common."""
        given: tuple[Format | BlockFormat, ...] = (*self.a_formats, *self.b_formats)
        kinds = {(f.block, f.scale) for f in given if isinstance(f, BlockFormat)}
        if not kinds:
            return
        if self.block:
            kinds.add((self.block, self.block_scale))
        if len(kinds) > 1 or not (self.block or all(isinstance(f, BlockFormat) for f in given)):
            told = f" and block = {self.block}, block_scale = {self.block_scale}" if self.block else ""
            raise ValueError(
                "operands of a core are all plain, or all block-scaled with one block length and kind of scale, "
                f"not {', '.join(map(str, dict.fromkeys(given)))}{told}"
            )
        ((block, scale),) = kinds
        object.__setattr__(self, "block", block)
        object.__setattr__(self, "block_scale", scale)
        for name in ("a_formats", "b_formats"):
            formats = (f.element if isinstance(f, BlockFormat) else f for f in getattr(self, name))
            object.__setattr__(self, name, tuple(formats))

    @property
    def rows_per_element(self) -> int:
        """Rows of the tile that one row of processing elements computes."""
        return 2 if self.pack_multipliers else self.interleave

    @property
    def max_k(self) -> int:
        """Largest K: what the accumulator holds exactly, or where it is rounded at each step, what can be counted."""
        exact = self.accumulator
        counted = min(LARGEST_K, (1 << self.size_bits) - 1)
        return exact.max_k or counted if isinstance(exact, ExactAccumulator) else counted

    @property
    def operands(self) -> tuple[tuple[Format | BlockFormat, ...], tuple[Format | BlockFormat, ...]]:
        """The formats of A and of B, block-scaled ones whole."""
        if not self.block:
            return self.a_formats, self.b_formats
        a, b = (
            tuple(block_format_of(fmt, self.block, self.block_scale) for fmt in side)
            for side in (self.a_formats, self.b_formats)
        )
        return a, b

    @property
    def accumulator_bits(self) -> int:
        """Width of a PE's accumulator, sign included.

        An exact one is the widest that some pair of the operand formats needs, a float one its format's code.
        """
        if isinstance(self.accumulator, FixedAccumulator):
            return self.accumulator.width
        if isinstance(self.accumulator, FloatAccumulator):
            return self.accumulator.format.bits
        return max(ExactAccumulator.width(a, b, self.max_k) for a in self.a_formats for b in self.b_formats)

    @property
    def block_product_bits(self) -> int:
        """Width of a product's magnitude inside a block, in units of each side's least ulp."""
        return self._largest_product.bit_length()

    @property
    def block_sum_bits(self) -> int:
        """Width of the exact sum inside a block, sign included, in the same units."""
        return (self._largest_product * self.block).bit_length() + 1

    @property
    def _largest_product(self) -> int:
        a, b = (
            max(f.max_units << (f.lsb_exponent - min(g.lsb_exponent for g in side)) for f in side)
            for side in (self.a_formats, self.b_formats)
        )
        return a * b

    def steps(self, k: int) -> int:
        """Steps of a GEMM of this K: one more for each block's scale. It is the K of the descriptor."""
        return k + -(-k // self.block) if self.block else k

    @property
    def step_random_bits(self) -> int:
        """Random bits that a rounding in the accumulator takes; 0 where there is none, or it is deterministic."""
        return self.accumulator.rounding.random_bits if isinstance(self.accumulator, FloatAccumulator) else 0

    @property
    def draws_random_bits(self) -> bool:
        """Whether anything is rounded at random, so that a result depends on the seed and on where it is in C."""
        return self.step_random_bits > 0 or any(kind.startswith("stochastic") for kind in self.roundings)

    def register_bits(self, name: str) -> int:
        """Bits that the core makes use of in a descriptor register that is one number; see `registers.REGISTERS`."""
        if name.endswith("_address_low"):
            return min(self.address_bits, 32)
        if name.endswith("_address_high"):
            return max(self.address_bits - 32, 0)
        if name in SIZE_REGISTERS:
            return self.size_bits
        return 0 if name in POSITION_REGISTERS and not self.draws_random_bits else 32

    @property
    def bus_bytes(self) -> int:
        """Bytes a bus word."""
        return self.bus_width // 8

    @property
    def a_bytes(self) -> int:
        """Bytes in memory of each A element: the container of the widest A format, for all of them."""
        return max(f.container_bytes for f in self.a_formats)

    @property
    def b_bytes(self) -> int:
        """Bytes in memory of each B element."""
        return max(f.container_bytes for f in self.b_formats)

    @property
    def out_bytes(self) -> int:
        """Bytes of the widest output format's container; each format's results are written in its own."""
        return max(f.container_bytes for f in self.out_formats)

    @property
    def name(self) -> str:
        """Short name of this configuration, unique by its hash: names builds and caches."""
        data = self.to_dict()
        if self.interleave == 1:
            # Cores that are not interleaved keep the names, and so the builds, that they had before there was a choice.
            del data["interleave"]
        if not self.block:
            del data["block"], data["block_scale"]  # for the same reason
        for name in ("pack_multipliers", "shift_in_multipliers"):
            if not data[name]:
                del data[name]
        usually = {"address_bits": 64, "size_bits": 32, "counters": True, "compact": False}
        for name, usual in usually.items():
            if data[name] == usual:
                del data[name]  # likewise
        digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]
        return f"halfulp_{self.rows}x{self.columns}_{self.a_formats[0]}_{digest}"

    def check_spec(self, spec: AnyGemmSpec, k: int | None = None) -> None:
        """Raise `UnsupportedSpecError` where this core cannot run `spec` (with that K), naming what it has."""
        a_formats, b_formats = self.operands
        for role, fmt, have in (
            ("A", spec.a, a_formats),
            ("B", spec.b, b_formats),
            ("output", spec.out, self.out_formats),
        ):
            if fmt not in have:
                raise UnsupportedSpecError(f"{role} format {fmt} is not built in; the core has {format_names(have)}")
        if spec.rounding.kind not in self.roundings:
            raise UnsupportedSpecError(
                f"rounding {spec.rounding} is not built in; the core has {', '.join(self.roundings)}"
            )
        limit = self.max_k
        if isinstance(self.accumulator, ExactAccumulator) and isinstance(spec.accumulator, ExactAccumulator):
            limit = min(limit, spec.accumulator.max_k or limit)
        elif spec.accumulator != self.accumulator:
            have = "exact" if isinstance(self.accumulator, ExactAccumulator) else self.accumulator
            raise UnsupportedSpecError(f"accumulator {spec.accumulator} is not built in; the core has {have}")
        if k is not None and self.steps(k) > limit:
            kind = "exact accumulator" if isinstance(self.accumulator, ExactAccumulator) else "core"
            scales = f", with its scales {self.steps(k)}," if self.block else ""
            raise UnsupportedSpecError(f"K = {k}{scales} is beyond the {kind}'s max_k = {limit}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON or TOML data; `from_dict` reads it back."""
        data: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("a_formats", "b_formats", "out_formats"):
            data[name] = [f.name for f in data[name]]
        data["accumulator"] = str(self.accumulator)
        data["roundings"] = list(self.roundings)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ArrayConfig:
        """Build from plain data; raise on a key that is no parameter, naming the nearest."""
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                raise unknown_name("array parameter", key, known)
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**arguments)

    def replace(self, **changes: Any) -> ArrayConfig:
        """A copy with some parameters changed."""
        return replace(self, **changes)
