"""Which core a GEMM needs, where the array's shape alone is given: few cores that serve many GEMMs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from halfulp.hw.config import ArrayConfig, UnsupportedSpecError
from halfulp.numerics.accumulators import MAX_ACCUMULATOR_BITS, ExactAccumulator
from halfulp.numerics.block_gemm import AnyGemmSpec, BlockGemmSpec
from halfulp.numerics.formats import Format, get_format
from halfulp.numerics.gemm import GemmSpec

__all__ = ["CoreFamily", "Requirement"]

Requirement = AnyGemmSpec | tuple[AnyGemmSpec, int | None]
"""A GEMM that will be asked for, with its K where it is known."""

ACCUMULATOR_BITS = (63, 96, MAX_ACCUMULATOR_BITS)
"""Widths to stay within, the first that holds K: a simulator adds 63 bits and a carry in one word of its machine."""

LARGEST_DEFAULT_K = 1 << 16
"""A larger max_k is built only for a GEMM that needs it."""

INTEGERS = (get_format("int8"), get_format("int4"))
FP8 = (get_format("float8_e4m3fn"), get_format("float8_e5m2"))
OUTPUTS = tuple(map(get_format, ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int8", "int32")))
MOST_OUTPUTS = 8


class CoreFamily:
    """All cores of one array shape.

    int8 and int4 share one core; so do e4m3 and e5m2 for A with e4m3 for B, unless B needs e5m2 too, whose
    accumulators are wider; and so do blocks of them. Any other pair of formats has a core of its own, and so has each
    accumulator that is not exact. Each can round to all common outputs, in all modes.

    Parameters
    ----------
    rows, columns
        R and C.
    requirements
        GEMMs that will be asked for: cores are chosen so that they serve all of them.

    Attributes
    ----------
    configs
        The cores chosen so far.
    """

    def __init__(self, rows: int, columns: int, requirements: Iterable[Requirement] = ()) -> None:
        ArrayConfig(rows=rows, columns=columns, lanes=_lanes(columns))  # raises where there is no such array
        self.rows, self.columns = rows, columns
        self.configs: list[ArrayConfig] = []
        groups: dict[object, list[tuple[AnyGemmSpec, int]]] = {}
        for each in requirements:
            spec, k = each if isinstance(each, tuple) else (each, None)
            limit = spec.accumulator.max_k if isinstance(spec.accumulator, ExactAccumulator) else None
            groups.setdefault(_group(spec), []).append((spec, k or limit or 1))
        for members in groups.values():
            self.configs.append(self._configure([spec for spec, _ in members], max(k for _, k in members)))

    def config_for(self, spec: AnyGemmSpec, k: int | None = None) -> ArrayConfig:
        """The core that runs `spec` with that K: one of `configs`, or else one that is added to them.

        Raises `UnsupportedSpecError` where no core can.
        """
        for config in self.configs:
            if _can_run(config, spec, k):
                return config
        config = self._configure([spec], k or 1)
        config.check_spec(spec, k)
        self.configs.append(config)
        return config

    def _configure(self, specs: Sequence[AnyGemmSpec], k: int) -> ArrayConfig:
        """One core for all of these specs, which are of one group."""
        a, b = _operands([_elements(spec) for spec in specs])
        asked = list(dict.fromkeys(spec.out for spec in specs))
        if len(asked) > MOST_OUTPUTS:
            raise UnsupportedSpecError(f"a core rounds to at most {MOST_OUTPUTS} formats, not {len(asked)}")
        outputs = asked + [fmt for fmt in OUTPUTS if fmt not in asked][: MOST_OUTPUTS - len(asked)]
        # In one order, so that one core is one configuration, whatever was asked for first.
        outputs.sort(key=lambda fmt: (OUTPUTS.index(fmt) if fmt in OUTPUTS else len(OUTPUTS), fmt.name))
        accumulator = specs[0].accumulator
        if isinstance(accumulator, ExactAccumulator):
            accumulator = ExactAccumulator(_max_k(a, b, k))
        try:
            return ArrayConfig(
                rows=self.rows,
                columns=self.columns,
                a_formats=a,
                b_formats=b,
                out_formats=outputs,
                accumulator=accumulator,
                lanes=_lanes(self.columns),
                **_blocks(specs[0]),
            )
        except ValueError as error:  # shapes are checked: what cannot be built is the arithmetic
            raise UnsupportedSpecError(str(error)) from None


def _can_run(config: ArrayConfig, spec: AnyGemmSpec, k: int | None) -> bool:
    try:
        config.check_spec(spec, k)
    except UnsupportedSpecError:
        return False
    return True


def _elements(spec: AnyGemmSpec) -> GemmSpec:
    return spec.elements if isinstance(spec, BlockGemmSpec) else spec


def _blocks(spec: AnyGemmSpec) -> dict[str, Any]:
    """Of a core's parameters those of block-scaled operands."""
    if not isinstance(spec, BlockGemmSpec):
        return {}
    if spec.a.scale != spec.b.scale:
        raise UnsupportedSpecError(
            f"the scales of a core's blocks are of one kind, not {spec.a.scale} and {spec.b.scale} as of "
            f"{spec.a} × {spec.b}"
        )
    return {"block": spec.a.block, "block_scale": spec.a.scale}


def _group(spec: AnyGemmSpec) -> object:
    """Specs of one group share a core: of one accumulator, of one family of operands, and of one kind of blocks."""
    accumulator = "exact" if isinstance(spec.accumulator, ExactAccumulator) else spec.accumulator
    return accumulator, _family(_elements(spec)), tuple(_blocks(spec).items())


def _family(spec: GemmSpec) -> tuple[Format, ...]:
    for family in (INTEGERS, FP8):
        if spec.a in family and spec.b in family:
            return family
    return spec.a, spec.b


def _operands(specs: Sequence[GemmSpec]) -> tuple[tuple[Format, ...], tuple[Format, ...]]:
    family = _family(specs[0])
    if family == INTEGERS:
        return INTEGERS, INTEGERS
    if family == FP8:
        return FP8, FP8 if any(spec.b == FP8[1] for spec in specs) else FP8[:1]
    return (specs[0].a,), (specs[0].b,)


def _max_k(a: Sequence[Format], b: Sequence[Format], k: int) -> int:
    """The largest useful power of two that is at least `k` and keeps the accumulator narrow."""

    def bits(max_k: int) -> int:
        return max(ExactAccumulator.width(x, y, max_k) for x in a for y in b)

    needed = 1 << (k - 1).bit_length()
    for limit in ACCUMULATOR_BITS:
        largest = max(LARGEST_DEFAULT_K, needed)
        while largest >= needed and bits(largest) > limit:
            largest //= 2
        if largest >= needed:
            return largest
    raise UnsupportedSpecError(
        f"an exact accumulator of {', '.join(f.name for f in a)} × {', '.join(f.name for f in b)} for K = {k} needs "
        f"{bits(needed)} bits; cores have at most {MAX_ACCUMULATOR_BITS}"
    )


def _lanes(columns: int) -> int:
    """Two lanes fill a 64-bit bus with float32 results; more of them would slow the simulation of every clock."""
    return 2 if columns % 2 == 0 else 1
