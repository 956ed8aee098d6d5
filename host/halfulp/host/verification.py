"""`ResultVerifier`: checks a device's results while it works."""

from __future__ import annotations

import numpy as np

from halfulp.host.errors import VerificationError
from halfulp.numerics.accumulators import ExactAccumulator
from halfulp.numerics.block_gemm import AnyGemmSpec, BlockGemmSpec
from halfulp.numerics.formats import CodeArray, FloatFormat, Format, IntFormat
from halfulp.numerics.gemm import GemmResult, GemmSpec, exact_gemm, round_output

__all__ = ["ResultVerifier"]

DEFAULT_TILE = (8, 8)


class ResultVerifier:
    """Verifies results in two ways.

    A share of the output tiles, drawn anew for each GEMM, is computed once more by the golden model. Besides,
    the sums of C's rows and columns are compared with those that the operands give, C·1 = A·(B·1) and
    1ᵀ·C = (1ᵀ·A)·B, at the cost of a few matrix-vector products (algorithm-based fault tolerance: Huang and
    Abraham, IEEE Trans. Computers C-33(6), 1984). Sums say something only about results that were not rounded,
    so this is done where no output can have been: an integer or float output that holds every sum these
    operands can give.

    Parameters
    ----------
    rate
        Share of the tiles, above 0 and at most 1; at least one tile of each GEMM is taken.

    Attributes
    ----------
    tiles, checksums
        How many tiles, and how many GEMMs by their sums, have been verified.
    """

    def __init__(self, rate: float) -> None:
        if isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise TypeError(f"verify must be a number, not {rate!r}")
        if not 0 < rate <= 1:
            raise ValueError(f"verify must be a share of the tiles, from 0 to 1, not {rate!r}")
        self.rate = rate
        self.tiles = self.checksums = 0
        self._random = np.random.default_rng(0)

    def check(self, spec: AnyGemmSpec) -> None:
        """Raise where results of `spec` cannot be verified: a tile's sums must not depend on its place in C."""
        if isinstance(spec, BlockGemmSpec):
            raise ValueError(f"results of block-scaled operands cannot be verified: {spec}")
        if not isinstance(spec.accumulator, ExactAccumulator):
            raise ValueError(f"only results of exact accumulators can be verified, not of {spec.accumulator}")

    def verify(
        self,
        a: CodeArray,
        b: CodeArray,
        result: GemmResult,
        spec: GemmSpec,
        *,
        seed: int,
        tile: tuple[int, int] | None = None,
        device: str = "the device",
    ) -> None:
        """Raise `VerificationError` that names the first tile found wrong; A [M, K], B [K, N], C [M, N] are codes."""
        rows, columns = tile or DEFAULT_TILE
        m, n = result.codes.shape
        places = [(i, j) for i in range(0, m, rows) for j in range(0, n, columns)]
        count = max(1, round(self.rate * len(places)))
        for index in self._random.choice(len(places), count, replace=False):
            i, j = places[index]
            sums = exact_gemm(spec.a.decode(a[i : i + rows]), spec.b.decode(b[:, j : j + columns]))
            golden = round_output(sums, spec, seed=seed, row_offset=i, column_offset=j)
            given = result.codes[i : i + rows, j : j + columns]
            if not np.array_equal(given, golden.codes):
                _report_tile(given, golden.codes, i, j, device, spec.out)
            self.tiles += 1
        if count < len(places):
            self._verify_sums(a, b, result.codes, spec, (rows, columns), device)

    def _verify_sums(
        self, a: CodeArray, b: CodeArray, c: CodeArray, spec: GemmSpec, tile: tuple[int, int], device: str
    ) -> None:
        # In units of the operands' least products all numbers here are integers, and float64 adds them exactly in
        # any order as long as no sum needs more than 53 bits.
        units_a = np.ldexp(spec.a.to_float64(a), -spec.a.lsb_exponent)
        units_b = np.ldexp(spec.b.to_float64(b), -spec.b.lsb_exponent)
        bound = np.abs(units_a).sum(axis=1).max() * np.abs(units_b).max()
        if not bound * max(c.shape) < 1 << 53:  # so is NaN
            return
        lsb = spec.a.lsb_exponent + spec.b.lsb_exponent + spec.scale
        if not _holds(spec.out, int(bound), lsb):
            return
        self.checksums += 1
        units_c = np.ldexp(spec.out.to_float64(c), -lsb)
        is_odd = (units_c != np.rint(units_c)) | ~(np.abs(units_c) <= bound)
        units_c[is_odd] = 0
        wrong_rows = (units_c.sum(axis=1) != units_a @ units_b.sum(axis=1)) | is_odd.any(axis=1)
        wrong_columns = (units_c.sum(axis=0) != units_a.sum(axis=0) @ units_b) | is_odd.any(axis=0)
        if wrong_rows.any() or wrong_columns.any():
            # One wrong result shows in its row and in its column; several may cancel in one of the two.
            i = int(wrong_rows.argmax()) // tile[0] * tile[0]
            j = int(wrong_columns.argmax()) // tile[1] * tile[1]
            rows, columns = (i, min(i + tile[0], c.shape[0])), (j, min(j + tile[1], c.shape[1]))
            where = f"C[{rows[0]}:{rows[1]}, {columns[0]}:{columns[1]}]"
            raise VerificationError(f"{device}: {where} is wrong: the sums of its rows or columns are", rows, columns)


def _report_tile(given: CodeArray, golden: CodeArray, row: int, column: int, device: str, out: Format) -> None:
    i, j = (int(x[0]) for x in np.nonzero(given != golden))
    rows, columns = (row, row + given.shape[0]), (column, column + given.shape[1])
    raise VerificationError(
        f"{device}: C[{rows[0]}:{rows[1]}, {columns[0]}:{columns[1]}] differs from the golden model: "
        f"C[{row + i}, {column + j}] is {out} code {given[i, j]:#x}, not {golden[i, j]:#x}",
        rows,
        columns,
    )


def _holds(out: Format, bound: int, lsb: int) -> bool:
    """Whether `out` holds every multiple of 2**lsb up to bound * 2**lsb exactly."""
    if isinstance(out, IntFormat):
        return out.signed and lsb >= 0 and bound << min(lsb, 64) <= out.largest
    if isinstance(out, FloatFormat) and out.subnormals:
        fits = bound.bit_length() <= out.significand_bits and lsb >= out.lsb_exponent
        return fits and bound << min(lsb - out.lsb_exponent, 512) <= out.max_units
    return False
