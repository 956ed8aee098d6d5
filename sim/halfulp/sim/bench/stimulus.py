"""Random GEMMs, and their operands and results in the memory of a core. No simulator needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfulp.hw.block_memory import with_scales
from halfulp.hw.config import ArrayConfig
from halfulp.numerics.block_formats import E8M0_BIAS, BlockFormat, Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec, BlockGemmSpec, gemm_spec, golden_block_gemm
from halfulp.numerics.exact import FINITE
from halfulp.numerics.formats import CodeArray, Format
from halfulp.numerics.gemm import SCALE_LIMIT, GemmResult, GemmSpec, golden_gemm
from halfulp.numerics.random_bits import MAX_OUTPUT_BITS
from halfulp.numerics.rounding import KINDS, Rounding

__all__ = ["GemmCase", "PlacedGemm", "build_case", "plain_case", "random_case"]

PAGE = 4096
"""Bursts end at its multiples; cases are placed anywhere in it."""


@dataclass(frozen=True, eq=False)
class GemmCase:
    """One GEMM and how it lies in memory.

    Attributes
    ----------
    spec, seed
        What is asked for.
    a, b
        Codes, [M, K] and [K, N]; of block-scaled formats `Blocks` of them.
    a_across_k, b_across_k
        Memory rows run across K: A lies as [K, M], B as [K, N]; else as [M, K] and [N, K].
    strides
        Bytes from a memory row to the next, of A, B and C.
    skews
        Bytes from a page's start to the first element, of A, B and C.
    """

    spec: AnyGemmSpec
    seed: int
    a: CodeArray | Blocks
    b: CodeArray | Blocks
    a_across_k: bool
    b_across_k: bool
    strides: tuple[int, int, int]
    skews: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """M, N, K."""
        a, b = self.codes
        return a.shape[0], b.shape[1], a.shape[1]

    @property
    def codes(self) -> tuple[CodeArray, CodeArray]:
        """The elements' codes, [M, K] and [K, N]."""
        a, b = (x.codes if isinstance(x, Blocks) else x for x in (self.a, self.b))
        return a, b

    @property
    def stored(self) -> tuple[CodeArray, CodeArray]:
        """What a core reads, along K with the scales of blocks among the codes."""
        if isinstance(self.a, Blocks) and isinstance(self.b, Blocks) and isinstance(self.spec, BlockGemmSpec):
            return with_scales(self.a, self.spec.a.block, axis=1), with_scales(self.b, self.spec.b.block, axis=0)
        return self.codes

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        m, n, k = self.shape
        return m * n * k

    def __str__(self) -> str:
        m, n, k = self.shape
        layouts = ["along K", "across K"]
        return (
            f"{m}×{n}×{k} (M×N×K), {self.spec}, A {layouts[self.a_across_k]}, B {layouts[self.b_across_k]}, "
            f"strides {self.strides}, skews {self.skews}, seed {self.seed:#x}"
        )

    def golden(self) -> GemmResult:
        """What every core must answer."""
        if isinstance(self.a, Blocks) and isinstance(self.b, Blocks) and isinstance(self.spec, BlockGemmSpec):
            return golden_block_gemm(self.a, self.b, self.spec, seed=self.seed)
        assert isinstance(self.spec, GemmSpec)
        return golden_gemm(*self.codes, self.spec, seed=self.seed)


class PlacedGemm:
    """A case in a core's memory.

    Parameters
    ----------
    case, config
        The GEMM and the core that runs it.
    memory
        A zone for this GEMM alone, [nbytes]; operands are written into it, the rest keeps its bytes.
    address
        Of the zone's first byte, a multiple of 4096.

    Attributes
    ----------
    addresses
        Of the first elements of A, B and C.
    """

    def __init__(self, case: GemmCase, config: ArrayConfig, memory: npt.NDArray[np.uint8], address: int) -> None:
        if address % PAGE:
            raise ValueError(f"a zone starts at a multiple of {PAGE}, not at {address:#x}")
        self.case = case
        self._config = config
        self._memory = memory
        stored_a, stored_b = case.stored
        stored_a = stored_a.T if case.a_across_k else stored_a
        stored_b = stored_b if case.b_across_k else stored_b.T
        out_bytes = case.spec.out.container_bytes
        elements = (config.a_bytes, config.b_bytes, out_bytes)
        m, n, _ = case.shape
        shapes = (stored_a.shape, stored_b.shape, (m, n))
        offsets, end = [], 0
        for shape, stride, skew in zip(shapes, case.strides, case.skews, strict=True):
            offsets.append(end + skew)
            end = -(-(offsets[-1] + shape[0] * stride) // PAGE) * PAGE
        if end > memory.size:
            raise ValueError(f"the zone has {memory.size} bytes, and this GEMM needs {end}")
        self.addresses = tuple(address + offset for offset in offsets)
        self._c_index = _element_bytes(offsets[2], case.strides[2], (m, n), out_bytes)
        for stored, offset, stride, size in zip(
            (stored_a, stored_b), offsets[:2], case.strides[:2], elements[:2], strict=True
        ):
            raw = np.ascontiguousarray(stored, f"<u{size}").view(np.uint8).reshape(*stored.shape, size)
            memory[_element_bytes(offset, stride, stored.shape, size)] = raw
        self._before = memory.copy()

    @staticmethod
    def zone_bytes(case: GemmCase, config: ArrayConfig) -> int:
        """Size of the zone that this case needs."""
        m, n, k = case.shape
        k = config.steps(k)
        rows = (k if case.a_across_k else m, k if case.b_across_k else n, m)
        return sum(
            -(-(skew + count * stride) // PAGE) * PAGE
            for skew, count, stride in zip(case.skews, rows, case.strides, strict=True)
        )

    def registers(self) -> dict[str, int]:
        """The descriptor: values by register name."""
        case, have = self.case, self._config
        spec, (m, n, k) = case.spec, case.shape
        values = {"m": m, "n": n, "k": have.steps(k), "scale": spec.scale & 0xFFFF_FFFF}
        for name, address, stride in zip("abc", self.addresses, case.strides, strict=True):
            values[f"{name}_address_low"] = address & 0xFFFF_FFFF
            values[f"{name}_address_high"] = address >> 32
            values[f"{name}_stride"] = stride
        values["row_offset"] = values["column_offset"] = 0
        values["layout"] = case.a_across_k | case.b_across_k << 1
        a_formats, b_formats = have.operands
        numbers = a_formats.index(spec.a), b_formats.index(spec.b), have.out_formats.index(spec.out)
        values["formats"] = numbers[0] | numbers[1] << 8 | numbers[2] << 16
        rounding = KINDS.index(spec.rounding.kind) | (spec.overflow == "ieee") << 4
        values["rounding"] = rounding | spec.rounding.random_bits << 8
        values["seed_low"], values["seed_high"] = case.seed & 0xFFFF_FFFF, case.seed >> 32
        return values

    def result(self) -> CodeArray:
        """Codes of C as they lie in memory now, [M, N]."""
        dtype = self.case.spec.out.code_dtype
        return self._memory[self._c_index].reshape(-1).view(dtype.newbyteorder("<")).reshape(self.case.shape[:2])

    def strayed(self) -> int | None:
        """Address of the first byte outside of C that has changed since the GEMM was placed."""
        changed = self._memory != self._before
        changed[self._c_index] = False
        if not changed.any():
            return None
        return self.addresses[2] - int(self._c_index[0, 0, 0]) + int(np.argmax(changed))


def random_case(
    rng: np.random.Generator, config: ArrayConfig, *, max_macs: int = 20_000, special: float = 0.3
) -> GemmCase:
    """Draw a GEMM that this core can run.

    Parameters
    ----------
    max_macs
        Upper bound on M·N·K; sizes lie around multiples of the array's and of the buffer's.
    special
        Chance that operands may be any code, NaN and Inf included.
    """
    m, n, k = _sizes(rng, config, max_macs)
    spec = gemm_spec(
        a=_one(rng, config.operands[0]),
        b=_one(rng, config.operands[1]),
        out=_one(rng, config.out_formats),
        accumulator=config.accumulator,
        rounding=_rounding(rng, config),
        scale=_scale(rng),
        overflow=_one(rng, ("saturate", "ieee")),
    )
    anything = bool(rng.random() < special)
    a_across_k, b_across_k = (bool(bit) for bit in rng.integers(0, 2, 2))
    sizes = (config.a_bytes, config.b_bytes, spec.out.container_bytes)
    depth = config.steps(k)
    row_elements = (m if a_across_k else depth, n if b_across_k else depth, n)
    strides = tuple(
        size * (count + int(_one(rng, (0, 0, 1, 3, 8, rng.integers(0, 100)))))
        for size, count in zip(sizes, row_elements, strict=True)
    )
    skews = tuple(size * int(_one(rng, (0, rng.integers(0, 16), rng.integers(0, PAGE // size)))) for size in sizes)
    return build_case(
        rng,
        spec=spec,
        shape=(m, n, k),
        across_k=(a_across_k, b_across_k),
        strides=(strides[0], strides[1], strides[2]),
        skews=(skews[0], skews[1], skews[2]),
        anything=anything,
    )


def build_case(
    rng: np.random.Generator,
    *,
    spec: AnyGemmSpec,
    shape: tuple[int, int, int],
    across_k: tuple[bool, bool],
    strides: tuple[int, int, int],
    skews: tuple[int, int, int],
    anything: bool,
) -> GemmCase:
    """A GEMM as it is given, of random seed and operands: any codes, or with `anything` False finite ones."""
    m, n, k = shape
    return GemmCase(
        spec=spec,
        seed=int(rng.integers(0, 1 << 64, dtype=np.uint64)),
        a=_operand(rng, spec.a, (m, k), 1, anything),
        b=_operand(rng, spec.b, (k, n), 0, anything),
        a_across_k=across_k[0],
        b_across_k=across_k[1],
        strides=strides,
        skews=skews,
    )


def plain_case(rng: np.random.Generator, config: ArrayConfig, m: int, n: int, k: int) -> GemmCase:
    """A GEMM of that size: finite numbers of the first formats, both operands packed and contiguous along K."""
    spec = gemm_spec(
        config.operands[0][0],
        config.operands[1][0],
        config.out_formats[0],
        accumulator=config.accumulator,
        rounding=Rounding(config.roundings[0], 8 if config.roundings[0].startswith("stochastic") else 0),
    )
    return GemmCase(
        spec=spec,
        seed=int(rng.integers(0, 1 << 64, dtype=np.uint64)),
        a=_operand(rng, spec.a, (m, k), 1, False),
        b=_operand(rng, spec.b, (k, n), 0, False),
        a_across_k=False,
        b_across_k=False,
        strides=(config.steps(k) * config.a_bytes, config.steps(k) * config.b_bytes, n * spec.out.container_bytes),
        skews=(0, 0, 0),
    )


def _element_bytes(offset: int, stride: int, shape: tuple[int, ...], size: int) -> npt.NDArray[np.intp]:
    """Index of each byte of each element, [rows, columns, size]."""
    rows, columns = np.arange(shape[0]) * stride, np.arange(shape[1]) * size
    return offset + rows[:, None, None] + columns[None, :, None] + np.arange(size)[None, None, :]


def _one(rng: np.random.Generator, choices: tuple):
    return choices[int(rng.integers(len(choices)))]


def _sizes(rng: np.random.Generator, config: ArrayConfig, max_macs: int) -> tuple[int, int, int]:
    # The K at which a panel no longer fits twice into the buffer, and is loaded in pieces instead.
    elements = config.buffer_depth * config.bus_bytes // max(config.a_bytes, config.b_bytes)
    while True:
        m, n = (
            max(1, int(_one(rng, (1, size, size - 1, size + 1, 2 * size, rng.integers(1, 3 * size + 2)))))
            for size in (config.rows, config.columns)
        )
        around = int(_one(rng, (elements // 2, elements, 2 * elements))) + int(rng.integers(-9, 10))
        k = int(_one(rng, (1, 2, 7, 8, 9, 64, rng.integers(1, 40), rng.integers(1, 300), around)))
        if 1 <= k and config.steps(k) <= config.max_k and m * n * k <= max_macs:
            return m, n, k


def _rounding(rng: np.random.Generator, config: ArrayConfig) -> Rounding:
    kind = _one(rng, config.roundings)
    stochastic = kind.startswith("stochastic")
    return Rounding(kind, int(rng.integers(1, MAX_OUTPUT_BITS + 1)) if stochastic else 0)


def _scale(rng: np.random.Generator) -> int:
    if rng.random() < 0.05:
        return int(_one(rng, (-SCALE_LIMIT, SCALE_LIMIT)))
    return int(_one(rng, (0, rng.integers(-12, 13), rng.integers(-40, 41))))


def _operand(
    rng: np.random.Generator, fmt: Format | BlockFormat, shape: tuple[int, int], axis: int, anything: bool
) -> CodeArray | Blocks:
    """Codes, or blocks of them along `axis`: scales near each other, or any finite ones, or any at all."""
    if isinstance(fmt, Format):
        return _codes(rng, fmt, shape, anything)
    codes = _codes(rng, fmt.element, shape, anything)
    counted = list(shape)
    counted[axis] = fmt.block_count(shape[axis])
    low, high = (fmt.nan_scale // 4, fmt.nan_scale // 2) if fmt.scale == "e4m3" else (E8M0_BIAS - 6, E8M0_BIAS + 6)
    if anything or rng.random() < 0.3:
        low, high = 0, fmt.nan_scale + anything
    return Blocks(codes, rng.integers(low, high, counted).astype(np.uint8))


def _codes(rng: np.random.Generator, fmt: Format, shape: tuple[int, int], anything: bool) -> CodeArray:
    """Random codes: any, or finite ones, or values near each other whose sums cancel."""
    every = fmt.valid_codes if fmt.bits <= 16 else rng.integers(0, 1 << fmt.bits, 4096).astype(fmt.code_dtype)
    if not anything:
        every = every[fmt.decode(every).kind == FINITE]
        if rng.random() < 0.5:
            values = np.abs(fmt.to_float64(every))
            every = every[values <= np.sort(values)[max(2, len(every) // int(rng.integers(1, 8))) - 1]]
    codes = rng.choice(every, shape)
    if rng.random() < 0.2:
        codes[rng.random(shape) < 0.7] = 0
    return codes
